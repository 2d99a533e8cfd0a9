"""``dev.py`` sets itself up once, wholly, and anew where it was interrupted."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "dev.py").exists(), reason="needs the sources, not the wheel"
)


@pytest.fixture
def dev() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def environment(dev: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One whose pip only notes what it was asked for, in ``asked``, and may be told to ``fail``."""
    made = dev.Environment(tmp_path)
    made.asked, made.created, made.fail = [], 0, None

    def install(*arguments: object) -> None:
        made.asked.append(arguments)
        if made.fail is not None:
            raise made.fail

    def create() -> None:
        made.created += 1

    monkeypatch.setattr(made, "pip_install", install)
    monkeypatch.setattr(made, "create", create)
    monkeypatch.setattr(made, "_works", lambda: made.created > 0)
    return made


def test_what_is_asked_of_pip_is_a_requirement_that_all_its_versions_take(environment: Any) -> None:
    environment.have(set())
    environment.have({"test"})
    environment.have({"lint"})
    wanted = [str(ROOT), f"{ROOT}[test]", f"{ROOT}[lint,test]"]
    assert environment.asked == [("--editable", each) for each in wanted]
    assert environment.created == 1


def test_what_was_installed_is_not_installed_again(environment: Any) -> None:
    environment.have({"test", "lint"})
    environment.have({"test"})
    environment.have(set())
    assert len(environment.asked) == 1


def test_an_installation_that_was_interrupted_begins_anew(environment: Any) -> None:
    environment.fail = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        environment.have({"test"})
    environment.fail = None
    environment.have({"test"})
    assert environment.created == 2


def test_an_installation_that_failed_is_tried_again(dev: ModuleType, environment: Any) -> None:
    environment.fail = dev.Failed(1)
    with pytest.raises(dev.Failed):
        environment.have({"test"})
    environment.fail = None
    environment.have({"test"})
    assert (len(environment.asked), environment.created) == (2, 1)
