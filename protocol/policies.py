"""Policies of a pool about its own workers: when one is restarted, and when it is replaced."""

from __future__ import annotations

from typing import Literal

from .errors import ConfigurationError
from .fields import Settings
from .limits import MIB, check_number

RestartType = Literal["permanent", "transient", "temporary"]
"""Which exits of a supervised child are followed by a restart: every one, an abnormal one, none."""

_DAY = 86400.0


class RestartPolicy(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often workers may die on their own before the pool gives up, and how restarts wait.

    Only deaths that no call caused are counted: before READY, or while idle. So a guest cannot
    close the pool, however often it kills its worker. As the ``policy`` of an instance it counts
    all deaths of that instance's workers, and ends the instance alone.

    Raises:
        ConfigurationError: a value of the wrong type or outside its range; ``.field`` names it.
    """

    place = "restart"

    intensity: int = 16
    """Counted deaths that are forgiven, from 0 to 1,000,000 (OTP's ``MaxR``): one more within
    ``period``, or one more failed start in a row, and the pool fails with
    ``RestartIntensityReached``."""

    period: float = 5.0
    """Seconds for which a death counts, from 0.001 to 86,400 (OTP's ``MaxT``)."""

    backoff_first: float = 0.01
    """Seconds to wait after the first of several failed starts in a row, from 0 to 3,600."""

    backoff_factor: float = 2.0
    """What each further failed start multiplies the wait by, from 1 to 1,000."""

    backoff_max: float = 0.5
    """Seconds that a wait is at most, from ``backoff_first`` to 3,600."""

    def __post_init__(self) -> None:
        check_number("restart.intensity", self.intensity, 0, 1_000_000, whole=True)
        check_number("restart.period", self.period, 0.001, _DAY, whole=False)
        check_number("restart.backoff_first", self.backoff_first, 0, 3600, whole=False)
        check_number("restart.backoff_factor", self.backoff_factor, 1, 1000, whole=False)
        check_number("restart.backoff_max", self.backoff_max, 0, 3600, whole=False)
        if self.backoff_max < self.backoff_first:
            raise ConfigurationError(
                "restart.backoff_max", self.backoff_max, "must not be less than backoff_first"
            )


class Quarantine(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a module is refused because its calls keep crashing workers, and for how long.

    An engine that crashes, an exit that nobody asked for, a denied system call and a broken
    protocol count; deadlines, limits, cancellations and signals from outside do not. Each tenant's
    deaths count for that tenant alone.

    Raises:
        ConfigurationError: a value of the wrong type or outside its range; ``.field`` names it.
    """

    place = "quarantine"

    crashes: int = 3
    """Deaths, from 1 to 1,000, of which the last brings the module into quarantine."""

    period: float = 60.0
    """Seconds within which they must happen, from 0.001 to 86,400."""

    lasts: float = 300.0
    """Seconds for which the module is refused, from 0.001 to 31,536,000 (a year). Then it is
    taken again, as if nothing had happened."""

    def __post_init__(self) -> None:
        check_number("quarantine.crashes", self.crashes, 1, 1000, whole=True)
        check_number("quarantine.period", self.period, 0.001, _DAY, whole=False)
        check_number("quarantine.lasts", self.lasts, 0.001, 365 * _DAY, whole=False)


class Recycle(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a healthy worker is replaced by a fresh one, between two calls; ``None`` is never.

    A replacement is made ready first where there is room, so recycling costs a start in the
    background and no call. It bounds what leaks and what fragmentation adds up.

    Raises:
        ConfigurationError: a value of the wrong type or outside its range; ``.field`` names it.
    """

    place = "recycle"

    max_calls: int | None = 100_000
    """Calls that one worker serves, from 1 to 2**63 - 1. Those of a ``map`` that run in one
    instance count as one: it is instances that leave something behind."""

    max_age: float | None = 3600.0
    """Seconds since the worker became ready, from 0.001 to 31,536,000 (a year)."""

    max_memory_growth: int | None = 64 * MIB
    """Bytes of resident memory, beyond those it had when it became ready, that a worker may still
    hold when no call runs; from 0 to 2**63 - 1."""

    def __post_init__(self) -> None:
        top = (1 << 63) - 1
        check_number("recycle.max_calls", self.max_calls, 1, top, whole=True, optional=True)
        check_number("recycle.max_age", self.max_age, 0.001, 365 * _DAY, whole=False, optional=True)
        check_number(
            "recycle.max_memory_growth", self.max_memory_growth, 0, top, whole=True, optional=True
        )
