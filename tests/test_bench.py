"""``wasm-sandbox bench`` measures what it says, whatever fails. Nothing here is timed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from leftovers import descendants, nothing_left

from wasm_sandbox.bench import compare, machine, measure, noise, page, runner, svg, table
from wasm_sandbox.bench.model import (
    OURS,
    WHOLE,
    Figure,
    Line,
    Report,
    Row,
    Spread,
    Target,
    spread,
    updated,
    verdict,
)
from wasm_sandbox.bench.pools import ROOT_ALONE
from wasm_sandbox.bench.registry import (
    EFFORTS,
    FAMILIES,
    Absent,
    Benchmark,
    Effort,
    Samples,
    Subjects,
    benchmarks,
)
from wasm_sandbox.cli.main import main

TRIAL = EFFORTS["trial"]
QUIET = machine.Calibration(loop=1.0, copy=1e10, load=0.0, stolen=0.0, when=0.0)
MACHINE = machine.Machine(
    python="3",
    kernel="6",
    processor="P",
    cpus=2,
    memory=1 << 30,
    load=0.0,
    when="2000-01-01T00:00:00Z",
    packages={"wasmtime": "50"},
)
COST = Figure(name="cost", title="what it costs", unit="µs")
RATE = Figure(name="rate", title="how many", unit="calls/s", better="higher")


@contextmanager
def subject(
    turn: Callable[[], Samples], ended: list[str] | None = None
) -> Iterator[Callable[[], Samples]]:
    yield turn
    if ended is not None:
        ended.append("ended")


@contextmanager
def broken(error: Exception) -> Iterator[Callable[[], Samples]]:
    raise error
    yield float


def of(
    subjects: Subjects,
    *figures: Figure,
    turns: int | None = None,
) -> Benchmark:
    def some_benchmark(_: Effort) -> Subjects:
        return subjects

    return Benchmark(
        family="calls",
        figures=figures or (COST,),
        subjects=some_benchmark,
        turns=turns,
        patience=60.0,
    )


def steady(value: float, *, drift: float = 0.0) -> Spread:
    return Spread(median=value, p10=value, p90=value, p99=value, drift=drift, samples=9, turns=3)


def row(
    lines: dict[str, float | None],
    figure: Figure = COST,
    *,
    drift: float = 0.0,
    calibration: machine.Calibration = QUIET,
) -> Row:
    return Row(
        figure=figure,
        lines=tuple(
            Line(subject=name, reason="not here")
            if value is None
            else Line(subject=name, spread=steady(value, drift=drift))
            for name, value in lines.items()
        ),
        before=calibration,
        after=calibration,
    )


def report(*rows: Row, load: float = 0.0) -> Report:
    where = msgspec.structs.replace(MACHINE, load=load)
    return Report(version="1", effort="quick", before=where, after=where, seconds=1.0, rows=rows)


# --- one benchmark --------------------------------------------------------------------------------


def test_subjects_take_turns_and_each_begins_once() -> None:
    order: list[str] = []

    def turn(name: str) -> float:
        order.append(name)
        return 1.0

    subjects = {name: subject(partial(turn, name)) for name in "abc"}
    measure.measure(of(subjects, turns=3), TRIAL, lambda: QUIET)
    assert "".join(order) == "abcbcacab"


def test_ours_is_made_ready_last_and_all_are_ended() -> None:
    made: list[str] = []
    ended: list[str] = []

    @contextmanager
    def noted(name: str) -> Iterator[Callable[[], Samples]]:
        made.append(name)
        yield lambda: 1.0
        ended.append(name)

    measure.measure(of({name: noted(name) for name in (OURS, "peer")}), TRIAL, lambda: QUIET)
    assert (made, ended) == (["peer", OURS], [OURS, "peer"])


def absent() -> float:
    raise Absent("install it")


@pytest.mark.parametrize(
    ("bad", "failed"),
    [
        (lambda: broken(Absent("install it")), False),
        (lambda: subject(absent), False),
        (lambda: broken(RuntimeError("install it")), True),
        (lambda: subject(lambda: [][0]), True),
        (lambda: subject(list), True),
    ],
    ids=["absent", "absent in its turn", "not made ready", "fails in its turn", "gives no samples"],
)
def test_a_subject_that_is_not_there_or_fails_is_named_and_the_others_go_on(
    bad: Callable[[], AbstractContextManager[Callable[[], Samples]]], failed: bool
) -> None:
    found = measure.measure(of({"bad": bad(), "good": subject(lambda: 2.0)}), TRIAL, lambda: QUIET)
    one, other = found.lines["cost"]
    assert (one.spread, one.failed) == (None, failed)
    assert one.reason
    assert other.spread is not None
    assert other.spread.median == 2.0


def test_a_benchmark_of_several_figures_gives_each_its_own_samples() -> None:
    both = of(
        {
            "a": subject(lambda: {"cost": [1.0], "rate": [5.0, 7.0]}),
            "b": subject(lambda: {"rate": [9.0]}),
        },
        COST,
        RATE,
    )
    lines = measure.measure(both, TRIAL, lambda: QUIET).lines
    assert [(line.subject, line.spread and line.spread.median) for line in lines["cost"]] == [
        ("a", 1)
    ]
    assert [(line.subject, line.spread and line.spread.median) for line in lines["rate"]] == [
        ("a", 6),
        ("b", 9),
    ]


def test_a_spread_tells_the_median_the_tails_and_how_far_turns_lie_apart() -> None:
    found = spread([[float(number) for number in range(101)], [150.0]])
    assert (found.median, round(found.p10), round(found.p90), found.samples) == (50.5, 10, 91, 102)
    assert found.drift == pytest.approx(100 / 50.5)
    assert spread([[3.0]]).p99 == 3.0


def test_the_calibration_is_the_best_of_its_tries() -> None:
    clock = count(0, 2).__next__
    found = machine.calibrate(lambda: float(clock()), Path("/nowhere"))
    assert (found.loop, found.stolen) == (2.0, 0.0)


# --- all benchmarks -------------------------------------------------------------------------------


def test_every_benchmark_has_its_names_for_itself() -> None:
    known = benchmarks()
    figures = [figure.name for each in known.values() for figure in each.figures]
    assert len(figures) == len(set(figures))
    assert {each.family for each in known.values()} == set(FAMILIES)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", benchmarks())
def test_every_benchmark_measures_all_that_it_announces(name: str) -> None:
    with nothing_left(pids={os.getpid()}):
        found = runner.in_a_process(benchmarks()[name], "trial")
    reasons = [line.reason for lines in found.lines.values() for line in lines if line.failed]
    assert reasons == []
    if any(line.reason == ROOT_ALONE for lines in found.lines.values() for line in lines):
        pytest.skip(ROOT_ALONE)
    for lines in found.lines.values():
        assert any(line.spread is not None and line.spread.samples for line in lines)


def test_a_benchmark_that_fails_is_a_row_with_its_reason_and_the_next_goes_on() -> None:
    bad, good = of({"bad": subject(float)}), of({OURS: subject(lambda: 1.0)}, RATE)

    def alone(each: Benchmark, _: str) -> measure.Measured:
        if each is bad:
            raise runner.Failed("it hung")
        return measure.measure(each, TRIAL, lambda: QUIET)

    clock = count().__next__
    made = runner.run(
        [bad, good],
        "quick",
        "1",
        alone=alone,
        machine=lambda: MACHINE,
        clock=lambda: float(clock()),
    )
    assert made.seconds == 1.0
    assert [line.failed for each in made.rows for line in each.lines] == [True, False]
    assert "failed: it hung" in page.page(made)
    assert "failed: it hung" in "\n".join(table.lines(made))


def test_a_row_that_is_measured_again_says_when_and_stands_in_its_place() -> None:
    other = msgspec.structs.replace(COST, name="other", title="another cost")
    old = report(row({OURS: 1}), row({OURS: 2}, other))
    newer = report(row({OURS: 3}), load=0.25)
    made = updated(old, newer)
    assert [each.figure.name for each in made.rows] == ["cost", "other"]
    assert (made.before, made.rows[1]) == (old.before, old.rows[1])
    shown = page.page(made)
    assert shown.count("Measured again by itself") == 1
    assert "load 0.2 before" in shown
    assert msgspec.json.decode(page.data(made), type=Report) == made
    more = updated(old, report(row({OURS: 3}, msgspec.structs.replace(other, name="new"))))
    assert [each.figure.name for each in more.rows] == ["cost", "other", "new"]


def fake_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> Benchmark:
    """A benchmark whose process runs another program."""
    path = tmp_path / "child"
    path.write_text(f"#!{sys.executable}\nimport os, signal, sys, time\n{program}\n")
    path.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(path))
    return msgspec.structs.replace(of({}), patience=0.5)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("sys.exit('no memory')", "no memory"),
        ("open(sys.argv[-1], 'w').write('[')", "ended with 0"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "ended with -9"),
        ("time.sleep(60)", "not over after 0.5 seconds"),
        ("signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)", "not over"),
    ],
    ids=["exits", "writes nonsense", "is killed", "hangs", "does not listen"],
)
def test_a_process_that_does_not_measure_is_ended_and_says_why(
    program: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_END", 0.2)
    benchmark = fake_child(tmp_path, monkeypatch, program)
    with pytest.raises(runner.Failed, match=reason):
        runner.in_a_process(benchmark, "quick")


def test_who_is_in_a_hurry_need_not_wait_for_one_that_does_not_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = """
def not_yet(*_):
    os.kill(os.getppid(), signal.SIGUSR1)
signal.signal(signal.SIGINT, not_yet)
while True:
    time.sleep(60)"""

    def again(*_: object) -> None:
        raise KeyboardInterrupt

    benchmark = fake_child(tmp_path, monkeypatch, program)
    before = signal.signal(signal.SIGUSR1, again)
    try:
        with nothing_left(), pytest.raises(KeyboardInterrupt):
            runner.in_a_process(benchmark, "quick")
    finally:
        signal.signal(signal.SIGUSR1, before)


def heed_signals() -> None:
    """Whatever runs the tests may ignore some, and so would all that is started (nohup)."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 128 + signal.SIGTERM),
        (signal.SIGHUP, 128 + signal.SIGHUP),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_a_signal_ends_the_benchmark_that_runs_and_leaves_nothing(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    pids: set[int] = set()
    with nothing_left(pids=pids):
        command = [sys.executable, "-m", "wasm_sandbox", "bench", "--quick", "--only", "many-in"]
        process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            env={"TMPDIR": str(tmp_path)},
            preexec_fn=heed_signals,
        )
        pids.add(process.pid)
        assert process.stderr is not None
        assert b"many-in-flight" in process.stderr.readline()
        while "wasm-zygote" not in descendants(process.pid).values():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        process.communicate()
        assert process.returncode == code
    if number != signal.SIGKILL:  # which nobody can answer
        assert list(tmp_path.glob("wasm-sandbox-bench-*")) == []


# --- noise ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "word"),
    [
        ({"loop": 1.2}, "before"),
        ({"stolen": 1.0, "when": 10.0}, "5% of the time"),
    ],
)
def test_what_the_machine_did_meanwhile_is_told(after: dict[str, float], word: str) -> None:
    given = msgspec.structs.replace(row({OURS: 1}), after=msgspec.structs.replace(QUIET, **after))
    assert word in " ".join(noise.noise(given, [given], MACHINE))


def test_a_slow_moment_and_turns_that_differ_are_told_and_quiet_ones_are_not() -> None:
    quiet = row({OURS: 1})
    slow = row({OURS: 1}, calibration=msgspec.structs.replace(QUIET, loop=1.3))
    torn = row({OURS: 1}, drift=0.4)
    assert noise.noise(quiet, [quiet, slow, torn], MACHINE) == ()
    assert "30% slower" in noise.noise(slow, [quiet, slow, torn], MACHINE)[0]
    assert "40% apart" in noise.noise(torn, [quiet, slow, torn], MACHINE)[0]


def test_a_busy_machine_is_told_at_the_top() -> None:
    assert "load was 3.0" in page.page(report(row({OURS: 1}), load=3.0))
    assert "Noise" not in page.page(report(row({OURS: 1})))


# --- targets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("figure", "lines", "expected"),
    [
        (COST, {OURS: 10.0}, "kept"),
        (COST, {OURS: 10.1}, "missed"),
        (RATE, {OURS: 10.0}, "kept"),
        (RATE, {OURS: 9.9}, "missed"),
        (RATE, {OURS: None}, "not measured"),
    ],
)
def test_a_target_is_kept_at_its_bound_and_missed_beyond(
    figure: Figure, lines: dict[str, float | None], expected: str
) -> None:
    assert verdict(row(lines, figure), Target(bound=10)) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ({OURS: 5.0, "peer": 10.0}, "kept"),
        ({OURS: 6.0, "peer": 10.0}, "missed"),
        ({OURS: 1.0, "peer": None}, "not measured"),
        ({OURS: 1.0}, "not measured"),
    ],
)
def test_a_target_beside_a_peer_needs_the_peer(
    lines: dict[str, float | None], expected: str
) -> None:
    assert verdict(row(lines), Target(bound=0.5, against="peer")) == expected


# --- two runs -------------------------------------------------------------------------------------


def change(old: Row, new: Row) -> compare.Change:
    (found,) = compare.compare(report(old), report(new))
    return found


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({OURS: 10}, {OURS: 20}, "slower"),
        ({OURS: 20}, {OURS: 10}, "faster"),
        ({OURS: 10}, {OURS: 10.5}, "same"),
        ({OURS: 10, "peer": 10}, {OURS: 20, "peer": 20}, "same"),
        ({OURS: 10, "peer": 10}, {OURS: 20, "peer": 10}, "slower"),
        ({OURS: 10}, {OURS: None}, "gone"),
        ({OURS: None}, {OURS: 10}, "new"),
    ],
)
def test_a_regression_shows_unless_peers_tell_that_it_is_the_machine(
    old: dict[str, float | None], new: dict[str, float | None], expected: str
) -> None:
    assert change(row(old), row(new)).change == expected


def test_fewer_calls_a_second_are_slower() -> None:
    assert change(row({OURS: 10}, RATE), row({OURS: 5}, RATE)).change == "slower"


def test_a_slower_machine_is_no_regression_and_turns_that_differ_are_room_for_doubt() -> None:
    slow = msgspec.structs.replace(QUIET, loop=2.0)
    assert change(row({OURS: 10}), row({OURS: 20}, calibration=slow)).change == "same"
    assert change(row({OURS: 10}), row({OURS: 10}, calibration=slow)).change == "same"
    memory = msgspec.structs.replace(COST, unit="MiB")
    assert change(row({OURS: 10}, memory), row({OURS: 20}, memory, calibration=slow)).ratio == 2
    assert change(row({OURS: 10}, drift=0.5), row({OURS: 15}, drift=0.1)).change == "same"


def test_rows_of_our_own_ways_are_compared_each_by_itself() -> None:
    found = compare.compare(
        report(row({"cold": 10, "with a spare": 3})), report(row({"cold": 10, "with a spare": 6}))
    )
    assert [each.change for each in found] == ["same", "slower"]


def test_a_figure_that_was_not_run_is_named_and_is_no_regression() -> None:
    found = compare.compare(report(row({OURS: 1}), row({OURS: 1}, RATE)), report(row({OURS: 1})))
    assert [(each.figure, each.change) for each in found] == [("cost", "same"), ("rate", "not run")]
    assert compare.regressions(found) == []


# --- the command ----------------------------------------------------------------------------------


def test_two_files_are_compared_and_a_regression_is_the_exit_code(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(page.data(report(row({OURS: 10}))))
    new.write_text(page.data(report(row({OURS: 20}))))
    assert main(["bench", "--compare", str(old), str(old)]) == 0
    assert main(["bench", "--compare", str(old), str(new), "--json"]) == 1
    shown = json.loads(capfdbinary.readouterr().out.splitlines()[-1])
    assert shown["regressions"] == 1
    assert shown["changes"][0]["ratio"] == 2.0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--only", "nothing-like-it"],
        ["--write", "/nowhere"],
        ["--compare", "/nowhere", "/nowhere"],
        ["--compare", __file__, __file__],
        ["--write", ".", "--only", "instance-call"],
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_measured(
    arguments: list[str],
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / page.DATA).write_text("{}")
    assert main(["bench", *arguments]) == 2
    said = capfd.readouterr().err
    assert arguments[0] in said
    assert "…" not in said


def test_the_list_names_every_figure(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["bench", "--list", "--json"]) == 0
    shown = json.loads(capfdbinary.readouterr().out)
    assert "round-trip" in shown["round-trip"]


@pytest.mark.timeout(180)
def test_one_command_measures_and_writes_data_and_page(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wasm_sandbox", "bench", "--quick", "--only", "instance-call"]
    command += ["--json", "--write", ".", "-o", "again.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    made = page.read(tmp_path / "performance.json")
    assert json.loads(done.stdout)["rows"][0]["figure"]["name"] == "instance-call"
    assert page.read(tmp_path / "again.json") == made
    assert (tmp_path / "performance.md").read_text() == page.page(made)
    assert [each.name for each in (tmp_path / "performance").iterdir()] == ["instance-call.svg"]


# --- the page -------------------------------------------------------------------------------------


def test_parts_and_what_they_leave_add_up_to_the_whole() -> None:
    figure = msgspec.structs.replace(COST, kind="parts")
    given = row({WHOLE: 10, "one": 3, "two": 4}, figure)
    assert page.parts(given) == [("one", 3), ("two", 4), (page.REST, 3)]
    assert page.plot(given).count("<rect") == 1 + 2 * 3
    assert page.parts(row({WHOLE: 10, "one": 3, "two": None}, figure)) == []


@pytest.mark.parametrize("kind", ["subjects", "growth", "parts"])
def test_every_plot_is_valid_and_names_cannot_break_it(kind: str) -> None:
    figure = msgspec.structs.replace(COST, kind=kind, title="a <b> & `c`", axis="<workers>")
    lines: dict[str, float | None] = {"1": 3.0, "100": 0.0}
    if kind != "growth":
        lines = {WHOLE: 10.0, '<"&': 3.0}
    found = page.plots(report(row(lines, figure)))
    root = ElementTree.fromstring(found["cost.svg"])
    assert root.tag.endswith("svg")
    assert "a <b> & c" in "".join(root.itertext())


def test_plots_of_a_run_before_do_not_stay(tmp_path: Path) -> None:
    (tmp_path / page.PLOTS).mkdir()
    (tmp_path / page.PLOTS / "old.svg").touch()
    page.write(report(row({OURS: 1, "peer": 2})), tmp_path)
    assert [each.name for each in (tmp_path / page.PLOTS).iterdir()] == ["cost.svg"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (1234567.8, "1,234,568"), (12.345, "12.3"), (0.001234, "0.00123")],
)
def test_a_number_has_three_digits_that_mean_something(value: float, shown: str) -> None:
    assert svg.number(value) == shown


def test_the_page_is_the_one_that_the_measurements_make() -> None:
    docs = Path(__file__).resolve().parents[1] / "docs"
    made = page.read(docs / page.DATA)
    assert (docs / page.PAGE).read_text() == page.page(made)
    drawn = {path.name: path.read_text() for path in (docs / page.PLOTS).iterdir()}
    assert drawn == page.plots(made)
