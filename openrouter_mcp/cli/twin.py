"""`openrouter-mcp ask`, `compare`, `free` and `credits`: a tool for a person or a script, by way of the server itself:
every word, limit and price is what an agent gets."""

import argparse
import asyncio
import json
import math
import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
from mcp import Client
from mcp_types import CallToolResult, ElicitRequestParams, ElicitResult, ImageContent, RequestParamsMeta, TextContent

from openrouter_mcp.app import App
from openrouter_mcp.cli.opening import leave, opened
from openrouter_mcp.cli.terminal import Line, agrees, has_person, printable
from openrouter_mcp.errors import BadSetting
from openrouter_mcp.server import build
from openrouter_mcp.settings import Settings
from openrouter_mcp.text import duration, encodable, mapping

_QUESTION = ("prompt", "system", "max_tokens", "attach")
# The tool that each command stands for, and what of it can be said here.
_TOOLS = {
    "ask": ("ask_model", (*_QUESTION, "model", "continue_from")),
    "compare": ("compare_models", (*_QUESTION, "models", "judge")),
    "free": ("list_free_models", ("search", "task", "needs", "limit")),
    "credits": ("check_credits", ()),
}
_STDIN = "-"
_WATCHED: RequestParamsMeta = {"progress_token": "line"}  # the SDK's own, in one process, is not shown to the server
_LONGER_S = 60.0  # the tools wait longer than this command: who gives up first stops the models
_TOO_LATE = 3


@dataclass
class _Stop:
    """Why the models are to stop, if they are: a signal, or the time."""

    limit: float  # seconds
    asked: anyio.Event = field(default_factory=anyio.Event)
    patience: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    number: int = 0
    too_late: bool = False

    def begin(self) -> None:
        """The time counts from now."""
        self.patience.deadline = anyio.current_time() + self.limit


async def twin(settings: Settings, options: argparse.Namespace) -> int:
    """Call the tool that the command stands for and print what it says. Returns 0 for an answer, 1 for an error, 3 when
    there was none in time, 128 and the number of a signal."""
    tool, arguments = _call_for(options)
    line, stop = Line(), _Stop(settings.wait_with_progress_s)
    patient = replace(settings, wait_with_progress_s=stop.limit + _LONGER_S)
    with _signals(stop):
        async with opened(patient, sandbox=options.sandbox) as app:
            results = await _result(app, tool, arguments, line, stop)
    line.clear()
    status = _print(results, stop, as_json=options.json)
    if stop.number or stop.too_late:
        sys.stdout.flush()
        leave(status)  # a thread may still wait for what is typed
    return status


def _call_for(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The tool and its arguments, without those that are left out."""
    tool, names = _TOOLS[options.command]
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if given.get("prompt") == _STDIN:
        given["prompt"] = _typed()
    if "attach" in given:  # an agent has no working folder that anybody knows, a person has
        given["attach"] = [each if "://" in each else os.path.normpath(Path.cwd() / each) for each in given["attach"]]
    return tool, {name: encodable(value) if isinstance(value, str) else value for name, value in given.items()}


def _typed() -> str:
    """All of stdin.

    Raises:
        BadSetting: when it is no text.
    """
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadSetting("What stdin holds is not UTF-8, so it is no prompt. Files are sent with --attach.") from None


# --- the call ---------------------------------------------------------------------------------------------------------


async def _result(app: App, tool: str, arguments: dict[str, Any], line: Line, stop: _Stop) -> list[CallToolResult]:
    """What the tool says, and the further pages of a long answer; nothing when it was stopped before it asked."""
    results: list[CallToolResult] = []

    async def tell(progress: float, total: float | None, message: str | None) -> None:  # noqa: ARG001 - the SDK's names
        line.show(message or "")

    async def person(context: object, params: ElicitRequestParams) -> ElicitResult:  # noqa: ARG001 - the same
        line.clear()
        stop.patience.deadline = math.inf
        said = await agrees(params.message)
        stop.begin()
        return ElicitResult(action="cancel") if said is None else ElicitResult(action="accept", content={"spend": said})

    async with anyio.create_task_group() as group:
        group.start_soon(_stop_in_time, app, stop, group.cancel_scope)
        async with Client(build(app), elicitation_callback=person if has_person() else None) as client:
            results.append(await client.call_tool(tool, arguments, progress_callback=tell, meta=_WATCHED))
            record = _record(results[0])
            for page in range(2, record.get("pages", 1) + 1):
                results += [await client.call_tool("read_answer", {"id": record["id"], "page": page})]
        group.cancel_scope.cancel()
    return results


async def _stop_in_time(app: App, stop: _Stop, scope: anyio.CancelScope) -> None:
    """When a signal comes or the time is up, have the models stop: the tool then says what they wrote."""
    stop.begin()
    with stop.patience:
        await stop.asked.wait()
    stop.too_late = stop.patience.cancelled_caught
    because = f"it was not done in {duration(stop.limit)}" if stop.too_late else "Ctrl-C was pressed"
    running = app.writing.running(app.settings.caller).values()
    if running:
        await app.writing.stop(*running, because=because)
    else:
        scope.cancel()


@contextmanager
def _signals(stop: _Stop) -> Generator[None]:
    """The first one stops the models, the second the process. Not by the loop: on Windows it takes no handlers."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _: object) -> None:
        stop.number = number
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        loop.call_soon_threadsafe(stop.asked.set)

    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- what is printed --------------------------------------------------------------------------------------------------


def _print(results: list[CallToolResult], stop: _Stop, *, as_json: bool) -> int:
    """Answers go to stdout and errors to stderr; with `as_json` the record goes to stdout. Returns the exit status."""
    printable()
    text = "\n\n".join(block.text for one in results for block in one.content if isinstance(block, TextContent))
    record = _record(results[0]) if results else {}
    is_error = not results or results[0].is_error
    if as_json:
        print(json.dumps({"text": text, **record}, indent=2))
    if results and (is_error or not as_json):
        print(text, file=sys.stderr if is_error else sys.stdout)
    pictures = sum(isinstance(block, ImageContent) for one in results for block in one.content)
    if pictures:
        print(f"openrouter-mcp: {pictures} pictures came with it, which are not shown here.", file=sys.stderr)
    if stop.number or stop.too_late:
        return _stopped(record, stop)
    return int(is_error)


def _stopped(record: dict[str, Any], stop: _Stop) -> int:
    rows = record.get("rows", [record])
    ids = ", ".join(row["id"] for row in rows if row.get("id") and row.get("status") == "cancelled")
    why = "Stopped" if stop.number else f"Not done in {duration(stop.limit)}, so it was stopped"
    print(f"openrouter-mcp: {why}{f': id {ids}' if ids else ''}.", file=sys.stderr)
    return 128 + stop.number if stop.number else _TOO_LATE


def _record(result: CallToolResult) -> dict[str, Any]:
    return mapping(mapping(result.meta).get("openrouter"))
