"""What `doctor` finds with an App open: the key, the network, what is left, the guard, the folders, and a question."""

import re
import secrets
import sqlite3
import ssl
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from socket import gaierror
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio
import anyio.to_thread
from mcp import Client
from mcp_types import TextContent

from openrouter_mcp.app import App
from openrouter_mcp.archive.redis import RedisArchive
from openrouter_mcp.archive.sqlite import VERSION as ANSWERS_VERSION
from openrouter_mcp.archive.sqlite import SQLiteArchive
from openrouter_mcp.budget import Budget
from openrouter_mcp.callers import Caller
from openrouter_mcp.cli.report import Finding, Level, ok, problem, warning
from openrouter_mcp.errors import BadKey, NoKey, OpenRouterMCPError, Outcome, UnusableBook
from openrouter_mcp.keeping import FILE as ANSWERS
from openrouter_mcp.ledger.book import Closure
from openrouter_mcp.ledger.place import private_file
from openrouter_mcp.ledger.sqlite.schema import VERSION as BOOK_VERSION
from openrouter_mcp.render.key import limits, said
from openrouter_mcp.server import build
from openrouter_mcp.text import mapping, one_line, usd
from openrouter_mcp.tools.account import check_credits

ACTIVITY = "https://openrouter.ai/activity"
_LONGEST_S = 20.0  # for what OpenRouter is asked about the key
_BUSY = ("model_busy", "minute_quota", "daily_quota", "upstream", "timeout", "empty_answer")
_MAX_PRICE = re.compile(r"max[_ ]price", re.IGNORECASE)
Tell = Callable[[Finding], None]


# --- the key and the way to OpenRouter --------------------------------------------------------------------------------


async def account(app: App, *, sandbox: bool) -> list[Finding]:
    """Whether OpenRouter can be reached and takes the key, and what it says of it."""
    try:
        with anyio.fail_after(_LONGEST_S):
            key = await app.ledger.read_key()
            credits_ = await check_credits(app, Caller(app.settings.caller))
    except (NoKey, BadKey) as failure:
        is_answer = isinstance(failure, BadKey) and not app.settings.key_problem
        reached = _reached(app, sandbox=sandbox) if is_answer else await _without_key(app, sandbox=sandbox)
        return [reached, problem("key", _for_the_user(str(failure)))]
    except (OpenRouterMCPError, TimeoutError) as failure:
        return [_unreached(failure, app), warning("key", "not checked: OpenRouter did not say anything of it.")]
    guard = credits_.record["guard"] == "closed"
    book = (await app.ledger.standing()).warning
    told = [each for each in _texts(credits_.record["warnings"])[guard:] if each != book]
    limited = " ".join(limits(key))
    return [
        _reached(app, sandbox=sandbox),
        ok("key", f"OpenRouter accepts it.{' ' if limited else ''}{limited}"),
        *(warning("key", _for_the_user(each)) for each in told),
    ]


async def _without_key(app: App, *, sandbox: bool) -> Finding:
    """The list of models needs none."""
    try:
        with anyio.fail_after(_LONGEST_S):
            await app.client.models()
    except (OpenRouterMCPError, TimeoutError) as failure:
        return _unreached(failure, app)
    return _reached(app, sandbox=sandbox)


def _reached(app: App, *, sandbox: bool) -> Finding:
    if sandbox:
        return ok("network", "the embedded sandbox answers, and nothing leaves this machine")
    proxy = _proxy(app.settings.base_url)
    return ok("network", f"{app.settings.base_url} answers{f', through the proxy {proxy}' if proxy else ''}")


def _unreached(failure: BaseException, app: App) -> Finding:
    """Which of the many ways not to arrive it was."""
    url = app.settings.base_url
    host, proxy, causes = urlsplit(url).hostname, _proxy(url), [*_causes(failure)]
    untrusted = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    if untrusted:
        why = one_line(getattr(untrusted, "verify_message", "") or getattr(untrusted, "reason", "") or str(untrusted))
        return problem(
            "network",
            f"TLS: the certificate of {host} is not trusted ({why}). If a proxy here inspects TLS, name its "
            "certificate in SSL_CERT_FILE.",
        )
    is_unsent = isinstance(failure, OpenRouterMCPError) and failure.outcome is Outcome.NEVER_SENT
    if proxy and is_unsent:
        return problem("network", f"The proxy {proxy} does not let requests out. Check HTTPS_PROXY and ALL_PROXY.")
    if any(isinstance(cause, gaierror) for cause in causes):
        return problem("network", f"DNS: the name {host} is not found. Check the connection, or OPENROUTER_BASE_URL.")
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return problem("network", f"{url} refuses connections. Check OPENROUTER_BASE_URL, or a firewall in between.")
    if isinstance(failure, TimeoutError):
        return problem("network", f"{url} did not answer in {_LONGEST_S:.0f} s. Check the connection.")
    return problem("network", _for_the_user(str(failure)))


def _causes(failure: BaseException | None) -> Iterator[BaseException]:
    while failure is not None:
        yield failure
        if isinstance(failure, BaseExceptionGroup):
            yield from failure.exceptions
        failure = failure.__cause__ or failure.__context__


def _proxy(url: str) -> str:
    """The proxy on the way, without its password; none is on the way to loopback."""
    parts = urlsplit(url)
    if parts.scheme != "https" or proxy_bypass(parts.hostname or ""):
        return ""
    proxies = getproxies()
    return re.sub(r"//[^/]*@", "//", proxies.get("https") or proxies.get("all") or "")


# --- what is left, the guard, the folders -----------------------------------------------------------------------------


async def allowance(app: App) -> Finding:
    """The free requests of the day."""
    standing = await app.ledger.standing()
    told = str(standing)
    if standing.is_away:
        return warning("free", told)
    return warning("free", f"{told}. Free models do not answer before.") if standing.use.left == 0 else ok("free", told)


def money(budget: Budget, doubts: Sequence[str]) -> list[Finding]:
    """The budget, and the guard: each reason why it is closed, and `doubts` about what was spent."""
    text = f"{usd(budget.left)} of {usd(budget.daily)} left today, {usd(budget.call)} a call"
    spent = budget.daily and not budget.left
    found = [warning("budget", f"{text}. The day ends at 00:00 UTC.") if spent else ok("budget", text)]
    why = [*map(_closed, budget.closures), *map(_doubtful, doubts)]
    if not budget.is_known:
        found = [warning("budget", f"{budget}.")] if budget.daily else found
        why = why or [warning("guard", "whether it is open is not known while the shared books cannot be used.")]
    return [*found, *(why or [ok("guard", "open")])]


def _closed(closure: Closure) -> Finding:
    since = said(datetime.fromtimestamp(closure.at, UTC))
    return problem("guard", f"CLOSED since {since}: {one_line(closure.reason)}. {_REOPEN}")


def _doubtful(doubt: str) -> Finding:
    text = f"CLOSED to what costs: {doubt}; what was spent that day is not known"
    return problem("guard", f"{text}. {_REOPEN}")


_REOPEN = f"See {ACTIVITY} for what was really charged; `openrouter-mcp doctor --acknowledge` opens it again."


async def folders(app: App) -> list[Finding]:
    """Where books, answers and the list of models lie, and whether they can be used."""
    return [
        await _book(app),
        await anyio.to_thread.run_sync(_answers, app),
        await anyio.to_thread.run_sync(_cache, app),
    ]


async def _book(app: App) -> Finding:
    standing, folder = await app.ledger.standing(), app.settings.state_dir
    if standing.warning:
        return problem("state", standing.warning)
    if app.engine:
        told = "; ".join(app.engine.told)
        return (
            warning("state", f"{app.engine.name}: {told}.") if told else ok("state", f"{app.engine.name} can be used")
        )
    return ok("state", f"{folder}: the book can be used, version {BOOK_VERSION}" if folder else _IN_MEMORY)


_IN_MEMORY = "nothing is kept on disk"


def _answers(app: App) -> Finding:
    place = app.engine or app.settings.state_dir
    if place is None or not app.settings.keep_answers:
        return ok("answers", _IN_MEMORY)
    name = str(place / ANSWERS) if isinstance(place, Path) else place.name
    try:
        archive = SQLiteArchive(private_file(place, ANSWERS)) if isinstance(place, Path) else RedisArchive(place)
        try:
            count = archive.count()
        finally:
            archive.close()
    except (OSError, sqlite3.Error, UnusableBook) as error:
        why = error.text if isinstance(error, UnusableBook) else f"{type(error).__name__}: {one_line(str(error))}"
        return warning("answers", f"{name} cannot be used ({why}): answers are kept in memory only.")
    return ok("answers", f"{count} kept in {name}, version {ANSWERS_VERSION}")


def _cache(app: App) -> Finding:
    folder = app.settings.cache_dir
    if folder is None:
        return ok("cache", _IN_MEMORY)
    try:
        private_file(folder, ".doctor").unlink()
    except (OSError, UnusableBook) as error:
        why = error.text if isinstance(error, UnusableBook) else type(error).__name__
        return warning("cache", f"{folder} cannot be used ({why}): each server downloads the list of models itself.")
    return ok("cache", f"{folder} can be used")


# --- a question -------------------------------------------------------------------------------------------------------


async def question(app: App) -> Finding:
    """What comes of asking a free model, by way of a client and the whole server."""
    word = secrets.token_hex(3)  # or an answer of before might serve
    async with Client(build(app)) as client:
        result = await client.call_tool(
            "ask_model", {"prompt": f"Reply with this word and nothing else: {word}", "max_cost_usd": 0}
        )
    text = " ".join(block.text for block in result.content if isinstance(block, TextContent))
    record = mapping(mapping(result.meta).get("openrouter"))
    if record.get("status") == "running":
        return warning("question", f"no answer in {record.get('seconds', 0):.0f} s: free models are slow just now.")
    if not result.is_error:
        return ok("question", f"{record['model']} answered in {record['seconds']:.1f} s, at no cost")
    code = str(record.get("code"))
    if code == "no_provider" and _MAX_PRICE.search(text):
        return problem(
            "question",
            "OpenRouter found nobody within the limit of $0 (max_price) that this server sends with every free "
            f"request. The key is not at fault: report it to this server's makers. {one_line(text)}",
        )
    level = Level.WARNING if code in _BUSY else Level.PROBLEM
    return Finding(level, "question", _for_the_user(one_line(text, 500)))


def _for_the_user(text: str) -> str:
    """What was written for an agent, said to its user."""
    text = re.sub(r"Ask the user to (\S)", lambda match: match[1].upper(), text)
    return text.replace("Tell the user that ", "").removesuffix(" Tell the user.")


def _texts(value: object) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
