"""The guests in examples/guests do what docs/guests.md says of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from wasm_sandbox import (
    Capabilities,
    Filesystem,
    Limits,
    OutputLimitExceeded,
    Pool,
    SandboxError,
    Trap,
)
from wasm_sandbox.policy import read_policy

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
GUESTS = EXAMPLES / "guests"
FILES = Capabilities(filesystem=Filesystem.read_only(EXAMPLES / "data", at="/data"))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    limits = Limits(wall_time=20.0, memory=64 << 20, output=1 << 20, open_files=32)
    with Pool(workers=2, limits=limits, cache_dir=tmp_path_factory.mktemp("cache")) as pool:
        yield pool


@pytest.mark.parametrize("guest", sorted(GUESTS.glob("*.w*")), ids=lambda path: path.name)
def test_every_guest_is_small_and_tells_nothing_of_the_machine_that_built_it(guest: Path) -> None:
    content = guest.read_bytes()
    assert len(content) < 100 * 1024
    for trace in (b"/home/", b"/tmp/", b"/root/", b"/work/", b".c\0"):
        assert trace not in content


@pytest.mark.parametrize(
    ("guest", "function", "arguments", "value"),
    [
        ("calc.wasm", "add", (5, 3), 8),
        ("calc.wasm", "add", (2**31 - 1, 1), -(2**31)),
        ("calc.wasm", "mul", (-(2**40), 3), -3 * 2**40),
        ("calc.wasm", "fib", (20,), 6765),
        ("calc.wasm", "divide", (-7, 2), -3),
        ("calc.wasm", "sum", (0.5, 0.25, -1.0), -0.25),
        ("calc.wasm", "half", (3.0,), 1.5),
        ("calc.wat", "add", (5, 3), 8),
        ("calc.wat", "divmod", (17, 5), (3, 2)),
        ("calc.wat", "swap", (7, 0.5), (0.5, 7)),
        ("counter.wat", "increment", (), 1),
        ("counter.wat", "add", (5,), 5),
        ("counter.wat", "value", (), 0),
        ("counter.wat", "reset", (), None),
        ("text.wasm", "fnv1a", (b"",), 0xCBF29CE484222325 - 2**64),
        ("text.wasm", "fnv1a", ("Wörld ☃",), -6415076783294776232),
    ],
)
def test_numbers(pool: Pool, guest: str, function: str, arguments: object, value: object) -> None:
    assert isinstance(arguments, tuple)
    assert pool.load(GUESTS / guest)[function](*arguments) == value


@pytest.mark.parametrize(
    ("function", "argument", "returns", "value"),
    [
        ("greet", "World", str, "Hello, World!"),
        ("greet", "", str, "Hello, !"),
        ("greet", "Wörld ☃", str, "Hello, Wörld ☃!"),
        ("upper", b"a-z \xff\x00", bytes, b"A-Z \xff\x00"),
        ("json_sum", [], "json", {"count": 0, "sum": 0}),
        ("json_sum", [1, -2, 2**62], "json", {"count": 3, "sum": 2**62 - 1}),
        ("json_sum", list(range(10_000)), "json", {"count": 10_000, "sum": 49_995_000}),
        ("json_sum", [0.5], "json", {"error": "not a list of 64-bit integers"}),
        ("json_sum", [2**63 - 1, 1], "json", {"error": "not a list of 64-bit integers"}),
        ("json_sum", {"a": 1}, "json", {"error": "not a list of 64-bit integers"}),
        ("json_sum", "[1,]", "json", {"error": "not a list of 64-bit integers"}),
    ],
)
def test_buffers(
    pool: Pool, function: str, argument: object, returns: object, value: object
) -> None:
    text = pool.load(GUESTS / "text.wasm")
    assert text[function].options(returns=returns)(argument) == value  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("guest", "function", "arguments"),
    [
        ("calc.wasm", "divide", (1, 0)),
        ("calc.wasm", "divide", (-(2**31), -1)),
        ("calc.wat", "divmod", (1, 0)),
        ("counter.wat", "increment_and_trap", ()),
    ],
)
def test_traps(pool: Pool, guest: str, function: str, arguments: tuple[int, ...]) -> None:
    with pytest.raises(Trap):
        pool.load(GUESTS / guest)[function](*arguments)


@pytest.mark.parametrize(
    ("arguments", "stdin", "exit_code", "stdout", "stderr"),
    [
        (
            ("-n", "2", "/data/gpl-3.0.txt", "/data/cc0-1.0.txt"),
            "",
            0,
            (
                "    674    5644    35149  /data/gpl-3.0.txt\n"
                "    121    1066     7048  /data/cc0-1.0.txt\n"
                "    795    6710    42197  (total)\n\n    411  the\n    271  of\n"
            ),
            "",
        ),
        (
            ("-n", "3"),
            "Don't stop. DON'T 'quote' 'quote'\nnaïve ☃",
            0,
            "      1       7       44  (stdin)\n\n      2  don't\n      2  quote\n      1  naïve\n",
            "",
        ),
        (("-n", "0"), "one two", 0, "      0       2        7  (stdin)\n", ""),
        ((), "", 0, "      0       0        0  (stdin)\n", ""),
        (
            ("-n", "0", "/data/none", "-"),
            "x\n",
            1,
            "      1       1        2  (stdin)\n      1       1        2  (total)\n",
            "wordcount: /data/none: No such file or directory\n",
        ),
        (("-n", "-1"), "", 2, "", "usage: wordcount [-n COUNT] [FILE...]\n"),
        (("-x",), "", 2, "", "usage: wordcount [-n COUNT] [FILE...]\n"),
    ],
)
def test_wordcount(
    pool: Pool, arguments: tuple[str, ...], stdin: str, exit_code: int, stdout: str, stderr: str
) -> None:
    wordcount = pool.load(GUESTS / "wordcount.wasm")
    done = pool.run(wordcount, *arguments, stdin=stdin.encode(), capabilities=FILES)
    assert (done.stdout.decode(), done.stderr.decode()) == (stdout, stderr)
    assert done.exit_code == exit_code


def test_the_example_policy_lets_wordcount_do_its_work_and_no_more(pool: Pool) -> None:
    limits, capabilities = read_policy(EXAMPLES / "policy.toml")
    for guest, arguments, exit_code in [
        ("wordcount.wasm", ("-n", "1", "/data/gpl-3.0.txt"), 0),
        ("wordcount.wasm", ("/data/../policy.toml",), 1),
        ("misbehave.wasm", ("memory",), 0),
    ]:
        app = pool.load(GUESTS / guest)
        done = pool.run(app, *arguments, limits=limits, capabilities=capabilities)
        assert done.exit_code == exit_code, done.stderr
        assert (done.receipt.peak_memory or 0) <= 16 << 20
    with pytest.raises(OutputLimitExceeded):
        pool.run(pool.load(GUESTS / "misbehave.wasm"), "flood", limits=limits)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "stdout", "stderr"),
    [
        (("args", "", "a b"), 0, "misbehave.wasm\nargs\n\na b\n", ""),
        (("env",), 0, "LANG=C\n", ""),
        (("stdin",), 0, "3\n", ""),
        (("sleep", "0"), 0, "awake\n", ""),
        (("exit", "0"), 0, "", ""),
        (("exit", "255"), 255, "", ""),
        (("exit", "4294967295"), 2**32 - 1, "", ""),
        (("memory",), 0, "", "refused after"),
        (("open", "/data"), 0, "", "refused after"),
        (("open", "/etc/passwd"), 0, "", "refused after 0 descriptors"),
        (("disk", "/data"), 0, "", "refused to create"),
        (("files", "/data"), 0, "", "refused after 0 files"),
        ((), 2, "", "usage: misbehave"),
    ],
)
def test_misbehaviour_that_ends(
    pool: Pool, arguments: tuple[str, ...], exit_code: int, stdout: str, stderr: str
) -> None:
    misbehave = pool.load(GUESTS / "misbehave.wasm")
    done = pool.run(misbehave, *arguments, stdin=b"abc", env={"LANG": "C"}, capabilities=FILES)
    assert (done.exit_code, done.stdout.decode()) == (exit_code, stdout)
    assert done.stderr.decode().startswith(stderr)


@pytest.mark.parametrize("crime", ["loop", "storm", "sleep", "flood", "crash", "recurse"])
def test_misbehaviour_that_is_ended(pool: Pool, crime: str) -> None:
    misbehave = pool.load(GUESTS / "misbehave.wasm")
    limits = Limits(wall_time=0.3, output=1 << 20)
    with pytest.raises(SandboxError):
        pool.run(misbehave, crime, limits=limits)
    assert pool.run(misbehave, "exit", "7", limits=limits).exit_code == 7
