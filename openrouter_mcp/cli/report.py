"""What a check found, for a person at a terminal or as JSON."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from openrouter_mcp import environment
from openrouter_mcp.cli.terminal import printable


class Level(StrEnum):
    """Whether something works; a WARNING keeps nothing from working."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


_COLOURS = {Level.OK: 32, Level.WARNING: 33, Level.PROBLEM: 31}


@dataclass(frozen=True)
class Finding:
    """What the `check` of that name found, and what to do, on one line."""

    level: Level
    check: str
    text: str


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, check, text)


def warning(check: str, text: str) -> Finding:
    """Worth knowing."""
    return Finding(Level.WARNING, check, text)


def problem(check: str, text: str) -> Finding:
    """Something does not work."""
    return Finding(Level.PROBLEM, check, text)


def show(finding: Finding) -> None:
    """Print it on one line, its level in colour on a terminal that has some."""
    printable()
    level = f"{finding.level:<9}"
    if sys.stdout.isatty() and environment.wants_colour():
        level = f"\x1b[{_COLOURS[finding.level]}m{level}\x1b[0m"
    print(f"{level}{finding.check:<9}{finding.text}", flush=True)


def show_as_json(findings: Sequence[Finding]) -> None:
    """Print them all as one document."""
    worst = max((finding.level for finding in findings), key=[*Level].index)
    print(json.dumps({"worst": worst, "findings": [asdict(finding) for finding in findings]}, indent=2))


def status(findings: Sequence[Finding]) -> int:
    """The exit status: 1 when there is a problem."""
    return int(any(finding.level is Level.PROBLEM for finding in findings))
