"""Whatever is killed, whenever: calls end, pools go on or say why not, and nothing is left."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import guests
import pytest
from cores import wait_for_a_call
from leftovers import descendants, nothing_left

from wasm_sandbox import ConfigurationError, Limits, Pool, RestartPolicy, WorkerLost
from wasm_sandbox.protocol.errors import PoolError, SandboxError

ADD, LOOP = guests.add().encode(), guests.loop().encode()
PATIENCE = 60.0
"""Seconds after which something counts as forgotten."""
FORGIVING = RestartPolicy(intensity=1_000_000)
LARGE = Limits(memory=512 << 20, output=128 << 20)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(name="made")
def made_fixture() -> Iterator[set[int]]:
    """Pids of programs that a test started; neither it nor they may leave anything."""
    pids: set[int] = set()
    with nothing_left(pids=pids):
        yield pids


def until(condition: Callable[[], object]) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)


def named(name: str) -> list[int]:
    """Our processes whose name begins so."""
    return [pid for pid, called in descendants().items() if called.startswith(name)]


def kill(*pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# --- the zygote -----------------------------------------------------------------------------------


def test_a_killed_zygote_is_replaced(cache: Path, made: set[int]) -> None:
    with Pool(2, cache_dir=cache) as pool:
        add = pool.load(ADD)["add"]
        for _ in range(3):
            assert add(1, 2) == 3
            before = named("wasm-zygote")
            kill(*before)
            until(lambda: set(named("wasm-zygote")) - set(before))  # noqa: B023
            assert add(2, 2) == 4


def test_calls_of_a_killed_zygotes_workers_are_lost_and_others_are_made(
    cache: Path, made: set[int]
) -> None:
    with Pool(1, cache_dir=cache) as pool:
        add = pool.load(ADD)["add"]
        running = pool.submit(pool.load(LOOP)["spin"])
        wait_for_a_call(pool)
        waiting = pool.submit(add, 1, 2)
        kill(*named("wasm-zygote"))
        error = running.exception(PATIENCE)
        assert isinstance(error, WorkerLost)
        assert error.certificate.cause == "killed"
        assert waiting.result(PATIENCE) == 3


def test_a_frozen_zygote_does_not_keep_a_pool_from_ending(cache: Path, made: set[int]) -> None:
    pool = Pool(1, cache_dir=cache)
    with pool:
        pool.load(ADD)["add"](1, 2)
        for pid in named("wasm-zygote"):
            os.kill(pid, signal.SIGSTOP)


def test_a_frozen_zygote_does_not_keep_calls_waiting_for_ever(cache: Path, made: set[int]) -> None:
    with Pool(1, cache_dir=cache) as pool:
        add = pool.load(ADD)["add"]
        add(1, 2)
        (zygote,) = named("wasm-zygote")
        try:
            os.kill(zygote, signal.SIGSTOP)
            kill(*(worker.pid for worker in pool.workers()))
            with suppress(SandboxError):
                add.options(timeout=30.0)(1, 2)
        finally:
            with suppress(ProcessLookupError):
                os.kill(zygote, signal.SIGCONT)


# --- workers --------------------------------------------------------------------------------------


def test_workers_killed_while_they_start_are_replaced(cache: Path, made: set[int]) -> None:
    with Pool(2, cache_dir=cache, restart=FORGIVING) as pool:
        add = pool.load(ADD)["add"]
        killed = 0
        deadline = time.monotonic() + PATIENCE
        while killed < 10 and time.monotonic() < deadline:
            workers = pool.workers()
            starting = [w.pid for w in workers if w.pid and w.phase == "starting"]
            killed += len(starting)
            kill(*(starting or [worker.pid for worker in workers if worker.pid]))
        assert killed
        assert add(1, 2) == 3


@pytest.mark.parametrize("way", ["pulled", "pushed"])
def test_a_worker_killed_while_a_large_buffer_travels_loses_that_call_alone(
    cache: Path, made: set[int], way: str
) -> None:
    data = bytes(64 << 20)
    with Pool(1, cache_dir=cache, limits=LARGE) as pool:
        module = pool.load(guests.buffers().encode())
        call = module["length"] if way == "pulled" else module["echo"].options(returns=bytes)
        call(data)  # the first takes longer: kills timed by it would come too late
        start = time.monotonic()
        call(data)
        whole = time.monotonic() - start
        lost = 0
        for step in range(40):  # on a busy machine it can go faster than it went before
            if lost and step >= 8:
                break
            until(lambda: [each.phase for each in pool.workers()] == ["idle"])
            (worker,) = pool.workers()
            future = pool.submit(call, data)
            time.sleep(whole * (step % 8 + 0.5) / 10)
            kill(worker.pid)  # without asking anybody, which would take as long as the transfer
            error = future.exception(PATIENCE)
            assert error is None or isinstance(error, WorkerLost)
            lost += error is not None
        assert lost
        assert module["length"](b"123") == 3


# --- the compiler ---------------------------------------------------------------------------------


def large_module(size: int = 20_000) -> bytes:
    """A module that takes a while to compile."""
    body = "(i32.const 1)" + " (i32.const 3) i32.mul (local.get 0) i32.add" * 200
    functions = "".join(
        f'(func (export "f{n}") (param i32) (result i32) {body})' for n in range(size // 200)
    )
    return f"(module {functions})".encode()


@pytest.mark.parametrize("victim", ["wasm-compile", "wasm-zygote"])
def test_a_kill_while_a_module_is_compiled_is_an_error_and_no_more(
    tmp_path: Path, made: set[int], victim: str
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    module = large_module()
    with (
        Pool(1, cache_dir=tmp_path / "cache") as pool,
        ThreadPoolExecutor(1) as thread,
    ):
        loading = thread.submit(pool.load, module)
        until(lambda: named("wasm-compile") or loading.done())
        kill(*named(victim))
        assert isinstance(loading.exception(PATIENCE), WorkerLost | PoolError)
        assert pool.load(ADD)["add"](1, 2) == 3
        assert "f0" in pool.load(module).exports


# --- the program ----------------------------------------------------------------------------------

HEAD = """
import os, sys, signal, threading, time, warnings
sys.path[:0] = [{tests!r}, {root!r}]
import guests
from wasm_sandbox import Pool
CACHE = {cache!r}
def load(pool):
    return pool.load(guests.add().encode())["add"], pool.load(guests.loop().encode())["spin"]
"""


def source(cache: Path, text: str) -> str:
    tests = Path(__file__).parent
    head = HEAD.format(tests=str(tests), root=str(tests.parent), cache=str(cache))
    return head + textwrap.dedent(text)


def start(
    made: set[int], cache: Path, text: str, how: str = "-c", flags: str = "", **more: object
) -> subprocess.Popen[bytes]:
    """Run a program by ``-c``, from standard input (``-``), or as a file."""
    code = source(cache, text)
    if how == "-c":
        arguments = ["-c", code]
    elif how == "-":
        arguments = ["-"]
    else:
        Path(how).write_text(code)
        arguments = [how]
    running: subprocess.Popen[bytes] = subprocess.Popen(
        [sys.executable, "-W", "error", *flags.split(), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **more,  # type: ignore[call-overload]
    )
    made.add(running.pid)
    if how == "-":
        assert running.stdin is not None
        running.stdin.write(code.encode())
        running.stdin.close()
        running.stdin = None
    return running


def finish(running: subprocess.Popen[bytes]) -> tuple[bytes, bytes, int]:
    try:
        output, errors = running.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        running.kill()
        running.communicate()
        raise
    return output, errors, running.returncode


STATES = {
    "idle": "pool = Pool(2, cache_dir=CACHE); add, spin = load(pool); add(1, 2)",
    "busy": "pool = Pool(2, cache_dir=CACHE); add, spin = load(pool)\n"
    "calls = [pool.submit(spin) for _ in range(9)]",
    "starting": "threading.Thread(target=Pool, args=(8,), daemon=True).start()\ntime.sleep(0.3)",
    "opening": """
import trio, wasm_sandbox
async def opening():
    print(flush=True)
    async with wasm_sandbox.open_pool(8, cache_dir=CACHE):
        await trio.sleep_forever()
trio.run(opening)
""",
}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("state", STATES)
def test_a_program_that_is_ended_leaves_nothing(
    cache: Path, made: set[int], state: str, number: signal.Signals
) -> None:
    running = start(made, cache, STATES[state] + "\nprint(flush=True)\ntime.sleep(60)")
    assert running.stdout is not None
    running.stdout.readline()
    time.sleep(0.1)
    running.send_signal(number)
    _, errors, code = finish(running)
    assert code == -number, errors.decode()


def test_a_program_and_its_zygote_killed_together_leave_no_process(
    cache: Path, made: set[int]
) -> None:
    running = start(made, cache, STATES["busy"] + "\nprint(flush=True)\ntime.sleep(60)")
    assert running.stdout is not None
    running.stdout.readline()
    kill(*named("wasm-zygote"), running.pid)
    finish(running)
    until(lambda: not named("wasm-"))
    with Pool(1, cache_dir=cache):
        pass  # sweeps the empty groups that nobody was left to remove


WITHOUT_NAMESPACE = """
import functools
from wasm_sandbox.protocol.isolation import WALLS
from wasm_sandbox.supervisor import spawn
chosen = tuple(name for name in WALLS if name != "namespace.pid")
spawn.start_zygote = functools.partial(spawn.start_zygote, chosen=chosen)
"""


@pytest.mark.parametrize("before", ["", WITHOUT_NAMESPACE], ids=["all walls", "no pid namespace"])
@pytest.mark.parametrize("stopped", [("wasm-zygote",), ("wasm-",)], ids=["zygote", "all"])
@pytest.mark.parametrize("state", ["idle", "busy"])
def test_a_program_killed_while_its_zygote_is_stopped_leaves_nothing(
    cache: Path, made: set[int], state: str, stopped: tuple[str, ...], before: str
) -> None:
    """No process, and no cgroup: the zygote is resumed, not killed."""
    running = start(made, cache, before + STATES[state] + "\nprint(flush=True)\ntime.sleep(60)")
    assert running.stdout is not None
    running.stdout.readline()
    until(lambda: named("wasm-run"))
    for name in stopped:
        for pid in named(name):
            os.kill(pid, signal.SIGSTOP)
    kill(running.pid)
    finish(running)


@pytest.mark.parametrize("how", ["-c", "-", "script.py"])
def test_a_program_without_a_main_guard_does_not_run_twice(
    cache: Path, made: set[int], tmp_path: Path, how: str
) -> None:
    text = """
        print("once", flush=True)
        with Pool(2, cache_dir=CACHE) as pool:
            add, spin = load(pool)
            print(add(1, 2))
        """
    running = start(made, cache, text, str(tmp_path / how) if how.endswith(".py") else how)
    assert finish(running) == (b"once\n3\n", b"", 0)


@pytest.mark.parametrize("flags", ["-bb", "-I", "-E -s", "-P", "-OO", "-X dev"])
def test_a_pool_works_under_all_flags_of_the_interpreter(
    cache: Path, made: set[int], flags: str
) -> None:
    text = """
        with Pool(1, cache_dir=CACHE) as pool:
            add, spin = load(pool)
            print(add(1, 2))
        """
    assert finish(start(made, cache, text, flags=flags)) == (b"3\n", b"", 0)


@pytest.mark.parametrize(
    "habit",
    [
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    ],
)
def test_what_a_program_does_with_its_signals_is_its_own_business(
    cache: Path, made: set[int], habit: str
) -> None:
    text = f"""
        import wasm_sandbox
        {habit}
        with Pool(1, cache_dir=CACHE) as pool:
            add, spin = load(pool)
            print(add(1, 2))
            os.kill(pool.workers()[0].pid, signal.SIGKILL)
            print(add(2, 2))
            try:
                pool.load(guests.traps().encode())["memory_out_of_bounds"]()
            except wasm_sandbox.Trap as trap:
                print(trap.code)
        """
    running = start(made, cache, text)
    assert finish(running) == (b"3\n4\nmemory_out_of_bounds\n", b"", 0)


def test_a_search_path_may_hold_what_python_passes_over(cache: Path, made: set[int]) -> None:
    text = """
        from pathlib import Path
        sys.path.append(Path("/nowhere"))
        with Pool(1, cache_dir=CACHE) as pool:
            add, spin = load(pool)
            print(add(1, 2))
        """
    assert finish(start(made, cache, text)) == (b"3\n", b"", 0)


@pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 12, 2),
    reason="this Python starts no threads once the main one is over",
)
def test_a_thread_that_outlives_the_main_one_may_make_a_pool(cache: Path, made: set[int]) -> None:
    text = """
        def late():
            threading.main_thread().join()
            with Pool(1, cache_dir=CACHE) as pool:
                add, spin = load(pool)
                print(add(1, 2))
        threading.Thread(target=late).start()
        """
    assert finish(start(made, cache, text)) == (b"3\n", b"", 0)


def test_a_pool_is_not_waited_for_where_the_interpreter_is_ending(
    cache: Path, made: set[int]
) -> None:
    text = """
        class Late:
            def __del__(self, Pool=Pool):  # whose name may be gone by then
                try:
                    Pool(1)
                except Exception as error:
                    print(error)
        late = Late()
        """
    output, errors, code = finish(start(made, cache, text))
    assert (errors, code) == (b"", 0)
    assert b"the interpreter is ending" in output


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_lives_beside_the_users_multiprocessing(
    cache: Path, made: set[int], tmp_path: Path, method: str
) -> None:
    text = f"""
        import multiprocessing
        if __name__ == "__main__":
            warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
            multiprocessing.set_start_method({method!r})
            with Pool(2, cache_dir=CACHE) as pool:
                add, spin = load(pool)
                with multiprocessing.Pool(2) as other:
                    print(other.map(abs, [-1, -2]), add(1, 2))
                    other.close(); other.join()
                print(multiprocessing.get_start_method(), multiprocessing.active_children())
                print(add(2, 2))
        """
    running = start(made, cache, text, str(tmp_path / "script.py"))
    assert finish(running) == (f"[1, 2] 3\n{method} []\n4\n".encode(), b"", 0)


def test_no_resource_tracker_is_started(cache: Path, made: set[int]) -> None:
    text = """
        from leftovers import descendants
        with Pool(2, cache_dir=CACHE) as pool:
            add, spin = load(pool)
            add(1, 2)
            print(sorted(descendants().values()))
            from multiprocessing import resource_tracker
            print(resource_tracker._resource_tracker._pid)
        """
    output, errors, code = finish(start(made, cache, text))
    assert (errors, code) == (b"", 0)
    names, tracker = output.decode().splitlines()
    helpers = {"wasm-anchor", "wasm-init"}  # where there are PID namespaces
    assert set(eval(names)) - helpers == {"wasm-zygote", "wasm-run-1", "wasm-run-2"}
    assert tracker == "None"


def test_two_programs_share_a_cache(made: set[int], tmp_path: Path) -> None:
    text = """
        with Pool(1, cache_dir=CACHE) as pool:
            add, spin = load(pool)
            print(list(pool.map(add, range(100), range(100)))[-1])
        """
    programs = [start(made, tmp_path / "cache", text) for _ in range(2)]
    assert [finish(running) for running in programs] == [(b"198\n", b"", 0)] * 2


@pytest.mark.parametrize("descriptors", [6, 8, 12, 16, 20, 24, 28, 32, 40])
def test_few_descriptors_are_an_error_and_not_a_hang(
    cache: Path, made: set[int], descriptors: int
) -> None:
    text = """
        import wasm_sandbox
        try:
            with Pool(4, cache_dir=CACHE) as pool:
                add, spin = load(pool)
                print(add(1, 2))
        except wasm_sandbox.SandboxError as error:
            print(type(error).__name__, error)
        """

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    output, errors, code = finish(start(made, cache, text, preexec_fn=few))
    warned = errors.splitlines()  # of counters that could not be read when a worker was buried
    assert code == 0, errors.decode()
    assert all(b"Too many open files" in line for line in warned), errors.decode()
    assert output == b"3\n" or b"raise the limit of open files" in output


@pytest.mark.parametrize("what", ["file", "below a file", "read-only"])
def test_an_unusable_cache_directory_is_named(made: set[int], tmp_path: Path, what: str) -> None:
    file = tmp_path / "file"
    file.touch()
    place = {"file": file, "below a file": file / "cache", "read-only": Path("/proc/cache")}[what]
    with pytest.raises(ConfigurationError, match="cache_dir"):
        Pool(1, cache_dir=place)
