"""``python -m wasm_sandbox.fuzz [target ...] [--seconds N] [--short] [--list]``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, configuration, given, settings
from hypothesis.strategies import SearchStrategy

from . import conversation, frames, pool

SHORT = 15.0
"""Seconds for each target of a short run."""
_BATCH = 25
"""Examples between two looks at the clock."""


@dataclass(frozen=True, slots=True)
class Target:
    """Something to attack: examples out of ``strategy``, each of which ``check`` must survive."""

    check: Callable[[Any], None]
    strategy: Callable[[], SearchStrategy[Any]]
    invariant: str


TARGETS = {
    module.__name__.rpartition(".")[2]: Target(
        module.check, strategy, " ".join((module.__doc__ or "").partition("Invariant: ")[2].split())
    )
    for module, strategy in (
        (conversation, conversation.steps),
        (frames, frames.deliveries),
        (pool, pool.lives),
    )
}


def attack(target: Target, seconds: float) -> int:
    """Run a target for about so many seconds; how many examples it survived.

    Raises:
        Exception: whatever the smallest example that fails raises.
    """
    examples = 0

    def counted(example: Any) -> None:
        nonlocal examples
        examples += 1
        target.check(example)

    batch = settings(
        max_examples=_BATCH,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )(given(target.strategy())(counted))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        batch()
    return examples


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 where every invariant held, 1 where one was broken."""
    parser = argparse.ArgumentParser(prog="python -m wasm_sandbox.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="target", help="all, if none is named")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target (60)")
    parser.add_argument("--short", action="store_true", help="less than a minute in all")
    parser.add_argument("--list", action="store_true", help="name the targets and their invariants")
    options = parser.parse_args(arguments)
    names: list[str] = options.targets or list(TARGETS)
    if unknown := sorted(set(names) - set(TARGETS)):
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    if options.list:
        for name in names:
            print(f"{name}: {TARGETS[name].invariant}")
        return 0
    broken = 0
    with tempfile.TemporaryDirectory(prefix="wasm-sandbox-fuzz-") as home:
        configuration.set_hypothesis_home_dir(home)
        for name in names:
            try:
                examples = attack(TARGETS[name], SHORT if options.short else options.seconds)
            except Exception:
                traceback.print_exc()
                print(f"{name}: BROKEN: {TARGETS[name].invariant}")
                broken = 1
            else:
                print(f"{name}: {examples} examples", flush=True)
    return broken


if __name__ == "__main__":
    sys.exit(main())
