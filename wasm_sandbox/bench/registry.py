"""Which benchmarks there are, and what one is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from importlib import import_module

import msgspec

from .model import Figure

FAMILIES = (
    "calls",
    "batches",
    "data",
    "life",
    "crowds",
    "growth",
    "walls",
    "instances",
    "snapshots",
    "components",
    "hosts",
    "streams",
    "network",
    "anatomy",
)
"""The modules that hold benchmarks, in the order of the page."""

Samples = float | Iterable[float] | Mapping[str, Iterable[float]]
"""Of the benchmark's figure, or of its figures by name."""
Turn = Callable[[], Samples]
Subjects = Mapping[str, AbstractContextManager[Turn]]
"""In the order in which they are shown. They are made ready in the reverse order, ours last."""

QUICK = 0.1


class Effort(msgspec.Struct, frozen=True):
    """How much is measured: a share of the full number of samples, and how many turns."""

    share: float
    turns: int

    def count(self, full: int, least: int = 1) -> int:
        """How many of ``full``, but ``least`` at the least."""
        return max(int(full * self.share), least, 1)

    def size(self, full: int, small: int) -> int:
        """What decides the figure, and is the same in every run but a trial's."""
        return full if self.share >= QUICK else small


EFFORTS = {"full": Effort(1.0, 7), "quick": Effort(QUICK, 3), "trial": Effort(0.0001, 1)}
"""A trial's figures mean nothing: it shows that everything can be measured."""


class Absent(Exception):
    """A subject that is not here; the message says why, and how to get it."""


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """Something that measures one or more figures of the same subjects."""

    family: str
    figures: tuple[Figure, ...]
    subjects: Callable[[Effort], Subjects]
    turns: int | None
    """Turns of each subject, where it is not the effort that says how many."""
    patience: float
    """Seconds after which it has failed, in a full run."""

    @property
    def name(self) -> str:
        """That of its function, with hyphens."""
        return self.subjects.__name__.replace("_", "-")


_found: dict[str, Benchmark] = {}


def benchmark(
    *figures: Figure, turns: int | None = None, patience: float = 120.0
) -> Callable[[Callable[[Effort], Subjects]], Callable[[Effort], Subjects]]:
    """Register a function that gives the subjects of ``figures``."""

    def register(function: Callable[[Effort], Subjects]) -> Callable[[Effort], Subjects]:
        family = function.__module__.rpartition(".")[2]
        made = Benchmark(
            family=family, figures=figures, subjects=function, turns=turns, patience=patience
        )
        _found[made.name] = made
        return function

    return register


def benchmarks() -> dict[str, Benchmark]:
    """All of them, by name, in the order of the page."""
    for family in FAMILIES:
        import_module(f".{family}", __package__)
    return dict(sorted(_found.items(), key=lambda item: FAMILIES.index(item[1].family)))
