"""``wasm-sandbox bench``: the promises, measured here, beside the peers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from .. import __version__
from ..bench import compare, page, runner, table
from ..bench.model import Report, updated
from ..bench.registry import Benchmark, benchmarks
from .arguments import Parser, UsageError, add_json
from .reports import GUEST_FAILED, OK, jsonable, print_json, print_line


def main(arguments: Sequence[str]) -> int:
    """Run the command; its exit code."""
    parser = Parser(
        prog="wasm-sandbox bench",
        description="Measure what was promised about speed, here and beside the peers: "
        "ProcessPoolExecutor, multiprocess.Pool, and (where they are installed) pebble, loky, "
        "wasmtime and extism in this process. It takes about ten minutes; nothing else should run.",
        epilog="The exit code is 1 where something failed, or --compare found a regression.",
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help="fewer samples: about a minute")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="ROW",
        help="only benchmarks with this in their name or in that of a figure; may be repeated",
    )
    parser.add_argument("--list", action="store_true", help="name the benchmarks and figures")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the run as JSON")
    parser.add_argument(
        "--write",
        nargs="?",
        const=Path("docs"),
        type=Path,
        metavar="DIR",
        help="write performance.md, performance.json and plots into a directory, by default docs; "
        "with --only, in place of these rows of what is there",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("OLD", "NEW"),
        help="measure nothing: compare two runs that were written as JSON",
    )
    add_json(parser)
    parser.set_defaults(rest=[])
    options = parser.parse(arguments)
    if options.compare:
        old, new = (_read(path, "--compare") for path in options.compare)
        return _compare(old, new, as_json=options.json)
    chosen = choose(options.only)
    if options.list:
        return _list(chosen, as_json=options.json)
    if options.write is not None and not options.write.is_dir():
        raise UsageError(f"--write: {options.write} is no directory")
    there = _there(options.write) if options.write is not None and options.only else None
    with runner.ended_by_signals():
        report = runner.run(chosen, "quick" if options.quick else "full", __version__, _show)
    if options.output is not None:
        options.output.write_text(page.data(report))
    if options.write is not None:
        page.write(report if there is None else updated(there, report), options.write)
    if options.json:
        print_json(jsonable(report))
    else:
        for line in table.lines(report):
            print_line(line)
    return GUEST_FAILED if any(line.failed for row in report.rows for line in row.lines) else OK


def _there(folder: Path) -> Report | None:
    """What was written into a folder."""
    path = folder / page.DATA
    return _read(path, "--write") if path.exists() else None


def choose(only: Sequence[str]) -> list[Benchmark]:
    """The benchmarks that one of ``only`` names; all where nothing is named.

    Raises:
        UsageError: one names nothing.
    """
    known = benchmarks().values()
    for word in only:
        if not any(_is_named(each, word) for each in known):
            names = ", ".join(each.name for each in known)
            raise UsageError(f"--only {word}: there are {names}")
    return [each for each in known if not only or any(_is_named(each, word) for word in only)]


def _is_named(each: Benchmark, word: str) -> bool:
    return any(word in name for name in (each.name, *(figure.name for figure in each.figures)))


def _list(chosen: Sequence[Benchmark], *, as_json: bool) -> int:
    figures = {each.name: {figure.name: figure.title for figure in each.figures} for each in chosen}
    if as_json:
        print_json(figures)
    else:
        for name, titles in figures.items():
            print_line(name)
            for figure, title in titles.items():
                print_line(f"    {figure:<20} {title}")
    return OK


def _show(each: Benchmark) -> None:
    if sys.stderr is not None:
        print(f"… {each.name}", file=sys.stderr, flush=True)


def _read(path: Path, option: str) -> Report:
    try:
        return page.read(path)
    except OSError as error:
        raise UsageError(f"{option}: {path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{option}: {path} is no run of this benchmark: {error}") from None


def _compare(old: Report, new: Report, *, as_json: bool) -> int:
    changes = compare.compare(old, new)
    worse = compare.regressions(changes)
    if as_json:
        shown: list[Any] = jsonable(changes)
        print_json({"changes": shown, "regressions": len(worse)})
    else:
        for line in compare.lines(changes):
            print_line(line)
        print_line(f"\n{len(worse)} of {len(changes)} are worse")
    return GUEST_FAILED if worse else OK
