"""Where a supervisor runs: in the trio run of an ``async with``, or in a thread of its own."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import trio

from .calls import innermost
from .supervisor.tree import Started, TreeEnded


class Serves(ABC):
    """A supervisor, as it is run."""

    @property
    @abstractmethod
    def failure(self) -> BaseException | None:
        """What it gave up with."""

    @abstractmethod
    async def serve(self, started: Started, *, synchronous: bool) -> None:
        """Its life."""


@asynccontextmanager
async def block(supervisor: Serves) -> AsyncGenerator[None]:
    """The block of an ``async with``: cancelled where the supervisor gives up."""
    failure: BaseException | None = None
    refused: list[BaseException] = []
    async with trio.open_nursery() as nursery:
        up, over = trio.Event(), trio.Event()
        inside, serving = trio.CancelScope(), trio.CancelScope(shield=True)

        async def serve() -> None:
            try:
                with serving:
                    await supervisor.serve(Started(lambda _: up.set()), synchronous=False)
            except TreeEnded as ended:
                if ended.reason == "intensity":
                    inside.cancel()
            except Exception as error:  # what a child could not be started for
                refused.append(error)
            finally:
                up.set()
                over.set()

        nursery.start_soon(serve)
        try:
            with inside:
                await up.wait()
                if not refused:
                    yield
        except BaseException as error:
            failure = error
        serving.cancel()
        with trio.CancelScope(shield=True):
            await over.wait()
    if failure is not None:
        raise innermost(failure)
    if refused:
        raise innermost(refused[0])
    if supervisor.failure is not None:
        raise supervisor.failure


class TreeThread:
    """A supervisor in a trio run of its own. Made, it is up."""

    def __init__(self, supervisor: Serves) -> None:
        self._supervisor = supervisor
        self._begun, self._up = threading.Event(), threading.Event()
        self._refused: BaseException | None = None
        self._scope = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken
        self._thread = threading.Thread(target=self._run, name="wasm-supervisor", daemon=True)
        self._thread.start()
        try:
            self._up.wait()
        except BaseException:
            self.close()
            raise
        if self._refused is not None:
            self._thread.join()
            raise self._refused

    def close(self) -> None:
        """End it, and wait until it has ended."""
        self._begun.wait()
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._scope.cancel)
        self._thread.join()

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except TreeEnded:
            pass
        except BaseException as error:
            self._refused = innermost(error)
        finally:
            self._begun.set()
            self._up.set()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._begun.set()
        with self._scope:
            await self._supervisor.serve(Started(lambda _: self._up.set()), synchronous=True)
