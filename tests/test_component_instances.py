"""A component's instance that lives on keeps its state, its limits and its grants."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from component_texts import ALLOCATOR, OPTIONS

from wasm_sandbox import (
    Capabilities,
    DeadlineExceeded,
    Filesystem,
    Instance,
    Limits,
    MissingExport,
    Module,
    OutputLimitExceeded,
    Pool,
    Resource,
    SignatureMismatch,
    Trap,
    WorkerLost,
)

pytestmark = pytest.mark.usefixtures("patience")

COUNTER = f"""
(component
  (core module $m {ALLOCATOR}
    (global $n (mut i32) (i32.const 0))
    (func (export "add") (param i32) (result i32)
      (global.set $n (i32.add (global.get $n) (local.get 0)))
      (global.get $n))
    (func (export "fail") (global.set $n (i32.const 1000)) unreachable)
    (func (export "spin") (loop $l (br $l)))
    (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
    (func (export "same") (param i32 i32) (result i32)
      (i32.store (i32.const 16) (local.get 0)) (i32.store (i32.const 20) (local.get 1))
      (i32.const 16)))
  (core instance $i (instantiate $m))
  (func $add (param "n" u32) (result u32) (canon lift (core func $i "add")))
  (instance $counter (export "add" (func $add)))
  (export "docs:counter/api@1.0.0" (instance $counter))
  (func (export "fail") (canon lift (core func $i "fail")))
  (func (export "spin") (canon lift (core func $i "spin")))
  (func (export "grow") (param "pages" u32) (result s32) (canon lift (core func $i "grow")))
  (func (export "same") (param "a" (list u8)) (result (list u8))
    (canon lift (core func $i "same") {OPTIONS})))
"""
ADD = "docs:counter/api#add"


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(1) as pool:
        yield pool


@pytest.fixture(scope="module")
def counter(pool: Pool) -> Module:
    return pool.load(COUNTER.encode())


@pytest.fixture
def instance(pool: Pool, counter: Module) -> Iterator[Instance]:
    with pool.instance(counter) as instance:
        yield instance


def test_state_lives_on_from_call_to_call(pool: Pool, counter: Module, instance: Instance) -> None:
    assert [instance.call(ADD, 5), instance.call(ADD, 6)] == [5, 11]
    with pool.instance(counter) as other:
        assert other.call(ADD, 1) == 1
    assert counter[ADD](1) == 1
    assert instance.call(ADD, 1) == 12


def test_a_failed_call_leaves_the_instance_as_it_is(instance: Instance) -> None:
    with pytest.raises(Trap) as caught:
        instance.call("fail")
    assert caught.value.code == "unreachable"
    assert instance.call(ADD, 1) == 1001
    with pytest.raises(DeadlineExceeded):
        instance.call("spin", timeout=0.2)
    with pytest.raises(SignatureMismatch, match="argument 1 must be u32"):
        instance.call(ADD, -1)
    with pytest.raises(MissingExport):
        instance.call("nothing")
    assert instance.call(ADD, 1) == 1002


def test_limits_hold_over_all_calls(pool: Pool, counter: Module) -> None:
    limits = Limits(memory=100 * 65536, output=100_000)
    with pool.instance(counter, limits=limits) as instance:
        assert [instance.call("grow", 50), instance.call("grow", 50)] == [1, -1]
        assert instance.call("same", bytes(50_000)) == bytes(50_000)
        with pytest.raises(OutputLimitExceeded):
            instance.call("same", bytes(200_000))
        assert instance.call(ADD, 1) == 1
        assert instance.usage().memory_used >= 51 * 65536


def test_a_restart_begins_anew(pool: Pool, counter: Module) -> None:
    with pool.instance(counter, restart="permanent") as instance:
        assert instance.call(ADD, 5) == 5
        with pytest.raises(DeadlineExceeded):
            instance.call("spin", timeout=0.2)
        assert instance.call(ADD, 1) == 6
        pid = instance.usage().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        found = 0
        while not instance.usage().restarts:
            with contextlib.suppress(WorkerLost):
                found = instance.call(ADD, 1)
        assert found < 6
        assert instance.call(ADD, 1) == found + 1


def test_grants_are_those_of_the_instance(pool: Pool, counter: Module, tmp_path: Path) -> None:
    files = Capabilities(filesystem=Filesystem.read_only(tmp_path))
    with pool.instance(counter, capabilities=files) as instance:
        assert instance.call(ADD, 1) == 1


ACCOUNTS = """
(component
  (core module $dropped
    (global $n (mut i32) (i32.const 0))
    (func (export "drop") (param i32)
      (global.set $n (i32.add (global.get $n) (local.get 0))))
    (func (export "dropped") (result i32) (global.get $n)))
  (core instance $d (instantiate $dropped))
  (type $r (resource (rep i32) (dtor (core func $d "drop"))))
  (core func $new (canon resource.new $r))
  (core func $rep (canon resource.rep $r))
  (core module $m
    (import "" "new" (func $new (param i32) (result i32)))
    (import "" "rep" (func $rep (param i32) (result i32)))
    (func (export "make") (param i32) (result i32) (call $new (local.get 0)))
    (func (export "get") (param i32) (result i32) (local.get 0))
    (func (export "add") (param i32 i32) (result i32)
      (i32.add (local.get 0) (local.get 1)))
    (func (export "close") (param i32) (result i32) (call $rep (local.get 0))))
  (core instance $i (instantiate $m
    (with "" (instance (export "new" (func $new)) (export "rep" (func $rep))))))
  (func $make (param "value" u32) (result (own $r)) (canon lift (core func $i "make")))
  (func $get (param "self" (borrow $r)) (result u32) (canon lift (core func $i "get")))
  (func $add (param "a" (borrow $r)) (param "b" (borrow $r)) (result u32)
    (canon lift (core func $i "add")))
  (func $close (param "it" (own $r)) (result u32) (canon lift (core func $i "close")))
  (component $interface
    (import "account" (type $r (sub resource)))
    (import "make" (func $make (param "value" u32) (result (own $r))))
    (import "get" (func $get (param "self" (borrow $r)) (result u32)))
    (import "add" (func $add (param "a" (borrow $r)) (param "b" (borrow $r)) (result u32)))
    (import "close" (func $close (param "it" (own $r)) (result u32)))
    (export $account "account" (type $r))
    (export "[constructor]account" (func $make)
      (func (param "value" u32) (result (own $account))))
    (export "[method]account.get" (func $get)
      (func (param "self" (borrow $account)) (result u32)))
    (export "add" (func $add)
      (func (param "a" (borrow $account)) (param "b" (borrow $account)) (result u32)))
    (export "close" (func $close) (func (param "it" (own $account)) (result u32))))
  (instance $bank (instantiate $interface
    (with "account" (type $r)) (with "make" (func $make)) (with "get" (func $get))
    (with "add" (func $add)) (with "close" (func $close))))
  (export "docs:bank/api@1.0.0" (instance $bank))
  (func (export "dropped") (result u32) (canon lift (core func $d "dropped"))))
"""
MAKE, GET, SUM, CLOSE, DROP = (
    f"docs:bank/api#{name}"
    for name in (
        "[constructor]account",
        "[method]account.get",
        "add",
        "close",
        "[resource-drop]account",
    )
)


@pytest.fixture(scope="module")
def bank(pool: Pool) -> Module:
    return pool.load(ACCOUNTS.encode())


def test_resources_live_as_long_as_the_instance(pool: Pool, bank: Module) -> None:
    with pool.instance(bank) as instance:
        one, two = instance.call(MAKE, 40), instance.call(MAKE, 2)
        assert isinstance(one, Resource)
        assert one.type == "account"
        assert [instance.call(GET, one), instance.call(SUM, one, two)] == [40, 42]
        assert instance.call(CLOSE, two) == 2
        assert instance.call("dropped") == 0
        assert instance.call(DROP, one) is None
        assert instance.call("dropped") == 40
        for gone in (one, two):
            for name in (GET, CLOSE, DROP):
                with pytest.raises(SignatureMismatch, match="no longer there"):
                    instance.call(name, gone)
        assert instance.call(GET, instance.call(MAKE, 7)) == 7


def test_a_resource_of_another_instance_is_none(pool: Pool, bank: Module) -> None:
    with pool.instance(bank) as instance, pool.instance(bank) as other:
        account = instance.call(MAKE, 1)
        other.call(MAKE, 1)
        with pytest.raises(SignatureMismatch, match="no longer there"):
            other.call(GET, account)
        for wrong in (1, None, "account"):
            with pytest.raises(SignatureMismatch, match="must be a resource account"):
                instance.call(GET, wrong)
        assert instance.call(GET, account) == 1


def test_a_fresh_instance_has_no_resources_to_give(bank: Module) -> None:
    for name in (MAKE, GET, CLOSE):
        with pytest.raises(SignatureMismatch, match=r"pool\.instance keeps one"):
            bank[name]
    with pytest.raises(MissingExport):
        bank[DROP]
