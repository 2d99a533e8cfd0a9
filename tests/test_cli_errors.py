"""What is wrong on the command line is said in one line, with the exit code that is documented."""

from __future__ import annotations

import json

import pytest
from command_lines import CALC, TEXT, Run
from native import workers_without

pytest_plugins = ("guest_folder",)

ERRORS: list[tuple[tuple[str, ...], int, str]] = [
    (("call", CALC, "ad", "5", "3"), 2, "did you mean add"),
    (("call", CALC, "add"), 2, "nothing is given for parameter 1, i32"),
    (("call", CALC, "add", "5"), 2, "nothing is given for parameter 2, i32"),
    (("call", CALC, "add", "5", "3", "1"), 2, "no parameter is left for argument 3, 1"),
    (("call", CALC, "add", "5", "x"), 2, "argument 2 must be i32, not 'x'"),
    (("call", CALC, "add", "5", "1.5"), 2, "argument 2 must be i32, not 1.5"),
    (("call", CALC, "add", "x"), 2, "cannot take argument 1, 'x'"),
    (("call", TEXT, "greet", "a", "b"), 2, "none is left for argument 2, 'b'"),
    (("call", TEXT, "greet"), 2, "takes 2 arguments, 0 given"),
    (("call", CALC, "add", "5", "99999999999"), 2, "i32"),
    (("call", CALC, "add", "5", "3", "--returns", "str"), 2, "returns=str"),
    (("call", "traps.wat", "unreachable"), 1, "unreachable"),
    (("call", "loop.wat", "spin", "--timeout", "0.2"), 3, "0.2"),
    (("call", "loop.wat", "spin", "--fuel", "1000"), 3, "fuel"),
    (("call", "missing.wat", "run"), 2, "env"),
    (("call", "nowhere.wasm", "run"), 2, "No such file"),
    (("call", "guest.c", "run"), 2, "does not compile"),
    (("call", CALC, "add", "1", "2", "--memory", "lots"), 2, "size"),
    (("call", CALC, "add", "1", "2", "--memory=-1"), 2, "size"),
    (("call", CALC, "add", "1", "2", "--timeout", "-1"), 2, "--timeout: must be between"),
    (("call", CALC, "add", "1", "2", "--timeout", "soon"), 2, "'soon' is no number"),
    (("call", CALC, "add", "1", "2", "--fuel", "1.5"), 2, "'1.5' is no whole number"),
    (("call", CALC, "add", "1", "2", "--memory", "1TiB"), 2, "between 0 and 17179869184"),
    (("call", CALC, "add", "1", "2", "--limit", "stack=1"), 2, "--limit stack: must be between"),
    (("call", CALC, "add", "1", "2", "--limit", "output"), 2, "NAME=VALUE"),
    (("call", CALC, "add", "1", "2", "--limit", "outputs=3"), 2, "did you mean output?"),
    (("call", CALC, "add", "1", "2", "--limit", "stack=x"), 2, "stack"),
    (("call", CALC, "add", "1", "2", "--dir", "/no such"), 2, "not a directory"),
    (("call", CALC, "add", "1", "2", "--policy", "nowhere.toml"), 2, "policy"),
    (("call", CALC, "add", "1", "2", "--frob"), 2, "--frob"),
    (("call", CALC, "add", "1", "2", "--isolation", "-1"), 2, "invalid choice: '-1'"),
    (("call",), 2, "required: MODULE, FUNCTION\n"),
    (("call", CALC), 2, "required: FUNCTION\n"),
    (("frob",), 2, "frob"),
    (("rnu",), 2, "did you mean run?"),
    (("call", ".", "add"), 2, "Is a directory"),
    (("call", "text.txt", "add"), 2, "text.txt: the module is not WebAssembly"),
    (("call", "cut.wasm", "add"), 2, "cut.wasm: unexpected end"),
    (("run", "hello.wat", "-n", "5"), 2, "goes behind --"),
    (("run", CALC), 2, "no WASI command"),
    (("run", "hello.wat", "--env", "NOT_SET_ANYWHERE"), 2, "--env"),
    (("run", "traps_late.wat"), 1, "unreachable"),
    (("run", "sleeps.wat", "--timeout", "0.2"), 3, "0.2"),
    (("run", "floods.wat", "--limit", "output=1KiB"), 3, "output"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), ERRORS, ids=lambda v: str(v)[:60])
def test_an_error_has_its_exit_code_and_says_what(
    here_run: Run, arguments: tuple[str, ...], code: int, said: str
) -> None:
    got, _, err = here_run(*arguments)
    assert said in err
    assert err.startswith("wasm-sandbox: error: ")
    assert "Traceback" not in err
    assert got == code


@pytest.mark.parametrize(("arguments", "code", "said"), ERRORS[::4], ids=lambda v: str(v)[:60])
def test_an_error_as_json_is_an_object(
    here_run: Run, arguments: tuple[str, ...], code: int, said: str
) -> None:
    got, out, err = here_run(*arguments, "--json")
    error = json.loads(out)["error"]
    assert {"type", "message", "hint", "data"} <= set(error)
    assert said in f"{error['message']} {error['hint']}"
    assert (got, err) == (code, "")


def test_strict_refuses_to_run_without_a_wall_and_says_why(here_run: Run) -> None:
    arguments = ("run", "hello.wat", "--isolation", "strict")
    with workers_without("rlimits"):
        code, out, err = here_run(*arguments)
        assert (code, out) == (5, "")
        assert err.startswith("wasm-sandbox: error: ")
        assert "rlimits: left out by the test" in err
        code, out, err = here_run(*arguments, "--json")
    error = json.loads(out)["error"]
    assert (code, err, error["type"]) == (5, "", "IsolationError")
    assert "rlimits: left out by the test" in error["message"]
