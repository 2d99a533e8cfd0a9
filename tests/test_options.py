"""What a pool, a function and a source may be, and what is refused by name."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from fakes import SOURCE, FakeCore

from wasm_sandbox import (
    CompletedRun,
    ConfigurationError,
    GuestExit,
    InvalidModule,
    Limits,
    MissingExport,
    Module,
    Pool,
    SandboxError,
    SignatureMismatch,
)

pytest_plugins = ("fake_pools",)
pytestmark = pytest.mark.usefixtures("cores")


# -- modules and commands -------------------------------------------------------------------------


def test_a_module_lists_its_functions(module: Module) -> None:
    assert "add" in module
    assert "memory" not in module
    assert len(module) == len(list(module)) == 8
    assert str(module.exports["add"]) == "(i32, i32) -> (i32)"
    assert len(module.sha256) == 64
    assert module["add"] is module["add"]
    with pytest.raises(MissingExport, match="did you mean add"):
        module["ad"]
    with pytest.raises(MissingExport, match="memory is a memory"):
        module["memory"]
    with pytest.raises(KeyError):
        module["nothing like it"]
    with pytest.raises(SignatureMismatch, match="references"):
        module["is_null"]


def test_a_command_is_run_like_a_program(pool: Pool, module: Module) -> None:
    done = pool.run(module, "a", Path("b"), b"c", stdin=b"in", argv0="me")
    assert isinstance(done, CompletedRun)
    assert (done.exit_code, done.stdout, done.stderr) == (3, b"me|a|b|c", b"in")
    assert pool.submit(module.main.options(argv0="x"), "a").result().stdout == b"x|a"
    with pytest.raises(GuestExit) as refusal:
        pool.run(module, "a", check=True)
    assert refusal.value.code == 1
    assert refusal.value.receipt is not None
    for wrong in (1, "a\0b", "\ud800\0"):
        with pytest.raises(SignatureMismatch):
            pool.run(module, wrong)  # type: ignore[arg-type]


def test_output_comes_as_it_is_written(pool: Pool, module: Module) -> None:
    pieces: list[tuple[int, bytes]] = []
    pool.run(module, stdin=b"in", on_output=lambda *piece: pieces.append(piece))
    assert pieces == [(1, b"module"), (2, b"in")]


def test_what_an_output_function_raises_is_the_calls_error(pool: Pool, module: Module) -> None:
    def full(_: int, __: bytes) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        pool.run(module, on_output=full)


def test_what_is_wrong_with_a_file_begins_with_its_name(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "nothing.wasm").touch()
    with pytest.raises(InvalidModule, match=r"^nothing\.wasm: the module is empty$"):
        pool.load(tmp_path / "nothing.wasm")
    with pytest.raises(InvalidModule, match=r"^the module is empty$"):
        pool.load(b"")


@pytest.mark.parametrize(
    ("name", "options"), [("_start", {}), ("echo", {"returns": str}), ("echo", {"returns": "json"})]
)
def test_only_calls_that_can_travel_together_may_share_an_instance(
    module: Module, name: str, options: Any
) -> None:
    assert module["add"].options(instance="per-batch").settings.instance == "per-batch"
    assert module["add"].options(instance="per-batch").options(instance=None) is not None
    with pytest.raises(ConfigurationError, match="numbers") as refusal:
        module[name].options(instance="per-batch", **options)
    assert refusal.value.field == "options.instance"
    with pytest.raises(ConfigurationError, match="numbers"):
        module[name].options(**options).options(instance="per-batch")


# -- options --------------------------------------------------------------------------------------


WRONG_OPTIONS: list[dict[str, Any]] = [
    {"timeout": -1},
    {"timeout": 0},
    {"timeout": float("nan")},
    {"timeout": float("inf")},
    {"timeout": True},
    {"timeout": "1"},
    {"fuel": -1},
    {"fuel": 1.5},
    {"limits": {"memory": 1}},
    {"capabilities": None},
    {"tenant": ""},
    {"tenant": 7},
    {"retries": -1},
    {"retries": True},
    {"returns": int},
    {"returns": "yaml"},
    {"instance": object()},
    {"stdin": b""},
    {"env": {}},
    {"argv0": "x"},
    {"on_output": print},
    {"timeuot": 1},
]


@pytest.mark.parametrize("options", WRONG_OPTIONS, ids=str)
def test_an_option_that_cannot_be_used_is_refused_by_name(
    module: Module, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        module["add"].options(**options)
    assert refusal.value.field == f"options.{next(iter(options))}"


WRONG_FOR_COMMANDS: list[dict[str, Any]] = [
    {"stdin": "text"},
    {"stdin": True},
    {"stdin": -1},
    {"stdin": 1 << 20},
    {"env": []},
    {"env": {"A=B": "c"}},
    {"env": {"A": 1}},
    {"env": {"A": "\0"}},
    {"argv0": "\0"},
    {"on_output": 3},
]


@pytest.mark.parametrize("options", WRONG_FOR_COMMANDS, ids=str)
def test_a_commands_option_that_cannot_be_used_is_refused(
    module: Module, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError, match=r"options\."):
        module.main.options(**options)


def test_options_add_up(pool: Pool, module: Module, cores: list[FakeCore]) -> None:
    add = module["add"]
    changed = add.options(limits=Limits(memory=1 << 20), timeout=5).options(fuel=100, retries=2)
    assert changed(1, 2) == 3
    request = cores[0].submitted[-1]
    assert request.limits == Limits(memory=1 << 20, fuel=100)
    assert (request.timeout, request.retries) == (5, 2)
    assert request.profile.metered
    assert request.profile.memory == 1 << 20
    assert changed.options(fuel=None, timeout=None).settings.limits.fuel is None
    assert add.settings.timeout is None
    with pytest.raises(SignatureMismatch):
        add.options(returns=str)


def test_environment_is_granted_by_env_or_by_the_capability(
    pool: Pool, module: Module, cores: list[FakeCore], monkeypatch: pytest.MonkeyPatch
) -> None:
    from wasm_sandbox import Capabilities, Environment

    monkeypatch.setenv("GRANTED", "yes")
    granted = Capabilities(environment=Environment.allow("GRANTED"))
    cases: list[tuple[dict[str, Any], object]] = [
        ({}, ()),
        ({"env": {"A": "1"}}, ((b"A", b"1"),)),
        ({"capabilities": granted}, ((b"GRANTED", b"yes"),)),
        ({"capabilities": granted, "env": {"A": "1"}}, ((b"A", b"1"),)),
    ]
    for options, expected in cases:
        pool.run(module, **options)
        command = cores[0].submitted[-1].command
        assert command is not None
        assert command.env == expected


# -- loading --------------------------------------------------------------------------------------


def test_the_same_content_is_not_read_again(
    pool: Pool, cores: list[FakeCore], tmp_path: Path
) -> None:
    path = tmp_path / "a.wasm"
    path.write_bytes(SOURCE)
    os.utime(path, (1, 1))
    time.sleep(0.06)  # a file is known by its time stamps only when it was quiet for a moment
    first = pool.load(path)
    assert pool.load(str(path)) is first
    assert pool.load(SOURCE) is pool.load(SOURCE)
    assert cores[0].loads == 2
    path.write_bytes(SOURCE + b" ")
    assert pool.load(path) is not first
    assert pool.load(bytearray(SOURCE)).sha256 == first.sha256


@pytest.mark.parametrize("suffix", ["c", "cpp", "rs", "go", "py", "js", "zig"])
def test_source_code_is_refused_with_a_hint(pool: Pool, suffix: str) -> None:
    with pytest.raises(ConfigurationError, match="does not compile it"):
        pool.load(f"guest.{suffix}")


def test_what_cannot_be_read_is_refused_with_the_reason(pool: Pool, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wasm")
    for path, reason in (
        (tmp_path / "missing.wasm", "No such file"),
        (tmp_path, "directory"),
        (tmp_path / "pipe.wasm", "regular file"),
        ("a\0b", "null"),
        ("(module)", "text.encode"),
    ):
        with pytest.raises(ConfigurationError, match=reason):
            pool.load(path)
    with pytest.raises(ConfigurationError, match="path or bytes"):
        pool.load(3)  # type: ignore[arg-type]
    with pytest.raises(SandboxError, match="empty"):
        pool.load(b"")


def test_a_huge_module_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.wasm"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with Pool(1, limits=Limits(module_size=1000)) as pool:
        for source in (path, bytes(1001), bytearray(1001)):
            with pytest.raises(SandboxError, match="module_size") as refusal:
                pool.load(source)
            assert refusal.value.limit == "module_size"  # type: ignore[attr-defined]


WRONG_POOLS: list[dict[str, Any]] = [
    {"workers": 0},
    {"workers": True},
    {"workers": 1.5},
    {"runtime": "wasmer"},
    {"limits": 3},
    {"capabilities": {}},
    {"isolation": "lax"},
    {"restart": 1},
    {"recycle": 1},
    {"cache_dir": 1},
    {"on_event": 1},
    {"max_pending": 0},
    {"when_full": "drop"},
]


@pytest.mark.parametrize("keywords", WRONG_POOLS, ids=str)
def test_a_pool_refuses_what_it_cannot_use(keywords: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        Pool(**keywords)
    assert refusal.value.field == next(iter(keywords))
