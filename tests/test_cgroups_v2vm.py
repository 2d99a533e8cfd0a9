"""The promises of groups, kept by a real kernel whose only hierarchy is cgroup v2."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
from v2vm import machine

import wasm_sandbox

TESTS = Path(__file__).parent
NEEDS = [str(TESTS.parent), *(str(Path(part).parent) for part in wasm_sandbox.__path__)]

pytestmark = [
    pytest.mark.v2vm,
    pytest.mark.timeout(240),
]


@pytest.fixture(scope="module", autouse=True)
def bootable() -> None:
    """Skip, by name, where there is no machine."""
    why = machine.unusable()
    if why is not None:
        pytest.skip(why)


@pytest.mark.parametrize(
    ("uid", "place", "expected"),
    [
        (0, "root", "v2"),
        (1000, "delegated", "v2-delegated"),
        (1000, "session", "none"),
    ],
)
def test_groups_keep_their_promises_under_v2(uid: int, place: str, expected: str) -> None:
    outcome = machine.run(
        [
            sys.executable,
            *("-m", "pytest", "-q", "--color=no", "-rs", "-p", "no:cacheprovider"),
            *(str(TESTS / name) for name in ("test_cgroups.py", "test_cgroups_cleanup.py")),
        ],
        uid=uid,
        place=place,
        environment={"WASM_SANDBOX_EXPECT_CGROUPS": expected},
        needs=NEEDS,
        timeout=200,
    )
    assert outcome.status == 0, outcome.output
    passed = re.search(r"(\d+) passed", outcome.output)
    assert passed is not None, outcome.output
    # Where there are groups, only the test of their absence and that of swap may be skipped.
    assert expected == "none" or int(passed[1]) >= 25, outcome.output


CONTAINER = """
echo '+memory +pids +cpu' > /sys/fs/cgroup/user/cgroup.subtree_control
exec unshare --cgroup --mount /bin/sh -c '
    umount /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup
    "$@"
    mkdir /sys/fs/cgroup/main && echo 0 > /sys/fs/cgroup/main/cgroup.procs && exec "$@"
' sh "$@"
"""
SAY = """
from wasm_sandbox.supervisor.cgroups import discover
pool = discover()
print(pool.kind, *sorted(pool.controllers), *{why.remedy for why in pool.missing.values()})
pool.close()
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare(1) here")
def test_a_container_that_follows_the_hint_has_groups() -> None:
    outcome = machine.run(
        ["/bin/sh", "-c", CONTAINER, "sh", sys.executable, "-c", SAY],
        place="session",
        needs=NEEDS,
    )
    before, after = outcome.output.splitlines()
    assert before.startswith("none move the container's first process into a group of its own")
    assert after.startswith("v2-delegated cpu memory pids")
    assert outcome.status == 0


def test_the_machine_reports_the_exit_status_and_the_output() -> None:
    outcome = machine.run(
        ["/bin/sh", "-c", "echo out; echo err >&2; cat /proc/self/cgroup; exit 7"]
    )
    assert (outcome.status, outcome.output) == (7, "out\nerr\n0::/\n")


def test_the_machine_ends_after_its_time() -> None:
    for seconds in (6, 30, 90):  # a busy machine needs longer to come up
        outcome = machine.run(["/bin/sh", "-c", "echo begun; sleep 600"], timeout=seconds)
        assert outcome.status == machine.TIMED_OUT
        if outcome.output:
            break
    assert outcome.output == "begun\n"
