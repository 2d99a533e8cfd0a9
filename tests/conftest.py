"""What all tests share."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from wasm_sandbox.supervisor import watch

# A shell that starts the tests in the background has them ignore it, and so would their programs.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more about the neighbours on this machine than about the code.
settings.register_profile("wasm-sandbox", deadline=None, print_blob=True)
settings.load_profile("wasm-sandbox")


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, a worker that stops its guest when told to is not killed. A bad
    one never stops it."""
    monkeypatch.setattr(watch, "GRACE", 15.0)


@pytest.fixture(scope="session")
def suites() -> Path:
    """The folder of the WebAssembly test suites; without it the test is skipped by name."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "suites"
    folder = Path(os.environ.get("WASM_SANDBOX_SUITES", beside))
    if not folder.is_dir():
        pytest.skip("the test suites are neither in $WASM_SANDBOX_SUITES nor in ../shared/suites")
    return folder
