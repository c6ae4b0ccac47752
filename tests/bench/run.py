# ruff: noqa: T201 - prints its table
"""Measures our server beside a bare one of the SDK, and prints one table. `--quick` is a smoke run.

uv run python tests/bench/run.py             all of it
uv run python tests/bench/run.py startup     a part
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import book
import load
import measures
import models
import on_engine
from measures import Row

_HEAD = ("measurement", "unit", "ours: median (min-max)", "bare: median (min-max)", "ratio", "aim", "")

_PARTS: dict[str, Callable[[bool], list[Row]]] = {
    "startup": lambda quick: measures.startup(runs=2 if quick else 20),
    "calls": lambda quick: (
        measures.calls(5, 1, 1) if quick else measures.calls(one_by_one=200, bursts=10, comparisons=10)
    ),
    "comparisons": lambda quick: measures.comparisons_at_once(runs=1 if quick else 3),
    "batches": lambda quick: measures.batches(1, 5) if quick else measures.batches(runs=10, looks=300),
    "searches": lambda quick: measures.searches(runs=2 if quick else 50),
    "answers": lambda quick: measures.long_answers(runs=1 if quick else 5),
    "book": lambda quick: book.reservations(runs=50 if quick else 2000),
    "engine": lambda quick: (
        [*on_engine.reservations(50), *on_engine.replicas(1)]
        if quick
        else [*on_engine.reservations(runs=2000), *on_engine.replicas(runs=5)]
    ),
    "load": lambda quick: load.loads(1, 1, 2) if quick else load.loads(runs=5, rounds=5, one_by_one=20),
    "catalogues": lambda quick: models.catalogues(runs=1 if quick else 10),
    "listing": lambda quick: measures.listing(),  # noqa: ARG005 - takes no time
}


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description="Measure the server beside a bare server of the MCP SDK.")
    parser.add_argument("--quick", action="store_true", help="a smoke run of a few seconds; its numbers mean little")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(_PARTS)} (default: all)")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(_PARTS):
        parser.error(f"there is no {unknown.pop()}")
    begin = time.perf_counter()
    rows = [row for part in options.parts or _PARTS for row in _PARTS[part](options.quick)]
    print(table(rows))
    seconds = time.perf_counter() - begin
    print(f"\nPython {platform.python_version()}, {os.cpu_count()} cores; measured in {seconds:.0f} s.")


def table(rows: list[Row]) -> str:
    """All `rows` as a Markdown table with even columns."""
    cells = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    if not row.ours:
        return (row.name, row.unit, "n/a", "n/a", "", "", "")
    value = statistics.median(row.ours)
    ratio = ""
    if row.bare:
        value /= statistics.median(row.bare)
        ratio = f"{value:.2f}"
    aim = "" if row.most is None else f"ratio <= {row.most}" if row.bare else f"< {row.most:g}"
    verdict = "" if row.most is None else "met" if value <= row.most else "MISSED"
    return (row.name, row.unit, _spread(row.ours), _spread(row.bare), ratio, aim, verdict)


def _spread(values: list[float]) -> str:
    """Median and range; the plain number when there is but one."""
    if len(values) < 2:
        return f"{values[0]:.0f}" if values else ""
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


if __name__ == "__main__":
    main()
