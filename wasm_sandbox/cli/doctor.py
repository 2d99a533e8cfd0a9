"""``wasm-sandbox doctor``: which walls stand on this machine, and proof."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from ..doctor import attack, breaches, examine
from .arguments import Parser, add_json, add_policy, policy_of
from .findings import print_attack, print_findings, print_table
from .progress import progress
from .reports import ISOLATION, OK, jsonable, print_json


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code."""
    parser = Parser(
        prog="wasm-sandbox doctor",
        description="Show which walls stand on this machine, why the others do not and how to get "
        "them, and which of them enforce each field of the policy.",
        epilog="The exit code is 5 where --isolation strict would refuse to start, or an attack "
        "got through a wall that should have stopped it.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--attack",
        action="store_true",
        help="attack the walls with native code in workers, and show which wall stops what; "
        "harmless, and takes a minute or two",
    )
    add_json(parser)
    add_policy(parser, environment=False)
    parser.set_defaults(rest=[])
    options = parser.parse(arguments)
    found = examine(policy_of(options), options.cache_dir)
    refused = options.isolation == "strict" and not found.strict
    if not options.json:
        print_findings(found)
    facts: dict[str, Any] = jsonable(found) | {"strict": found.strict}
    if options.attack:
        if not options.json:
            print("\nattacks by native code, behind all walls")
        watched = not options.json and sys.stdout.isatty()  # each attack is shown when it was made
        with nullcontext() if watched else progress("attacking"):
            rows = attack(None if options.json else print_attack)
        if not options.json:
            print_table(rows)
        refused = (
            refused
            or bool(breaches(rows, found.walls))
            or (options.isolation == "strict" and any(row.all for row in rows))
        )
        facts["attacks"] = [jsonable(row) | {"stopped_by": list(row.stopped_by)} for row in rows]
    if options.json:
        print_json(facts)
    return ISOLATION if refused else OK
