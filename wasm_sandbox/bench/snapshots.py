"""Instances that begin with a snapshot, beside those that initialise themselves."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from ..instance import Instance
from ..module import Module
from ..pool import Pool
from ..protocol.limits import Limits
from .guests import COUNTER, PREPARED
from .measure import timed
from .model import OURS, Figure
from .pools import MIB, Subject, new_pool, with_pool
from .registry import Absent, Effort, Subjects, Turn, benchmark

RUBY = "WASM_SANDBOX_BENCH_RUBY"
"""The environment variable that names a ``ruby.wasm``: one of npm's ``@ruby/3.4-wasm-wasi``."""
_LIMITS = Limits(
    memory=192 * MIB,
    wall_time=60.0,
    cpu_time=60.0,
    compile_time=900.0,
    compile_memory=4096 * MIB,
    module_size=64 * MIB,
)


def _snapshot(pool: Pool, module: Module) -> Module:
    with pool.instance(module) as instance:
        return pool.load(instance.snapshot())


@benchmark(
    Figure(
        name="snapshot-call",
        title="a call in a fresh instance, after an initialisation of some 100 ms",
        unit="ms",
        note="`_initialize` runs before each call, or ran before the snapshot was made. The guest "
        "has 4 MiB of state.",
    )
)
def snapshot_call(effort: Effort) -> Subjects:
    """The same function of the same guest."""

    def of(made: Callable[[Pool], Module], export: str, count: int, *args: int) -> Subject:
        def turn_of(pool: Pool) -> Turn:
            function = made(pool)[export]
            function(*args)
            return lambda: timed(lambda: function(*args), count, scale=1e3)

        return with_pool(turn_of, 1)

    return {
        f"{OURS}, from a snapshot": of(
            lambda pool: _snapshot(pool, pool.load(PREPARED)), "at", effort.count(50, 2), 64
        ),
        f"{OURS}, initialised": of(lambda pool: pool.load(PREPARED), "at", effort.count(5), 64),
        f"{OURS}, nothing to initialise": of(
            lambda pool: pool.load(COUNTER), "increment", effort.count(50, 2)
        ),
    }


@benchmark(
    Figure(
        name="snapshot-instance",
        title="`pool.instance`, until its first call has returned",
        unit="ms",
        note="Most of it is the worker of its own, where there is nothing to initialise. Ruby is "
        f"measured where `${RUBY}` names the `ruby.wasm` of npm's `@ruby/3.4-wasm-wasi`: until it "
        "has evaluated `1 + 1`.",
    ),
    Figure(
        name="snapshot-made", title="`instance.snapshot()`, of 4 MiB or of Ruby's state", unit="ms"
    ),
    patience=1800.0,
)
def snapshot_instance(effort: Effort) -> Subjects:
    """The guest of ``snapshot-call``, and Ruby."""
    count = effort.count(10)

    @contextmanager
    def kept(
        load: Callable[[Pool, Any], Module],
        source: Callable[[], Any],
        start: Callable[[Instance], object],
        use: Callable[[Instance], object],
        *,
        caught: bool = False,
    ) -> Generator[Turn]:
        given = source()
        with new_pool(1, limits=_LIMITS) as pool, ExitStack() as stack:
            module, first = load(pool, given), start
            warm: Instance | None = None
            if caught:
                warm = stack.enter_context(pool.instance(module))
                start(warm)
                module, first = load(pool, warm.snapshot()), _nothing

            def begin() -> None:
                with pool.instance(module) as instance:
                    first(instance)
                    use(instance)

            def turn() -> dict[str, list[float]]:
                samples = {"snapshot-instance": timed(begin, count, scale=1e3)}
                if warm is not None:
                    samples["snapshot-made"] = timed(warm.snapshot, effort.count(3), scale=1e3)
                return samples

            begin()
            yield turn

    prepared = partial(kept, Pool.load, lambda: PREPARED, _nothing, lambda i: i.call("at", 64))
    ruby = partial(kept, _load_ruby, _ruby, _start_ruby, lambda i: _evaluate(i, b"1 + 1"))
    return {
        f"{OURS}, from a snapshot": prepared(caught=True),
        f"{OURS}, initialised": prepared(),
        f"{OURS}, nothing to initialise": kept(
            Pool.load, lambda: COUNTER, _nothing, lambda i: i.call("increment")
        ),
        f"{OURS}, Ruby from a snapshot": ruby(caught=True),
        f"{OURS}, Ruby initialised": ruby(),
    }


def _nothing(_: Instance) -> None:
    pass


def _ruby() -> str:
    path = os.environ.get(RUBY)
    if path is None:
        raise Absent(f"no Ruby is given: have ${RUBY} name a ruby.wasm")
    return path


def _load_ruby(pool: Pool, source: Any) -> Module:
    """With a host that has no JavaScript, and whose handles are the addresses that they are of."""
    imports: dict[str, dict[str, Callable[..., Any]]] = {}
    for needed in pool.load(source).imports:
        if needed.module != "wasi_snapshot_preview1":
            handle = needed.name.startswith(("resource_new_", "resource_get_"))
            imports.setdefault(needed.module, {})[needed.name] = _same if handle else _refuse
    return pool.load(source, imports=imports)


def _same(handle: int) -> int:
    return handle


def _refuse(*_: Any) -> Any:
    raise NotImplementedError("there is no JavaScript here")


def _start_ruby(instance: Instance) -> None:
    pairs = [struct.pack("<II", *_put(instance, text)) for text in (b"ruby\0", b"-e_=0\0")]
    _call(instance, "ruby-init", _put(instance, b"".join(pairs))[0], len(pairs))
    _call(instance, "ruby-init-loadpath")


def _evaluate(instance: Instance, code: bytes) -> None:
    result = _call(instance, "rb-eval-string-protect", *_put(instance, code + b"\0"))
    _, state = struct.unpack("<II", instance.memory(result, 8))
    if state:
        raise RuntimeError(f"Ruby raised something: {state}")


def _put(instance: Instance, data: bytes) -> tuple[int, int]:
    place = instance.call("cabi_realloc", 0, 0, 4, len(data))
    instance.write_memory(place, data)
    return place, len(data)


def _call(instance: Instance, name: str, *arguments: int) -> Any:
    (export,) = [each for each in instance.module.exports if each.partition(":")[0] == name]
    return instance.call(export, *arguments)
