"""Plug-ins are replaced under load and put back; what is wrong with one hurts nobody else."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from importing_components import CARRIER, SHOP
from plugin_folders import WAT, Gate, health, put, whats

from wasm_sandbox import (
    BadResult,
    Capabilities,
    CapabilityDenied,
    ConfigurationError,
    DeadlineExceeded,
    InvalidModule,
    MissingExport,
    MissingImport,
    PluginEvent,
    Plugins,
    PluginUnavailable,
    Pool,
    PoolError,
    SandboxError,
    Trap,
    Variant,
)
from wasm_sandbox.plugins import folder, releases

GUESTS = Path(__file__).parents[1] / "examples" / "guests"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled modules that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def pool(cache: Path) -> Iterator[Pool]:
    with Pool(workers=2, cache_dir=cache) as pool:
        yield pool


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "plugins").mkdir()
    return tmp_path / "plugins"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changed is waited for less long than users would want it."""
    monkeypatch.setattr(folder, "SETTLE", 0.05)
    monkeypatch.setattr(releases, "SETTLE", 0.05)


def test_a_plugin_is_loaded_with_what_its_manifest_asks_for(
    pool: Pool, place: Path, gate: Gate
) -> None:
    put(place, 1, tables='[limits]\nmemory = "1MiB"\nwall_time = 0.2\n' + health("which", 1))
    (place / "README").write_text("no plug-in")
    (place / ".staging").mkdir()
    events: list[PluginEvent] = []
    granted = {"other": Capabilities()}
    plugins = Plugins(pool, place, imports=gate.imports, on_event=events.append, granted=granted)
    assert [*plugins] == ["clock"]
    assert (len(plugins), "clock" in plugins, plugins.refused) == (1, True, {})
    clock = plugins["clock"]
    assert (clock.name, clock.version, clock.call("which")) == ("clock", "1.0.0", 1)
    assert clock.detailed("twice")[0] == (1, 1)
    assert clock.submit("which").result() == 1
    assert [*clock.release] == ["which", "twice", "wait", "spin"]
    settings = clock.release["which"].settings
    assert (settings.limits.memory, settings.tenant) == (1 << 20, "plugin:clock")
    with pytest.raises(DeadlineExceeded):
        clock.call("spin")
    with pytest.raises(MissingExport, match="it has which, twice"):
        clock.call("trap")  # exported, and no entry point
    assert events == [PluginEvent(what="loaded", folder="clock", plugin="clock", version="1.0.0")]
    assert plugins.refresh() == ()


def test_a_call_that_had_begun_ends_with_its_version_and_new_ones_have_the_new(
    pool: Pool, place: Path, gate: Gate
) -> None:
    put(place, 1)
    plugins = Plugins(pool, place, imports=gate.imports)
    clock = plugins["clock"]
    old = clock.release
    begun = clock.submit("wait")
    assert gate.entered.acquire(timeout=60)
    put(place, 2)
    (event,) = plugins.refresh()
    assert (event.what, event.previous, event.version) == ("reloaded", "1.0.0", "2.0.0")
    assert clock.call("which") == 2
    assert old["which"]() == 1
    assert not begun.done()
    gate.open.set()
    assert begun.result() == 1


def test_under_load_a_reload_drops_no_call_and_mixes_no_versions(
    pool: Pool, place: Path, gate: Gate
) -> None:
    put(place, 1)
    plugins = Plugins(pool, place, imports=gate.imports)
    clock = plugins["clock"]
    over = threading.Event()

    def use(_: int) -> list[int]:
        seen: list[int] = []
        while not over.is_set():
            futures = [clock.submit("twice") for _ in range(10)]
            for future in futures:
                first, second = future.result()
                assert first == second
                seen.append(first)
        return seen

    with ThreadPoolExecutor(3) as users:
        work = [users.submit(use, n) for n in range(3)]
        try:
            for number in range(2, 6):
                put(place, number)
                assert whats(plugins.refresh()) == [("reloaded", "clock")]
                assert clock.call("which") == number
        finally:
            over.set()
        for each in work:
            seen = each.result()
            assert seen == sorted(seen)
            assert set(seen) <= {1, 2, 3, 4, 5}


def _not_toml(place: Path) -> None:
    (place / "plugin.toml").write_text("name = ")


def _no_manifest(place: Path) -> None:
    (place / "plugin.toml").unlink()


def _no_module(place: Path) -> None:
    (place / "code.wat").unlink()


def _link(place: Path) -> None:
    (place / "code.wat").unlink()
    (place / "code.wat").symlink_to("/etc/passwd")


def _change(number: int = 2, **changes: Any) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        put(place.parent, number, **changes)

    return change


BROKEN: dict[str, tuple[Callable[[Path], None], type[SandboxError], str]] = {
    "manifest": (_not_toml, ConfigurationError, "plugin.toml"),
    "no manifest": (_no_manifest, ConfigurationError, "plugin.toml"),
    "no module": (_no_module, ConfigurationError, "code.wat"),
    "link": (_link, ConfigurationError, "no symbolic links"),
    "module": (_change(code="(module"), InvalidModule, ""),
    "entry point": (
        _change(code='(module (import "env" "gate" (func (param i32))))'),
        MissingExport,
        "which",
    ),
    "digest": (_change(more=f'sha256 = "{"0" * 64}"'), ConfigurationError, "sha256"),
    "import": (_change(code=WAT.replace("gate", "gote", 1)), SandboxError, "gate"),
    "missing import": (
        _change(code=WAT.replace("(func (export", '(import "env" "x" (func)) (func (export', 1)),
        MissingImport,
        "env.x",
    ),
    "capability": (
        _change(tables='[capabilities]\nnetwork = "full"'),
        CapabilityDenied,
        "network full",
    ),
    "limit": (_change(tables='[limits]\nmemory = "1GiB"'), CapabilityDenied, "limits.memory"),
    "same version": (_change(version="1.0.0"), ConfigurationError, "raise the version"),
    "older version": (_change(version="1.0.0-rc.1"), ConfigurationError, "older than 1.0.0"),
    "health: result": (_change(tables=health("which", 3)), BadResult, "returned 2, not 3"),
    "health: trap": (_change(tables=health("trap")), Trap, ""),
    "health: time": (_change(tables=health("spin", timeout=0.1)), DeadlineExceeded, "wall_time"),
    "health: export": (_change(tables=health("healthy")), MissingExport, "healthy"),
}


@pytest.mark.parametrize(("break_it", "kind", "named"), BROKEN.values(), ids=BROKEN)
def test_a_version_that_cannot_be_used_is_refused_and_the_one_before_goes_on(
    pool: Pool,
    place: Path,
    gate: Gate,
    break_it: Callable[[Path], None],
    kind: type[SandboxError],
    named: str,
) -> None:
    put(place, 1)
    plugins = Plugins(pool, place, imports=gate.imports)
    clock = plugins["clock"]
    break_it(place / "clock")
    (event,) = plugins.refresh()
    assert (event.what, event.folder, event.previous) == ("refused", "clock", "1.0.0")
    assert named in event.reason
    assert isinstance(plugins.refused["clock"], kind)
    assert (clock.version, clock.call("which")) == ("1.0.0", 1)
    assert plugins.refresh() == ()  # it was said
    (place / "clock" / "code.wat").unlink(missing_ok=True)
    put(place, 3)
    assert whats(plugins.refresh()) == [("reloaded", "clock")]
    assert (plugins.refused, clock.call("which")) == ({}, 3)


@pytest.mark.parametrize(("break_it", "kind", "named"), BROKEN.values(), ids=BROKEN)
def test_at_first_the_others_are_there_and_who_asks_for_a_refused_one_learns_why(
    pool: Pool,
    place: Path,
    gate: Gate,
    caplog: pytest.LogCaptureFixture,
    break_it: Callable[[Path], None],
    kind: type[SandboxError],
    named: str,
) -> None:
    put(place, 1, "other")
    break_it(put(place, 1))
    plugins = Plugins(pool, place, imports=gate.imports)
    if "version" in named or "older" in named:  # there is none before it
        assert [*plugins] == ["clock", "other"]
        return
    assert [*plugins] == ["other"]
    assert plugins["other"].call("which") == 1
    with pytest.raises(PluginUnavailable, match="refused were clock: ") as caught:
        plugins["clock"]
    assert named in str(caught.value)
    assert "clock was refused" in caplog.text  # nobody listens to events


@pytest.mark.parametrize(
    ("guest", "entry", "args", "result"),
    [
        ("text.wasm", 'call = { export = "greet", returns = "str" }', ("you",), "Hello, you!"),
        (
            "geometry.wat",
            'call = "docs:geometry/shapes#double"',
            (Variant("circle", 4),),
            Variant("circle", 8),
        ),
    ],
)
def test_a_plugin_may_speak_text_or_be_a_component(
    pool: Pool, place: Path, guest: str, entry: str, args: tuple[Any, ...], result: object
) -> None:
    (place / "guest").mkdir()
    shutil.copy(GUESTS / guest, place / "guest")
    manifest = f'name = "guest"\nversion = "1"\nmodule = "{guest}"\n[entry_points]\n{entry}\n'
    (place / "guest" / "plugin.toml").write_text(manifest)
    assert Plugins(pool, place)["guest"].call("call", *args) == result


def test_a_component_gets_the_functions_that_it_asks_for(pool: Pool, place: Path) -> None:
    seen: list[int] = []
    lent: dict[str, Any] = {
        "docs:shop/prices": {"unit_price": lambda item: item + 0.5},
        "log": seen.append,
    }
    asked = '"docs:shop/prices@0.1.0#unit-price", "log"'
    health = '[health]\nexport = "order"\nargs = [1, 2]\nresult = 3.0\n'
    (place / "shop").mkdir()
    (place / "shop" / "shop.wat").write_bytes(SHOP)
    for version, imports in ((1, asked), (2, '"log"'), (3, asked)):
        (place / "shop" / "plugin.toml").write_text(
            f'name = "shop"\nversion = "{version}"\nmodule = "shop.wat"\nimports = [{imports}]\n'
            f'[entry_points]\norder = "order"\n{health}'
        )
        plugins = Plugins(pool, place, imports=lent)
        if version == 2:
            assert isinstance(plugins.refused["shop"], MissingImport)
        else:
            assert plugins["shop"].call("order", 7, 2) == 15.0
    assert seen == [1, 7] * 2
    assert isinstance(Plugins(pool, place).refused["shop"], CapabilityDenied)


def test_an_entry_point_of_a_component_passes_objects(pool: Pool, place: Path) -> None:
    class Connection:
        def __init__(self, size: int) -> None:
            self.size = size

        def add_up(self, n: int) -> int:
            return self.size + n

    (place / "carrier").mkdir()
    (place / "carrier" / "code.wat").write_bytes(CARRIER)
    (place / "carrier" / "plugin.toml").write_text(
        'name = "carrier"\nversion = "1"\nmodule = "code.wat"\n'
        'imports = ["docs:db/api#connection"]\n[entry_points]\nlook = "look"\n'
        'back = "give-back"\n'
    )
    plugin = Plugins(pool, place, imports={"docs:db/api": {"connection": Connection}})["carrier"]
    thing = Connection(40)
    assert plugin.call("look", thing, 2) == 42
    assert plugin.call("back", thing) is thing


@pytest.mark.parametrize(
    "check",
    [
        'export = "twice"\nresult = [1, 1]',  # several results are a list there
        'export = "which"\nresult = 1',
        'export = "which"',  # that it returns is enough
    ],
)
def test_a_health_check_that_succeeds_lets_the_version_serve(
    pool: Pool, place: Path, gate: Gate, check: str
) -> None:
    put(place, 1, tables=f"[health]\n{check}")
    assert [*Plugins(pool, place, imports=gate.imports)] == ["clock"]


def test_true_is_not_the_number_one_to_a_health_check(pool: Pool, place: Path, gate: Gate) -> None:
    put(place, 1, tables='[health]\nexport = "which"\nresult = true')
    assert isinstance(Plugins(pool, place, imports=gate.imports).refused["clock"], BadResult)


def test_a_digest_that_fits_is_accepted(pool: Pool, place: Path, gate: Gate) -> None:
    digest = hashlib.sha256(WAT.format(number=1).encode()).hexdigest()
    put(place, 1, more=f'sha256 = "{digest}"')
    assert Plugins(pool, place, imports=gate.imports)["clock"].call("which") == 1


def test_files_that_were_only_touched_or_moved_change_nothing(
    pool: Pool, place: Path, gate: Gate
) -> None:
    put(place, 1)
    plugins = Plugins(pool, place, imports=gate.imports)
    old = plugins["clock"].release
    os.utime(place / "clock" / "code.wat")
    assert plugins.refresh() == ()
    (place / "clock").rename(place / "moved")
    assert plugins.refresh() == ()
    assert plugins["clock"].release is old
    shutil.rmtree(place / "moved")
    assert whats(plugins.refresh()) == [("removed", "moved")]


def test_a_removed_plugin_finishes_what_had_begun_and_may_come_back(
    pool: Pool, place: Path, gate: Gate
) -> None:
    put(place, 2)
    plugins = Plugins(pool, place, imports=gate.imports)
    clock = plugins["clock"]
    begun = clock.submit("wait")
    assert gate.entered.acquire(timeout=60)
    shutil.rmtree(place / "clock")
    assert whats(plugins.refresh()) == [("removed", "clock")]
    for use in (lambda: clock.call("which"), lambda: plugins["clock"], lambda: clock.version):
        with pytest.raises(PluginUnavailable):
            use()
    with pytest.raises(PluginUnavailable):
        plugins.rollback("clock")
    assert [*plugins] == []
    gate.open.set()
    assert begun.result() == 2
    put(place, 1)  # an older one: nothing serves that it could be compared with
    assert whats(plugins.refresh()) == [("loaded", "clock")]
    assert clock.call("which") == 1


def test_a_rollback_is_at_once_and_holds_until_the_content_changes(
    pool: Pool, place: Path, gate: Gate
) -> None:
    put(place, 1)
    events: list[PluginEvent] = []
    plugins = Plugins(pool, place, imports=gate.imports, on_event=events.append)
    with pytest.raises(PluginUnavailable, match="no version before"):
        plugins.rollback("clock")
    put(place, 2)
    plugins.refresh()
    plugins.rollback("clock")
    assert events[-1].what == "rolled_back"
    assert (events[-1].version, events[-1].previous) == ("1.0.0", "2.0.0")
    assert plugins["clock"].call("which") == 1
    os.utime(place / "clock" / "plugin.toml")
    assert plugins.refresh() == ()
    assert plugins["clock"].call("which") == 1
    put(place, 3)
    plugins.refresh()
    assert plugins["clock"].call("which") == 3


def test_two_of_the_same_name_are_refused_but_for_the_one_that_serves(
    pool: Pool, place: Path, gate: Gate
) -> None:
    put(place, 1, folder="a")
    put(place, 2, folder="b")
    plugins = Plugins(pool, place, imports=gate.imports)
    assert ([*plugins], [*plugins.refused]) == ([], ["a", "b"])
    assert "several plug-ins: a, b" in str(plugins.refused["a"])
    shutil.rmtree(place / "b")
    assert whats(plugins.refresh()) == [("loaded", "a")]
    put(place, 3, folder="b")
    put(place, 2, folder="a")
    assert sorted(whats(plugins.refresh())) == [("refused", "b"), ("reloaded", "a")]
    _not_toml(place / "a")  # still the place of the one that serves
    plugins.refresh()
    assert (sorted(plugins.refused), plugins["clock"].call("which")) == (["a", "b"], 2)


def test_of_two_changes_at_once_one_that_fails_does_not_hold_up_the_other(
    pool: Pool, place: Path, gate: Gate
) -> None:
    put(place, 1, "a")
    put(place, 1, "b")
    plugins = Plugins(pool, place, imports=gate.imports)
    put(place, 2, "a", code="(module")
    put(place, 2, "b")
    assert whats(plugins.refresh()) == [("refused", "a"), ("reloaded", "b")]
    assert (plugins["a"].call("which"), plugins["b"].call("which")) == (1, 2)


def test_of_two_refreshes_at_once_one_takes_the_change_in(
    pool: Pool, place: Path, gate: Gate
) -> None:
    put(place, 1)
    plugins = Plugins(pool, place, imports=gate.imports)
    put(place, 2)
    with ThreadPoolExecutor(2) as threads:
        done = [threads.submit(plugins.refresh) for _ in range(2)]
        assert sorted(len(each.result()) for each in done) == [0, 1]


def test_a_plugin_that_is_being_copied_is_waited_for(
    pool: Pool, place: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(place, 1)
    plugins = Plugins(pool, place, imports=gate.imports)
    text = WAT.format(number=2)
    put(place, 2, code="(module")
    looks = 0

    def look_at(directory: str, name: str) -> folder.Look:
        nonlocal looks
        found = folder.look_at(directory, name)
        looks += 1
        if looks <= 3:  # the copy goes on, right after the look
            (place / name / "code.wat").write_text(text[: len(text) * looks // 3])
        return found

    monkeypatch.setattr(releases, "look_at", look_at)
    assert whats(plugins.refresh()) == [("reloaded", "clock")]
    assert plugins["clock"].call("which") == 2


def test_a_plugin_that_keeps_changing_is_refused_and_the_old_one_goes_on(
    pool: Pool, place: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(place, 1)
    plugins = Plugins(pool, place, imports=gate.imports)

    def look_at(directory: str, name: str) -> folder.Look:
        with (place / name / "code.wat").open("a") as file:
            file.write(" ")
        return folder.look_at(directory, name)

    monkeypatch.setattr(releases, "look_at", look_at)
    monkeypatch.setattr(releases, "PATIENCE", 0.5)
    (event,) = plugins.refresh()
    assert "kept changing" in event.reason
    assert plugins["clock"].call("which") == 1


def test_a_plugin_that_changes_whenever_it_was_read_is_refused(
    pool: Pool, place: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(place, 1)
    plugins = Plugins(pool, place, imports=gate.imports)

    def read_module(directory: str, name: str, *rest: Any) -> bytes:
        data = folder.read_module(directory, name, *rest)
        (place / name / "plugin.toml").touch()
        return data

    monkeypatch.setattr(releases, "read_module", read_module)
    monkeypatch.setattr(releases, "PATIENCE", 0.5)
    put(place, 2)
    (event,) = plugins.refresh()
    assert "kept changing" in event.reason
    assert plugins["clock"].call("which") == 1


def test_a_directory_that_cannot_be_read_changes_nothing(
    pool: Pool, place: Path, gate: Gate
) -> None:
    put(place, 1)
    plugins = Plugins(pool, place, imports=gate.imports)
    place.rename(place.parent / "away")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        plugins.refresh()
    assert plugins["clock"].call("which") == 1


def test_a_callback_of_the_pool_cannot_refresh(pool: Pool, place: Path, gate: Gate) -> None:
    put(place, 1)
    plugins = Plugins(pool, place, imports=gate.imports)
    caught: list[BaseException] = []
    over = threading.Event()

    def refresh(_: object) -> None:
        try:
            plugins.refresh()
        except PoolError as error:
            caught.append(error)
        over.set()

    begun = plugins["clock"].submit("wait")
    begun.add_done_callback(refresh)
    gate.open.set()
    assert over.wait(60)
    assert len(caught) == 1


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_a_callback_that_raises_changes_nothing(
    pool: Pool,
    place: Path,
    gate: Gate,
    caplog: pytest.LogCaptureFixture,
    error: type[BaseException],
) -> None:
    def on_event(_: PluginEvent) -> None:
        raise error

    put(place, 1)
    plugins = Plugins(pool, place, imports=gate.imports, on_event=on_event)
    assert plugins["clock"].call("which") == 1
    assert "on_event failed" in caplog.text


@pytest.mark.parametrize(
    ("field", "keywords"),
    [
        ("plugins.granted", {"granted": "all"}),
        ("plugins.granted['a']", {"granted": {"a": "all"}}),
        ("plugins.limits", {"limits": 5}),
        ("plugins.on_event", {"on_event": 5}),
        ("plugins.directory", {"directory": 5}),
        ("plugins", {"directory": "/nowhere"}),
        ("plugins.watch", {"directory": "/nowhere", "watch": True}),
        ("load.imports", {"imports": 5}),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(
    pool: Pool, place: Path, field: str, keywords: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Plugins(pool, **{"directory": place, **keywords})
    assert caught.value.field.startswith(field)
