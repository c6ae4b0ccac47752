"""`openrouter-mcp doctor`: what works and what does not, for a person; `--acknowledge` opens the guard again."""

import sys
from functools import partial

import anyio

from openrouter_mcp.cli import checks, probes, report
from openrouter_mcp.cli.opening import opened
from openrouter_mcp.cli.report import Finding, Level, ok, problem, warning
from openrouter_mcp.ledger.book import Closure
from openrouter_mcp.settings import Settings

_WORD = "reopen"
_SAID_BEFORE = (
    "Asking a free model one question: this uses one of today's free requests, up to 3 if it must try again "
    "(--no-question leaves it out)."
)


def doctor(
    settings: Settings,
    *,
    sandbox: bool,
    acknowledge: bool = False,
    as_json: bool = False,
    offline: bool = False,
    question: bool = True,
) -> int:
    """Print what is found. Returns 0 when all is well or can wait, 1 when something is a problem. `offline` sends
    nothing, without `question` no request is used."""
    if acknowledge:
        return _acknowledge(settings, sandbox=sandbox)
    findings: list[Finding] = []

    def tell(finding: Finding) -> None:
        findings.append(finding)
        if not as_json:
            report.show(finding)

    for finding in [*checks.installed(), *checks.decided(settings)]:
        tell(finding)
    anyio.run(partial(_examine, settings, tell, findings, sandbox=sandbox, offline=offline, question=question))
    if as_json:
        report.show_as_json(findings)
    return report.status(findings)


def misled(complaint: str, *, as_json: bool) -> int:
    """What can be said where a setting cannot be followed, as the `complaint` says. Returns 1."""
    findings = [*checks.installed(), problem("settings", complaint)]
    if as_json:
        report.show_as_json(findings)
    else:
        for finding in findings:
            report.show(finding)
    return report.status(findings)


async def _examine(
    settings: Settings, tell: probes.Tell, findings: list[Finding], *, sandbox: bool, offline: bool, question: bool
) -> None:
    async with opened(settings, sandbox=sandbox) as app:
        if offline:
            tell(ok("network", "not checked (--offline)"))
            if app.settings.key is None and not app.settings.key_problem:
                tell(problem("key", "OPENROUTER_API_KEY is not set, and OPENROUTER_API_KEY_FILE neither."))
        else:
            for finding in await probes.account(app, sandbox=sandbox):
                tell(finding)
        free = await probes.allowance(app)
        for finding in [
            free,
            *probes.money(await app.guard.budget(), await app.ledger.spending.doubts()),
            *await probes.folders(app),
        ]:
            tell(finding)
        in_the_way = [one.check for one in findings if one.level is Level.PROBLEM]
        if free.level is not Level.OK:
            in_the_way.append("free")
        if offline or not question:
            tell(ok("question", f"not asked ({'--offline' if offline else '--no-question'})"))
        elif found := [check for check in in_the_way if check in ("network", "key", "free", "guard", "settings")]:
            tell(warning("question", f"not asked: see {', '.join(dict.fromkeys(found))} above"))
        else:
            print(_SAID_BEFORE, file=sys.stderr, flush=True)
            tell(await probes.question(app))


# --- the guard --------------------------------------------------------------------------------------------------------


def _acknowledge(settings: Settings, *, sandbox: bool) -> int:
    """Open the guard again, for a person at a terminal who types the word: an agent has no business here."""
    findings, closures, doubts, unusable = anyio.run(partial(_look, settings, sandbox=sandbox))
    for finding in findings:
        report.show(finding)
    if unusable or not (closures or doubts):
        print("That book must be usable first." if unusable else "There is nothing to acknowledge.")
        return 1 if unusable else 0
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print("This needs a person at a terminal; nothing was changed.", file=sys.stderr)
        return 1
    print(f"Type {_WORD} to let requests be sent again: ", end="", flush=True)
    if sys.stdin.readline().strip() != _WORD:
        print("Nothing was changed.")
        return 1
    if anyio.run(partial(_reopen, settings, closures, doubts, sandbox=sandbox)):
        print("The guard is open.")
        return 0
    print("Something else has closed the guard meanwhile: look again.")
    return 1


async def _look(settings: Settings, *, sandbox: bool) -> tuple[list[Finding], list[Closure], list[str], str]:
    """What keeps requests from being sent: as findings, closures, doubts about the money, a warning about the book."""
    async with opened(settings, sandbox=sandbox) as app:
        budget, doubts = await app.guard.budget(), await app.ledger.spending.doubts()
        warned = (await app.ledger.standing()).warning
        found = [*probes.money(budget, doubts), *([problem("state", warned)] if warned else [])]
        return found, list(budget.closures), doubts, warned


async def _reopen(settings: Settings, closures: list[Closure], doubts: list[str], *, sandbox: bool) -> bool:
    """Clear what was shown; whether that was all."""
    async with opened(settings, sandbox=sandbox) as app:
        spending = app.ledger.spending
        await spending.acknowledge(closures, doubts)
        return not (await spending.closures(for_sure=True) or await spending.doubts())
