"""The official suites, through the pool: a session's worker for the specification, runs for
WASI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from suites import (
    Loaded,
    Refused,
    Script,
    Trapped,
    WasiCase,
    load_script,
    suites_path,
    wasi_cases,
)

from wasm_sandbox import Capabilities, Filesystem, Limits, Pool
from wasm_sandbox.protocol import errors
from wasm_sandbox.supervisor.core import Core
from wasm_sandbox.supervisor.session import Session

T = TypeVar("T")
SUITES = suites_path()
SCRIPTS = sorted((SUITES / "spec").glob("*.json.gz")) if SUITES else []
WASI = list(wasi_cases(SUITES)) if SUITES else []
LIMITS = Limits(memory=16 << 30, table_elements=100_000_000, wall_time=60)

pytestmark = [
    pytest.mark.suite,
    pytest.mark.timeout(300),
    pytest.mark.skipif(SUITES is None, reason="the suites are not here; set WASM_SANDBOX_SUITES"),
]


class PoolHost:
    """A session of one worker, for scripts that need state."""

    def __init__(self, pool: Pool) -> None:
        self._run = pool._thread.run

        async def open_session(core: Core) -> Session:
            return await core.open_session(LIMITS, Capabilities.minimal())

        self._session = self._run(open_session)

    def load(self, data: bytes) -> Loaded:
        """Compile a module, in a process of its own."""
        try:
            handle = self._run(lambda core: core.load(data, LIMITS))
        except errors.InvalidModule as error:
            raise Refused("invalid_module", str(error)) from None
        except errors.UnsupportedModule as error:
            raise Refused("unsupported_module", str(error)) from None
        return Loaded(handle, handle.description)

    def instantiate(self, module: Loaded, bindings: Sequence[tuple[int, str]]) -> int:
        """A new instance in the session."""
        return self._guarded(lambda _: self._session.instantiate(module.handle, tuple(bindings)))

    def invoke(self, instance: int, export: str, slots: bytes) -> bytes:
        """Call an export."""
        return self._guarded(lambda _: self._session.invoke(instance, export, slots))

    def read_global(self, instance: int, export: str) -> bytes:
        """The slot of a global."""
        return self._guarded(lambda _: self._session.read_global(instance, export))

    def close(self) -> None:
        """End the worker."""
        self._run(lambda _: self._session.close())

    def _guarded(self, action: Callable[[Core], Awaitable[T]]) -> T:
        try:
            return self._run(action)
        except errors.Trap as trap:
            raise Trapped(trap.code, trap.message) from None
        except errors.MissingImport as error:
            raise Refused("unlinkable", str(error)) from None
        except errors.SandboxError as error:
            raise Refused(type(error).__name__, str(error)) from None


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    with Pool(workers=1, cache_dir=tmp_path_factory.mktemp("cache")) as pool:
        yield pool


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name.removesuffix(".json.gz"))
def test_the_specification_holds_through_the_pool(script: Path, pool: Pool) -> None:
    host = PoolHost(pool)
    try:
        commands = load_script(script)
        report = Script(host).run(commands, script.stem)
    finally:
        host.close()
    assert not report.failures, report.failures[:5]
    for refused in report.refused:
        assert "a reference value" in refused, refused
    judged = sum(command["type"].startswith("assert_") for command in commands)
    assert report.passed + len(report.refused) + report.absent >= judged


@pytest.mark.parametrize("case", WASI, ids=str)
def test_wasi_programs_behave_through_the_pool(case: WasiCase, pool: Pool, tmp_path: Path) -> None:
    root = case.copy_root(tmp_path)
    capabilities = Capabilities(
        filesystem=Filesystem.read_write(root, at="/") if root else Filesystem.none()
    )
    argv0, *argv = case.argv
    run = pool.run(
        pool.load(case.wasm),
        *argv,
        argv0=argv0.decode(),
        stdin=case.stdin,
        env={name.decode(): value.decode() for name, value in case.env},
        capabilities=capabilities,
    )
    assert run.exit_code == case.exit_code, run.stderr
    if case.stdout is not None:
        assert run.stdout == case.stdout


def test_the_suites_are_whole() -> None:
    """So that an empty directory does not pass."""
    assert len(SCRIPTS) >= 100
    assert len(WASI) >= 20
