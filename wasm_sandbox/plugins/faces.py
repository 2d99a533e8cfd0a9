"""Plug-ins as programs see them: ``Plugins``, beside a ``Pool``."""

from __future__ import annotations

import os
import select
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ..function import Function
from ..future import CallFuture
from ..imports import Imports
from ..module import Module
from ..protocol.capabilities import Capabilities
from ..protocol.errors import ConfigurationError, PoolClosed, PoolError, SandboxError
from ..protocol.limits import Limits
from ..protocol.receipts import Receipt
from .releases import Releases
from .state import Host, PluginEvent, PluginRelease, Rules, Slot
from .watching import Watch

if TYPE_CHECKING:
    from ..pool import Pool

T = TypeVar("T")


class NamedPlugin:
    """A plug-in, through all its versions."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot

    @property
    def name(self) -> str:
        """Its name."""
        return self._slot.name

    @property
    def version(self) -> str:
        """The version that serves now.

        Raises:
            PluginUnavailable: it was removed.
        """
        return self.release.version

    @property
    def release(self) -> PluginRelease:
        """The version that serves now, to make several calls of just that one.

        Raises:
            PluginUnavailable: it was removed.
        """
        return self._slot.current()

    def __repr__(self) -> str:
        release = self._slot.release
        return f"<{type(self).__name__} {self.name} {release.version if release else 'removed'}>"


class Plugin(NamedPlugin):
    """A plug-in. Get it by ``plugins["name"]``; it stays the same through all versions."""

    def __init__(self, slot: Slot, pool: Pool) -> None:
        super().__init__(slot)
        self._pool = pool

    def call(self, entry: str, /, *args: Any) -> Any:
        """Call an entry point of the version that serves now, and wait for its value.

        Raises:
            MissingExport: there is no such entry point.
            PluginUnavailable: it was removed.
            SandboxError: as for every call.
        """
        return self.release[entry](*args)

    def detailed(self, entry: str, /, *args: Any) -> tuple[Any, Receipt]:
        """Call it and wait for its value and its receipt."""
        return self.release[entry].detailed(*args)

    def submit(self, entry: str, /, *args: Any) -> CallFuture:
        """Queue a call of the version that serves now; it stays with that version."""
        return self._pool.submit(self.release[entry], *args)


class PluginFolder:
    """The plug-ins of a directory."""

    def __init__(self, releases: Releases) -> None:
        self._releases = releases

    @property
    def refused(self) -> dict[str, SandboxError]:
        """Why what is in a folder is not used, by the folder's name, as of the last refresh."""
        return dict(self._releases.refused)

    def __iter__(self) -> Iterator[str]:
        return iter(self._releases.slots)

    def __len__(self) -> int:
        return len(self._releases.slots)

    def __contains__(self, name: object) -> bool:
        return name in self._releases.slots

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(self) or 'without any'}>"


class Plugins(PluginFolder):
    """The plug-ins of a directory, one folder each; docs/plugins.md has their form.

    What cannot be used is refused, with an event and in ``refused``; the others are there.

    Args:
        pool: where they run.
        directory: it holds a folder for each plug-in. Hidden ones are left alone.
        granted: what they may ask for: for all of them, or by name (then others may have what
            ``Capabilities.minimal()`` has). The pool's capabilities by default.
        limits: the most that they may ask for, and what they get where they ask for nothing. The
            pool's by default.
        imports: functions that they may ask for, as for ``Pool.load``.
        watch: take in changes as they happen, in a thread; otherwise ``refresh`` does.
        on_event: called with each ``PluginEvent``, in the thread that does the refreshing.

    Raises:
        ConfigurationError: a value that cannot be used, or a directory that cannot be read or
            watched.
        PoolError: the pool is over.
    """

    def __init__(
        self,
        pool: Pool,
        directory: str | os.PathLike[str],
        *,
        granted: Capabilities | Mapping[str, Capabilities] | None = None,
        limits: Limits | None = None,
        imports: Imports | None = None,
        watch: bool = False,
        on_event: Callable[[PluginEvent], object] | None = None,
    ) -> None:
        rules = Rules.of(pool.configuration, directory, granted, limits, imports, on_event)
        self._pool = pool
        super().__init__(Releases(_Blocking(pool), pool.configuration, rules))
        refresher = _Refresher(pool, self._releases)
        self._refresher = refresher
        self._watcher: _Watcher | None = None
        watching = Watch(rules.directory) if watch else None
        try:
            refresher.refresh()
        except BaseException:
            if watching is not None:
                watching.close()
            raise
        if watching is not None:
            self._watcher = _Watcher(watching, refresher)
            # The thread does not know the object, so what nobody holds is watched no longer.
            weakref.finalize(self, self._watcher.stop)

    def __getitem__(self, name: str) -> Plugin:
        """The plug-in of this name.

        Raises:
            PluginUnavailable: there is none; the hint says what was refused.
        """
        return Plugin(self._releases.slot(name), self._pool)

    def refresh(self) -> tuple[PluginEvent, ...]:
        """Take in what changed, and wait until that is done; what was refused is tried again.

        Calls go on meanwhile, with the versions that serve.

        Returns:
            What happened.

        Raises:
            ConfigurationError: the directory cannot be read; nothing changes.
            PoolError: the pool is over.
        """
        return self._refresher.refresh()

    def rollback(self, name: str) -> None:
        """Let the version before serve again, at once; what is in the folder is not taken again
        until it changes.

        Raises:
            PluginUnavailable: there is no such plug-in, or no version before.
        """
        self._releases.tell([self._releases.roll_back(name)])

    def close(self) -> None:
        """Watch no longer. The plug-ins stay usable for as long as the pool."""
        if self._watcher is not None:
            self._watcher.close()

    def __enter__(self) -> Plugins:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Watch no longer."""
        self.close()


class _Blocking(Host):
    """A pool whose answers are waited for: awaiting them never waits."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def load(self, data: bytes, imports: Imports | None) -> Module:
        """Load a module."""
        return self._pool.load(data, imports=imports)

    async def call(self, function: Function, args: tuple[Any, ...]) -> Any:
        """Call a function."""
        try:
            return self._pool.wait_for(function, args)[0]
        except CancelledError:  # by nobody but the pool's end
            raise PoolClosed("the pool was shut down") from None

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    async def work(self, function: Callable[..., T], *args: Any) -> T:
        """Do it here."""
        return function(*args)


class _Refresher:
    """One refresh at a time, from whichever thread."""

    def __init__(self, pool: Pool, releases: Releases) -> None:
        self._pool = pool
        self.releases = releases
        self._one = threading.Lock()

    def refresh(self) -> tuple[PluginEvent, ...]:
        """As ``Plugins.refresh``."""
        self._pool.thread.check_process()
        self._pool.thread.check_may_wait()  # before it waits for one that waits for this thread
        events: list[PluginEvent] = []
        try:
            with self._one:
                _run(self.releases.refresh(events))
        finally:
            self.releases.tell(events)
        return tuple(events)


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Carry out a coroutine that never waits."""
    with suppress(StopIteration):
        coroutine.send(None)
        raise AssertionError("it waits")


class _Watcher:
    """A thread that refreshes when something changed."""

    def __init__(self, watch: Watch, refresher: _Refresher) -> None:
        self._watch = watch
        self._refresher = refresher
        self._bell, self._ring = os.pipe2(os.O_CLOEXEC)
        self._stopped = False
        self._gate = threading.Lock()
        self._thread = threading.Thread(target=self._main, name="wasm-plugins", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Have it end. Does not wait."""
        with self._gate:
            if not self._stopped:
                self._stopped = True
                os.close(self._ring)

    def close(self) -> None:
        """Have it end, and wait, also for a module that it loads just now."""
        self.stop()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _main(self) -> None:
        poll = select.poll()
        poll.register(self._watch.descriptor, select.POLLIN)
        poll.register(self._bell, 0)  # the end of the pipe is reported unasked
        try:
            while True:
                poll.poll()
                if self._stopped or not _refresh_watched(self._watch, self._refresher):
                    break
        finally:
            self._watch.close()
            os.close(self._bell)


def _refresh_watched(watch: Watch, refresher: _Refresher) -> bool:
    """Refresh after a change; whether to go on."""
    try:
        watch.look()
        refresher.refresh()
    except PoolError:
        return False
    except ConfigurationError as error:
        refresher.releases.tell([failed_event(error)])
    return True


def failed_event(error: ConfigurationError) -> PluginEvent:
    """The event of a directory that could not be watched or read."""
    return PluginEvent(what="failed", folder="", reason=str(error))
