"""The table of docs/security.md: attack x wall x situation, made of what was measured.

    security_table.py            measure in every situation that this machine can be, and in the
                                 one of tests/v2vm where that is installed, and write
    security_table.py NAME...    measure in those alone: "root", "user", "root in a container", ...
    security_table.py FILE...    take what `wasm-sandbox doctor --attack --json` said elsewhere
    security_table.py --render   only write the table again

What was measured is kept in docs/attacks.json; situations that were not measured now stay as they
are.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import situations
from v2vm import machine

import wasm_sandbox
from wasm_sandbox.protocol.catalogue import ATTACKS
from wasm_sandbox.protocol.isolation import WALLS

ROOT = Path(__file__).resolve().parents[1]
DATA, PAGE = ROOT / "docs" / "attacks.json", ROOT / "docs" / "security.md"
BEGIN, END = "<!-- attacks: begin -->\n", "<!-- attacks: end -->\n"
COMMAND = ("-m", "wasm_sandbox", "doctor", "--attack", "--json")
MACHINE = "root in a cgroup v2 machine"
EVERYWHERE = (*situations.SITUATIONS, MACHINE)
KINDS = {
    "v1": "cgroup v1",
    "v2": "cgroup v2",
    "v2-delegated": "delegated cgroup v2",
    "none": "no cgroup",
}
SHORT = {
    "no_new_privs": "nnp",
    "death_signal": "death",
    "capabilities": "caps",
    "landlock.network": "landlock-net",
    "landlock.scope": "landlock-scope",
}


def situation(facts: dict[str, Any]) -> str:
    """What the table calls the place where ``doctor`` said this."""
    user = "root" if facts["machine"]["user"] == 0 else "user"
    standing = {wall["wall"] for wall in facts["walls"] if wall["stands"]}
    spaces = "" if "namespace.mount" in standing else " without namespaces"
    return f"{user}{spaces}, {KINDS[facts['machine']['cgroups']]}"


def digest(facts: dict[str, Any]) -> dict[str, Any]:
    """What the table needs of it."""
    return {
        "kernel": facts["machine"]["kernel"],
        "landlock": facts["machine"]["landlock"],
        "standing": [wall["wall"] for wall in facts["walls"] if wall["stands"]],
        "missing": {wall["wall"]: wall["reason"] for wall in facts["walls"] if not wall["stands"]},
        "attacks": {
            row["attack"]: {
                "without": row["without"],
                "alone": sorted(row["alone"]),
                "stopped_by": row["stopped_by"],
                "succeeded": row["all"],
            }
            for row in facts["attacks"]
        },
    }


def measure(name: str) -> dict[str, Any]:
    """What ``doctor --attack`` says in one of ``situations.SITUATIONS``."""
    needs = [str(Path(part).resolve().parent) for part in (*wasm_sandbox.__path__, __file__)]
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        words = [sys.executable, *COMMAND, "--cache-dir", f"{folder}/cache"]
        command = situations.command(name, words, needs)
        done = subprocess.run(command, cwd="/", stdout=subprocess.PIPE, check=True)
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def measure_in_machine() -> dict[str, Any]:
    """What it says to root in a machine with nothing but cgroup v2."""
    words = [sys.executable, *COMMAND, "--cache-dir", "/tmp/cache"]
    needs = [str(Path(part).resolve().parent) for part in wasm_sandbox.__path__]
    outcome = machine.run(words, timeout=1800, needs=needs)
    if outcome.status:
        raise SystemExit(f"the attacks in the cgroup v2 machine failed: {outcome.output}")
    facts: dict[str, Any] = json.loads(outcome.output)
    return facts


def dumped(found: dict[str, Any]) -> str:
    """JSON in which a change of one measurement is a change of one line."""
    return (
        re.sub(r"\[[^][]*\]", lambda m: " ".join(m[0].split()), json.dumps(found, indent=1)) + "\n"
    )


# -- the page -------------------------------------------------------------------------------------


def short(wall: str) -> str:
    """A wall's name in the table."""
    if wall.startswith("namespace."):
        return f"{wall.removeprefix('namespace.')}-ns"
    return SHORT.get(wall, wall.removeprefix("cgroup."))


def cell(measured: dict[str, Any] | None) -> str:
    """What became of an attack in one situation."""
    if measured is None:
        return "?"
    if measured["succeeded"]:
        return "**succeeded**"
    if measured["stopped_by"]:
        return " ".join(short(wall) for wall in WALLS if wall in measured["stopped_by"])
    return "all together" if measured["without"] else "–"


def page(found: dict[str, Any]) -> Iterator[str]:
    """The lines between the marks."""
    names = sorted(found, key=lambda name: (name.startswith("user"), "without" in name, name))
    yield f"| native code tries to | {' | '.join(f'as {name}' for name in names)} |"
    yield "|---" * (len(names) + 1) + "|"
    for attack, entry in ATTACKS.items():
        cells = (cell(found[name]["attacks"].get(attack)) for name in names)
        yield f"| {entry.title} | {' | '.join(cells)} |"
    yield ""
    yield "| situation | measured on | walls that do not stand there |"
    yield "|---|---|---|"
    for name in names:
        there = found[name]
        kernel = f"Linux {there['kernel'].partition('-')[0]}, Landlock ABI {there['landlock']}"
        reasons = {short(wall): why for wall, why in there["missing"].items()}
        yield f"| as {name} | {kernel} | {', '.join(reasons) or 'none'} |"


def render(found: dict[str, Any], text: str) -> str:
    """The page with a new table."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has lost the marks of its table")
    return before + begin + "\n".join(page(found)) + "\n" + end + after


def measurements(arguments: list[str]) -> Iterator[dict[str, Any]]:
    """What was said in each situation, as it is measured."""
    if arguments == ["--render"]:
        return
    if not arguments and os.geteuid() != 0:
        done = subprocess.run([sys.executable, *COMMAND], stdout=subprocess.PIPE, check=True)
        yield json.loads(done.stdout)
        return
    for name in arguments or EVERYWHERE:
        if name not in EVERYWHERE:
            yield json.loads(Path(name).read_text())
        elif name == MACHINE and (reason := machine.unusable()) is not None:
            sys.stderr.write(f"not measured as {name}: {reason}\n")
        else:
            sys.stderr.write(f"attacking as {name}\n")
            yield measure_in_machine() if name == MACHINE else measure(name)


def main(arguments: list[str]) -> int:
    """The command line."""
    found: dict[str, Any] = json.loads(DATA.read_text()) if DATA.exists() else {}
    for facts in measurements(arguments):
        found[situation(facts)] = digest(facts)
        DATA.write_text(dumped(found))  # each at once: together they take many minutes
    PAGE.write_text(render(found, PAGE.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
