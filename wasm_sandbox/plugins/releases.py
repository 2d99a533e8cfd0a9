"""Which version of each plug-in is in force: found, checked, exchanged and put back.

Theory of operation. A caller reads ``Slot.release`` once, and makes its call with the functions of
that release; what was begun with one release stays with it, for as long as somebody holds it. So a
change of versions is one assignment, made only when the new one is loaded and healthy; nothing is
told to those who call, and no lock is held while they do.

The synchronous face and that of trio share the coroutines here. What they await is the ``Host``,
whose answers are there at once in the synchronous one (``faces.py``).
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Mapping
from typing import cast
from weakref import WeakValueDictionary

import msgspec

from ..configuration import Configuration
from ..function import Function
from ..protocol.errors import (
    BadResult,
    ConfigurationError,
    PluginUnavailable,
    PoolError,
    QueueFull,
    SandboxError,
)
from ..protocol.limits import Limits
from .folder import SETTLE, Look, list_folders, look_at, read_module
from .grants import grant_capabilities, grant_imports, grant_limits, granted_to
from .manifest import ANYTHING, EntryPoint, Health, Manifest
from .state import Host, PluginEvent, PluginRelease, Rules, Slot
from .versions import Version

_log = logging.getLogger("wasm_sandbox")
PATIENCE = 5.0
"""Seconds for which a refresh waits until a folder stays as it is."""


class Releases:
    """The plug-ins of a directory. One ``refresh`` at a time; the rest is for any thread."""

    def __init__(self, host: Host, pool: Configuration, rules: Rules) -> None:
        self._host = host
        self._pool = pool
        self._rules = rules
        self._exchange = threading.Lock()
        self.slots: dict[str, Slot] = {}
        """Those that serve. Never changed in place: other threads read it."""
        self.refused: dict[str, SandboxError] = {}
        """Why what is in a folder is not used, by the folder's name."""
        self._said: dict[str, object] = {}
        """What was told of those in ``refused``."""
        self._gone: WeakValueDictionary[str, Slot] = WeakValueDictionary()
        """Those that were removed, and that somebody still holds: they may come back."""

    def slot(self, name: str) -> Slot:
        """The plug-in of this name.

        Raises:
            PluginUnavailable: there is none.
        """
        slot = self.slots.get(name)
        if slot is not None:
            return slot
        reasons = "; ".join(f"{folder}: {error}" for folder, error in self.refused.items())
        raise PluginUnavailable(
            f"there is no plug-in {name!r}", f"refused were {reasons}" if reasons else ""
        )

    def tell(self, events: list[PluginEvent]) -> None:
        """Hand events to the user, in order."""
        for event in events:
            if self._rules.on_event is None:
                if event.what in ("refused", "failed"):
                    _log.warning("plug-in %s was %s: %s", event.folder, event.what, event.reason)
                continue
            try:
                self._rules.on_event(event)
            except KeyboardInterrupt:
                raise
            except BaseException:  # the user's; the versions have changed already
                _log.exception("on_event failed")

    def roll_back(self, name: str) -> PluginEvent:
        """Let the version before serve again.

        Raises:
            PluginUnavailable: there is no such plug-in, or no version before.
        """
        slot = self.slot(name)
        with self._exchange:
            bad, good = slot.current(), slot.previous
            if good is None:
                raise PluginUnavailable(f"{name} {bad.version} has no version before it")
            slot.put_back.add(bad.digest)
            slot.release, slot.previous = good, None
        return PluginEvent(
            what="rolled_back",
            folder=slot.folder,
            plugin=name,
            version=good.version,
            previous=bad.version,
            reason="rollback() was called",
        )

    # --- what the folders hold ------------------------------------------------------------------

    async def refresh(self, events: list[PluginEvent]) -> None:
        """Take in what changed; ``events`` gets what happened, as it happens.

        Raises:
            ConfigurationError: the directory cannot be read; nothing changes.
            PoolError: the pool is over.
        """
        folders = await self._host.work(list_folders, self._rules.directory)
        refused: dict[str, SandboxError] = {}
        looks: dict[str, tuple[Look, Manifest]] = {}
        for folder in folders:
            try:
                look = await self._settled(folder)
                if isinstance(look.found, ConfigurationError):
                    raise look.found
                looks[folder] = look, look.found
            except ConfigurationError as error:
                refused[folder] = error
                self._refuse(folder, error, None, events)
        for folder, (look, manifest) in looks.items():
            try:
                self._check_name(folder, manifest, looks, refused)
                await self._take(folder, look, manifest, events)
            except SandboxError as error:
                if isinstance(error, PoolError) and not isinstance(error, QueueFull):
                    raise
                refused[folder] = error
                self._refuse(folder, error, manifest, events)
        names = {manifest.name for _, manifest in looks.values()}
        for slot in self.slots.values():
            # A folder that cannot be read at the moment is still its plug-in's.
            if slot.name not in names and slot.folder not in refused:
                events.append(self._remove(slot))
        self.refused = refused
        self._said = {folder: self._said[folder] for folder in refused}

    def _refuse(
        self,
        folder: str,
        error: SandboxError,
        manifest: Manifest | None,
        events: list[PluginEvent],
    ) -> None:
        version = str(manifest.version) if manifest else ""
        # What a limit stopped is told with figures that differ each time.
        what = version, type(error), getattr(error, "limit", "") or str(error)
        if self._said.get(folder) == what:
            return
        self._said[folder] = what
        serving = [
            slot.release.version
            for slot in self.slots.values()
            if slot.folder == folder and slot.release is not None
        ]
        events.append(
            PluginEvent(
                what="refused",
                folder=folder,
                plugin=manifest.name if manifest else "",
                version=version,
                previous="".join(serving),
                reason=str(error),
            )
        )

    async def _settled(self, folder: str) -> Look:
        end = time.monotonic() + PATIENCE
        look = await self._look(folder)
        while not look.is_quiet:
            await self._host.sleep(SETTLE)
            before, look = look, await self._look(folder)
            if look.signature == before.signature:
                break
            if time.monotonic() > end:
                raise _kept_changing(folder)
        return look

    async def _look(self, folder: str) -> Look:
        return await self._host.work(look_at, self._rules.directory, folder)

    def _check_name(
        self,
        folder: str,
        manifest: Manifest,
        looks: Mapping[str, tuple[Look, Manifest]],
        unreadable: Mapping[str, object],
    ) -> None:
        places = [each for each, (_, other) in looks.items() if other.name == manifest.name]
        slot = self.slots.get(manifest.name)
        if slot is not None:
            if slot.folder == folder:
                return
            if slot.folder in unreadable and slot.folder not in looks:
                places.append(slot.folder)
        if len(places) > 1:
            raise ConfigurationError(
                "name", manifest.name, f"is the name of several plug-ins: {', '.join(places)}"
            )

    async def _take(
        self, folder: str, look: Look, manifest: Manifest, events: list[PluginEvent]
    ) -> None:
        name = manifest.name
        slot = self.slots.get(name) or self._gone.get(name) or Slot(name, folder)
        serving = slot.release
        if serving is not None and slot.signature == look.signature:
            return
        data = await self._read(folder, manifest)
        end = time.monotonic() + PATIENCE
        while (again := await self._settled(folder)).signature != look.signature:
            if time.monotonic() > end:
                raise _kept_changing(folder)
            look, manifest = again, _same_plugin(again, manifest)
            data = await self._read(folder, manifest)
        sha256 = hashlib.sha256(data)
        digest = hashlib.sha256(sha256.digest() + manifest.source).digest()
        if serving is None or digest not in (serving.digest, *slot.put_back):
            if manifest.sha256 not in (None, sha256.hexdigest()):
                raise ConfigurationError(
                    "sha256", manifest.sha256, f"the module's is {sha256.hexdigest()}"
                )
            if serving is not None:
                _check_newer(manifest.version, serving.manifest.version)
            release = await self._make(manifest, data, digest)
            slot.folder = folder
            self._adopt(slot, release, events)
        slot.folder, slot.signature = folder, look.signature

    async def _read(self, folder: str, manifest: Manifest) -> bytes:
        return await self._host.work(
            read_module,
            self._rules.directory,
            folder,
            manifest.module,
            self._pool.limits.module_size,
        )

    def _adopt(self, slot: Slot, release: PluginRelease, events: list[PluginEvent]) -> None:
        with self._exchange:
            slot.previous, slot.release = slot.release, release
        self.slots = {**self.slots, slot.name: slot}
        events.append(
            PluginEvent(
                what="loaded" if slot.previous is None else "reloaded",
                folder=slot.folder,
                plugin=slot.name,
                version=release.version,
                previous="" if slot.previous is None else slot.previous.version,
            )
        )

    def _remove(self, slot: Slot) -> PluginEvent:
        with self._exchange:
            release = slot.current()
            slot.release = slot.previous = None
        slot.put_back.clear()
        self._gone[slot.name] = slot
        self.slots = {name: each for name, each in self.slots.items() if each is not slot}
        return PluginEvent(
            what="removed", folder=slot.folder, plugin=slot.name, previous=release.version
        )

    async def _make(self, manifest: Manifest, data: bytes, digest: bytes) -> PluginRelease:
        limits = grant_limits(manifest, self._rules.limits)
        granted = granted_to(manifest.name, self._rules.granted, self._pool.capabilities)
        capabilities = grant_capabilities(manifest, granted)
        imports = grant_imports(manifest, self._rules.imports)
        module = await self._host.load(data, imports)

        def function(entry: EntryPoint, limits: Limits = limits) -> Function:
            return module[entry.export].options(
                limits=limits,
                capabilities=capabilities,
                tenant=f"plugin:{manifest.name}",
                returns=entry.returns,
            )

        functions = {name: function(entry) for name, entry in manifest.entry_points.items()}
        if manifest.health is not None:
            # Of the call alone: that the pool is busy is not the plug-in's fault.
            brief = msgspec.structs.replace(
                limits, wall_time=min(limits.wall_time, manifest.health.timeout)
            )
            await self._check_health(manifest.health, function(manifest.health.entry, brief))
        return PluginRelease(
            name=manifest.name,
            version=str(manifest.version),
            module=module,
            manifest=manifest,
            functions=functions,
            digest=digest,
        )

    async def _check_health(self, health: Health, function: Function) -> None:
        value = await self._host.call(function, health.args)
        if isinstance(value, tuple):  # several results: TOML has lists
            value = [*cast("tuple[object, ...]", value)]
        wanted = health.result
        same_kind = isinstance(wanted, bool) == isinstance(value, bool)
        if wanted is ANYTHING or (same_kind and wanted == value):
            return
        raise BadResult(
            f"the health check {function.name} returned {value!r:.100}, not {wanted!r:.100}"
        )


def _kept_changing(folder: str) -> ConfigurationError:
    return ConfigurationError(
        "plugin", folder, f"kept changing for {PATIENCE:g} seconds", "refresh() later"
    )


def _same_plugin(look: Look, manifest: Manifest) -> Manifest:
    """The manifest of a folder that changed while it was read."""
    if isinstance(look.found, ConfigurationError):
        raise look.found
    if look.found.name != manifest.name:
        raise ConfigurationError(
            "name", look.found.name, f"was {manifest.name} a moment ago", "refresh() again"
        )
    return look.found


def _check_newer(version: Version, serving: Version) -> None:
    if version == serving:
        raise ConfigurationError(
            "version", str(version), "serves already, with another content", "raise the version"
        )
    if version < serving:
        raise ConfigurationError(
            "version",
            str(version),
            f"is older than {serving}, which serves",
            "use rollback(), or give the old content a new version",
        )
