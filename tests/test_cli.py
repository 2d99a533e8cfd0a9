"""The command line: results on stdout, errors on stderr, exit codes as documented."""

from __future__ import annotations

import base64
import http.server
import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from command_lines import CALC, ENVIRONMENT, EXAMPLES, TEXT, WORDS, Run, run, start, with_cache

import wasm_sandbox
from wasm_sandbox.cli.call import parse_number
from wasm_sandbox.cli.main import main
from wasm_sandbox.cli.reports import jsonable, printable

pytest_plugins = ("guest_folder",)
STDIN = ("run", "stdin.wat")
FETCH = str(EXAMPLES / "fetch.wasm")
GEOMETRY, SHAPES = str(EXAMPLES / "geometry.wat"), "docs:geometry/shapes"
PAIR = '[{"x": 1, "y": 2}, {"x": 1, "y": 2}]\n'


# -- call ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        ((CALC, "add", "5", "3"), "8\n"),
        ((CALC, "add", "-5", "3"), "-2\n"),
        ((CALC, "add", "--", "-5", "-3"), "-8\n"),
        ((CALC, "add", "-0x10", "0b11"), "-13\n"),
        ((CALC, "add", "4294967295", "0"), "-1\n"),
        ((CALC, "divmod", "7", "-2"), "-3\n1\n"),
        ((CALC, "swap", "1", "-inf"), "-inf\n1\n"),
        ((CALC, "swap", "1", "-1e5", "--fuel", "10000"), "-100000.0\n1\n"),
        ((TEXT, "greet", "Wörld", "--returns", "str"), "Hello, Wörld!\n"),
        ((TEXT, "greet", "5", "--returns", "str"), "Hello, 5!\n"),
        ((TEXT, "upper", "a b", "--returns", "bytes"), "A B"),
        ((TEXT, "json_sum", "[1, 2]", "--returns", "json"), '{"count": 2, "sum": 3}\n'),
        (("values.wat", "v128", "0x10"), f"0x{16:032x}\n"),
        ((GEOMETRY, "greet", "5"), "Hello, 5\n"),
        ((GEOMETRY, f"{SHAPES}#divide", "7", "-2"), '{"ok": -3}\n'),
        ((GEOMETRY, f"{SHAPES}#divide", "7", "0"), '{"err": "division by zero"}\n'),
        ((GEOMETRY, f"{SHAPES}#mirror", '{"x": 1, "y": -2}'), '{"x": -2, "y": 1}\n'),
        ((GEOMETRY, f"{SHAPES}#double", '{"nothing": null}'), '{"nothing": null}\n'),
        ((GEOMETRY, f"{SHAPES}#bounds", '[{"x": 1, "y": 2}]'), PAIR),
        ((GEOMETRY, f"{SHAPES}#bounds", "[]"), ""),
        (("values.wat", "f32", "3"), "3.0\n"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, tuple) else None,
)
def test_call_prints_the_result(here_run: Run, arguments: tuple[str, ...], printed: str) -> None:
    assert here_run("call", *arguments) == (0, printed, "")


def test_call_as_json_has_value_and_receipt(here_run: Run) -> None:
    code, out, _ = here_run("call", CALC, "divmod", "7", "2", "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["value"] == [3, 1]
    assert answer["receipt"]["attempts"] == 1


# -- run ----------------------------------------------------------------------------------------


def test_run_streams_and_exits_as_the_guest_does(here: Path) -> None:
    assert run(here, "run", "hello.wat") == (0, "hello\n", "")
    assert run(here, "run", "exits.wat")[0] == 300 & 0xFF
    assert run(here, "run", "stdin.wat", stdin=b"in") == (0, "in", "")
    assert run(here, "run", "traps_late.wat")[1] == "before the trap\n"


def test_run_passes_directories_and_arguments(here: Path) -> None:
    (here / "data").mkdir(exist_ok=True)
    (here / "data" / "a.txt").write_text("word word")
    for grant in ("data::/d", "data::/d:ro", "data::/d:rw"):
        code, out, err = run(here, "run", WORDS, "--dir", grant, "--", "/d/a.txt")
        assert (code, err) == (0, "")
        assert "2  word" in out
    assert run(here, "run", WORDS, "--", "/d/a.txt")[0] != 0
    assert "2  word" in run(here, "run", WORDS, "--dir", "data", "data/a.txt")[1]


def test_run_passes_variables(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "yes")
    app = str(EXAMPLES / "misbehave.wasm")
    _, out, _ = run(here, "run", app, "--env", "A=1=2", "--env", "MINE", "env")
    assert set(out.splitlines()) == {"A=1=2", "MINE=yes"}


def test_run_as_json_captures(here: Path) -> None:
    code, out, err = run(here, "run", "hello.wat", "--json")
    answer = json.loads(out)
    assert (code, err) == (0, "")
    assert (answer["exit_code"], answer["stdout"], answer["stderr"]) == (0, "hello\n", "")
    code, out, _ = run(here, "run", "stdin.wat", "--json", stdin=b"\xff")
    assert json.loads(out)["stdout_base64"] == "/w=="


def test_a_policy_file_is_obeyed(here: Path) -> None:
    (here / "policy.toml").write_text("[limits]\nwall_time = 0.2\n")
    assert run(here, "call", "loop.wat", "spin", "--policy", "policy.toml")[0] == 3
    (here / "policy.toml").write_text("[limits]\nwal_time = 0.2\n")
    code, _, err = run(here, "call", "loop.wat", "spin", "--policy", "policy.toml")
    assert code == 2
    assert "did you mean wall_time" in err


@pytest.mark.parametrize(
    ("grants", "code"),
    [
        ((), 2),
        (("--net", "127.0.0.1:{port}"), 0),
        (("--net", "full"), 0),
        (("--net", ":{port}"), 2),
        (("--net", "api.example.org:443", "--net", "loopback:{port}"), 0),
    ],
)
def test_the_network_is_granted_on_the_command_line(
    here: Path, grants: tuple[str, ...], code: int
) -> None:
    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"served")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            given = [grant.format(port=server.server_port) for grant in grants]
            url = f"http://127.0.0.1:{server.server_port}/"
            found, out, err = run(here, "run", FETCH, *given, "--", url)
        finally:
            server.shutdown()
            thread.join()
    assert (found, out) == (code, "" if code else "served"), err


@pytest.mark.parametrize("grant", ["", "x", "x:0", ":0", "loopback:x", "a.example:80:80", "*:80"])
def test_a_grant_of_the_network_that_makes_no_sense_is_usage(here: Path, grant: str) -> None:
    code, _, err = run(here, "run", FETCH, "--net", grant)
    assert code == 2
    assert "capabilities.network" in err


def test_output_arrives_while_the_guest_runs(here: Path) -> None:
    with start(here, "run", "stdin.wat", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"first")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], 30)
        assert ready
        assert os.read(process.stdout.fileno(), 100) == b"first"
        assert process.poll() is None
        process.stdin.close()
        assert process.wait() == 0


def test_a_reader_that_goes_away_ends_the_command(here: Path) -> None:
    with start(here, "run", "floods.wat", "--limit", "output=1GiB") as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait() == 141
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.parametrize("arguments", [("run", "hello.wat"), ("call", CALC, "add", "1", "2")])
def test_a_full_disk_is_an_error_that_says_so(here: Path, arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full, start(here, *arguments, stdout=full.fileno()) as process:
        _, err = process.communicate()
    assert process.returncode == 74
    assert err == b"wasm-sandbox: error: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_do_no_harm(here: Path, closed: str) -> None:
    command = shlex.join([sys.executable, "-m", "wasm_sandbox", *with_cache(here, STDIN)])
    done = subprocess.run(
        ["sh", "-c", f"{command} {closed}"], cwd=here, env={**os.environ, **ENVIRONMENT}, input=b""
    )
    assert done.returncode == 0


def test_run_reads_a_terminal(here: Path) -> None:
    master, slave = pty.openpty()
    try:
        with start(here, "run", "stdin.wat", stdin=slave) as process:
            os.write(master, b"typed\n\x04")
            out, err = process.communicate()
    finally:
        os.close(master)
        os.close(slave)
    assert (process.returncode, out, err) == (0, b"typed\n", b"")


@pytest.mark.parametrize("arguments", [("run", "sleeps.wat"), ("call", "loop.wat", "spin")])
def test_ctrl_c_ends_the_command(here: Path, arguments: tuple[str, ...]) -> None:
    with start(here, *arguments, session=True) as process:
        time.sleep(2)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert err == b""


@pytest.mark.parametrize("program", ["from wasm_sandbox.cli import start", "import runpy"])
def test_ctrl_c_while_the_command_is_still_starting_leaves_no_traceback(program: str) -> None:
    script = f"""import sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == "wasm_sandbox.cli.arguments":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
{program}
sys.exit(start() if "start" in globals() else runpy.run_module("wasm_sandbox", None, "__main__"))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **ENVIRONMENT}, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.parametrize("locale", ["C.UTF-8", "POSIX"])
def test_text_is_utf_8_whatever_the_terminal_takes_it_for(
    here: Path, monkeypatch: pytest.MonkeyPatch, locale: str
) -> None:
    for name, value in {
        "LC_ALL": locale,
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }.items():
        monkeypatch.setenv(name, value)
    greeting = (0, "Hello, Wörld!\n", "")
    assert run(here, "call", TEXT, "greet", "Wörld", "--returns", "str") == greeting
    code, out, _ = run(here, "call", TEXT, "greet", "Wörld", "--returns", "str", "--json")
    assert (code, json.loads(out)["value"]) == (0, "Hello, Wörld!")
    code, out, err = run(here, "call", TEXT, "Wörld", "--json")
    assert (code, err) == (2, "")
    assert "there is no export" in json.loads(out)["error"]["message"]


def test_an_argument_is_passed_byte_by_byte(here: Path) -> None:
    code, out, _ = run(
        here, "call", TEXT, "upper", os.fsdecode(b"a\xffb"), "--returns", "bytes", "--json"
    )
    assert (code, json.loads(out)["value"]) == (0, {"base64": base64.b64encode(b"A\xffB").decode()})


# -- inspect and the rest -----------------------------------------------------------------------


def test_inspect_shows_what_a_module_offers_and_needs(here: Path) -> None:
    code, out, _ = run(here, "inspect", WORDS)
    assert code == 0
    assert "WASI command" in out
    assert "asks for: filesystem, stdio" in out
    assert "wasi_snapshot_preview1.path_open: func (i32, i32" in out
    code, out, _ = run(here, "inspect", "missing.wat")
    assert "host functions" in out
    code, out, _ = run(here, "inspect", FETCH)
    assert "asks for: stdio, network" in out
    assert "host functions" not in out


def test_inspect_as_json_is_complete(here: Path) -> None:
    code, out, _ = run(here, "inspect", CALC, "--json")
    facts = json.loads(out)
    assert code == 0
    assert re.fullmatch("[0-9a-f]{64}", facts["sha256"])
    assert {"name": "add", "type": "func (i32, i32) -> (i32)"} in facts["exports"]
    assert facts["kind"] == "library"
    assert facts["capabilities"] == []


@pytest.mark.parametrize("arguments", [["--help"], ["help"], ["call", "--help"], ["run", "-h"]])
def test_help_tells_the_exit_codes_or_options(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    assert "--json" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"wasm-sandbox {wasm_sandbox.__version__}\n"


def test_no_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "inspect" in capsys.readouterr().err


def test_a_long_compilation_shows_progress_on_a_terminal(here: Path) -> None:
    script = (
        "import time; from wasm_sandbox.cli.progress import progress\n"
        "with progress('compiling x'): time.sleep(0.9)"
    )
    master, slave = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", script], stderr=slave, check=True)
        shown = os.read(master, 1000)
    finally:
        os.close(master)
        os.close(slave)
    assert b"compiling x: " in shown
    assert shown.endswith(b"\r\x1b[K")


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("i32", "5", 5),
        ("i32", "-0x10", -16),
        ("i64", "0b101", 5),
        ("i32", "010", 10),
        ("i32", "1.5", None),
        ("i32", "", None),
        ("f64", "1.5", 1.5),
        ("f64", "5", 5.0),
        ("f64", "0x10", 16.0),
        ("f64", "inf", float("inf")),
        ("f64", "x", None),
        ("v128", "0xff", 255),
    ],
)
def test_numbers_are_read_as_the_type_wants(kind: str, text: str, value: object) -> None:
    assert parse_number(kind, text) == value


def test_what_a_guest_says_cannot_drive_the_terminal() -> None:
    assert printable("\x1b[2J\r\nname\u202e") == r"\x1b[2J\r\nname\u202e"


def test_json_holds_what_json_cannot() -> None:
    value = (float("nan"), float("-inf"), b"\xff", None, 1.5)
    assert jsonable(value) == ["nan", "-inf", {"base64": "/w=="}, None, 1.5]
