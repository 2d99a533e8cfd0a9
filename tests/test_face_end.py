"""However a pool ends, nothing of it is left: no process, descriptor, cgroup or file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import guests
import pytest
from leftovers import nothing_left

from wasm_sandbox import Pool, PoolClosed

ADD = guests.add().encode()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


def test_a_closed_pool_leaves_nothing(cache: Path) -> None:
    with nothing_left():
        with Pool(2, cache_dir=cache) as pool:
            add = pool.load(ADD)["add"]
            assert list(pool.map(add, range(100), range(100)))[-1] == 198
            spinning = pool.submit(pool.load(guests.loop().encode())["spin"])
            spinning.cancel()
        with pytest.raises(PoolClosed):
            add(1, 2)


def test_two_pools_at_once_do_not_meet(cache: Path) -> None:
    with nothing_left(), Pool(1, cache_dir=cache) as one, Pool(1, cache_dir=cache) as two:
        assert one.load(ADD)["add"](1, 2) == two.load(ADD)["add"](1, 2)
        one.shutdown()
        assert two.load(ADD)["add"](1, 2) == 3


def test_a_pool_survives_the_thread_that_made_it(cache: Path) -> None:
    made: list[Pool] = []
    thread = threading.Thread(target=lambda: made.append(Pool(1, cache_dir=cache)))
    thread.start()
    thread.join()
    time.sleep(0.2)
    with made[0] as pool:
        assert pool.load(ADD)["add"](1, 2) == 3


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
import guests
from wasm_sandbox import Pool
pool = Pool(2, cache_dir={cache!r})
spin = pool.load(guests.loop().encode())["spin"]
add = pool.load(guests.add().encode())["add"]
"""


def program(cache: Path, text: str) -> subprocess.Popen[bytes]:
    head = PROGRAM.format(tests=str(Path(__file__).parent), cache=str(cache))
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", head + textwrap.dedent(text)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def test_ctrl_c_ends_a_program_and_leaves_nothing(cache: Path) -> None:
    pids: set[int] = set()
    with nothing_left(pids=pids):
        text = """
            pool.submit(spin)
            print(flush=True)
            with pool:
                spin()
            """
        with program(cache, text) as running:
            pids.add(running.pid)
            assert running.stdout is not None
            running.stdout.readline()
            time.sleep(0.2)
            # The terminal sends it to the whole group: workers and zygote get it too.
            os.killpg(running.pid, signal.SIGINT)
            _, errors = running.communicate()
    assert errors.endswith(b"KeyboardInterrupt\n"), errors.decode()
    assert running.returncode == -signal.SIGINT


def test_a_program_that_forgets_its_pool_leaves_nothing(cache: Path) -> None:
    pids: set[int] = set()
    with nothing_left(pids=pids), program(cache, "print(add(1, 2))") as running:
        pids.add(running.pid)
        assert running.communicate() == (b"3\n", b"")
    assert running.returncode == 0


def test_a_program_that_is_killed_leaves_nothing(cache: Path) -> None:
    pids: set[int] = set()
    with nothing_left(pids=pids), program(cache, "print(flush=True)\nspin()") as running:
        pids.add(running.pid)
        assert running.stdout is not None
        running.stdout.readline()
        running.kill()
        running.communicate()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_program_that_is_ended_leaves_no_instance(cache: Path, how: signal.Signals) -> None:
    text = """
        import actor_guests
        counter = pool.load(actor_guests.COUNTER.encode())
        with pool, pool.instance(counter) as instance, pool.instance(counter) as other:
            waiting = other.submit("increment")
            print(flush=True)
            instance.call("spin")
        """
    pids: set[int] = set()
    with nothing_left(pids=pids), program(cache, text) as running:
        pids.add(running.pid)
        assert running.stdout is not None
        running.stdout.readline()
        time.sleep(0.2)
        running.send_signal(how)
        _, errors = running.communicate()
    assert running.returncode == -how
    assert how is signal.SIGKILL or errors.endswith(b"KeyboardInterrupt\n"), errors.decode()


def test_a_forked_child_cannot_use_the_pool_nor_harm_it(cache: Path) -> None:
    text = """
        import os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
        if os.fork() == 0:
            try:
                add(1, 2)
            except Exception as error:
                print(type(error).__name__, flush=True)
            sys.exit()
        os.wait()
        print(add(1, 2))
        """
    pids: set[int] = set()
    with nothing_left(pids=pids), program(cache, text) as running:
        pids.add(running.pid)
        assert running.communicate() == (b"PoolError\n3\n", b"")


def test_a_program_that_leaves_a_stream_half_way_says_nothing(cache: Path) -> None:
    text = """
        values = add.stream((number, 1) for number in range(10))
        print(next(values))
        """
    pids: set[int] = set()
    with nothing_left(pids=pids), program(cache, text) as running:
        pids.add(running.pid)
        assert running.communicate() == (b"1\n", b"")


def test_a_forked_child_leaves_the_blocks_of_its_parent_as_it_likes(cache: Path) -> None:
    text = """
        import os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
        with pool, pool.instance(pool.load(guests.add().encode())) as instance:
            values = add.stream((number, 1) for number in range(10))
            next(values)
            if os.fork() == 0:
                values.close()
                sys.exit(5)
            print(os.waitstatus_to_exitcode(os.wait()[1]), instance.call("add", 1, 2), sum(values))
        """
    pids: set[int] = set()
    with nothing_left(pids=pids), program(cache, text) as running:
        pids.add(running.pid)
        assert running.communicate() == (b"5 3 54\n", b"")
