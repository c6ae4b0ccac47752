"""`openrouter-mcp doctor`: shows the person how the guard stands; `--acknowledge` opens it again."""

import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anyio

from openrouter_mcp.cli.opening import opened
from openrouter_mcp.ledger.money import Closure
from openrouter_mcp.settings import Settings
from openrouter_mcp.text import one_line, usd

_WORD = "reopen"


def doctor(settings: Settings, *, sandbox: bool, acknowledge: bool) -> int:
    """Print what is found. Returns 0 when all is well, 1 when the guard is closed or the book cannot be used."""
    closures, broken, warning = anyio.run(partial(_look, settings, sandbox=sandbox))
    for closure in closures:
        print(f"guard    CLOSED since {_moment(closure.at)}: {one_line(closure.reason)}")
    for book in broken:
        print(f"guard    CLOSED to what costs: {book} broke and was set aside; what was spent that day is not known")
    if closures or broken:
        print("         See https://openrouter.ai/activity for what was really charged.")
    else:
        print("guard    open")
    if warning:
        print(f"book     {warning}")
    if not acknowledge:
        return 1 if closures or broken or warning else 0
    if warning or not (closures or broken):
        print("There is nothing to acknowledge." if not warning else "That book must be usable first.")
        return 1 if warning else 0
    return _acknowledge(settings, closures, broken, sandbox=sandbox)


async def _look(settings: Settings, *, sandbox: bool) -> tuple[list[Closure], list[Path], str]:
    """Print the budget; what keeps requests from being sent: closures, books set aside, a warning about the book."""
    async with opened(settings, sandbox=sandbox) as app:
        budget, standing = await app.guard.budget(), await app.ledger.standing()
        print(f"budget   {usd(budget.left)} of {usd(budget.daily)} left today, {usd(budget.call)} a call")
        return list(budget.closures), app.ledger.spending.set_aside, standing.warning


def _acknowledge(settings: Settings, closures: list[Closure], broken: list[Path], *, sandbox: bool) -> int:
    """Open the guard again, for a person at a terminal who types the word: an agent has no business here."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print("This needs a person at a terminal; nothing was changed.", file=sys.stderr)
        return 1
    print(f"Type {_WORD} to let requests be sent again: ", end="", flush=True)
    if sys.stdin.readline().strip() != _WORD:
        print("Nothing was changed.")
        return 1
    if anyio.run(partial(_reopen, settings, closures, broken, sandbox=sandbox)):
        print("The guard is open.")
        return 0
    print("Something else has closed the guard meanwhile: look again.")
    return 1


async def _reopen(settings: Settings, closures: list[Closure], broken: list[Path], *, sandbox: bool) -> bool:
    """Clear what was shown; whether that was all."""
    async with opened(settings, sandbox=sandbox) as app:
        spending = app.ledger.spending
        await spending.acknowledge(closures, broken)
        return not (await spending.closures() or spending.set_aside)


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
