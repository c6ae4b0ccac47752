"""What is written down of a call and of a failed request: one line of facts, never what was asked or answered."""

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel, ValidationError

from openrouter_mcp.app import App
from openrouter_mcp.text import mapping, number
from openrouter_mcp.tools.arguments import caller_of

logger = logging.getLogger(__name__)
_LONGEST = 200
_PLAIN = re.compile(r"[A-Za-z0-9_./:+@-]+", re.ASCII)
_DONE = {"complete": "ok", "": "ok"}


@dataclass(frozen=True)
class Facts:
    """One call of a tool: by whom, what came of it (`ok`, `partial`, `running`, `cancelled`, `asked` when the user is
    to be asked first, or an error's code), and of the answers in its record how much there was. None is unknown."""

    caller: str
    tool: str
    code: str
    seconds: float
    model: str = ""
    attempts: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: Decimal | None = None
    generation: str = ""

    def line(self) -> dict[str, object]:
        """By name, in order, without what is unknown."""
        cost = None if self.cost_usd is None else f"{self.cost_usd:f}"
        every: dict[str, object] = {**vars(self), "seconds": round(self.seconds, 3), "cost_usd": cost}
        return {name: value for name, value in every.items() if value is not None and (value != "" or name == "caller")}


def facts(caller: str, tool: str, seconds: float, record: Mapping[str, object]) -> Facts:
    """What the `record` of a result says of the call."""
    status = str(record.get("status", ""))
    code = str(record.get("code") or _DONE.get(status, status))
    rows = answers(record)
    costs = [cost for row in rows if (cost := _decimal(row.get("cost_usd"))) is not None]
    return Facts(
        caller,
        tool,
        code,
        seconds,
        model=_joined(rows, "model"),
        attempts=_sum(rows, "attempts"),
        prompt_tokens=_sum(rows, "prompt_tokens"),
        completion_tokens=_sum(rows, "completion_tokens"),
        cost_usd=sum(costs, Decimal(0)) if costs else None,
        generation=_joined(rows, "generation_id"),
    )


def answers(record: Mapping[str, object]) -> list[Mapping[str, object]]:
    """The records of the answers that a call is about: of a comparison or a batch its rows and the judge's. A list of
    the newest is about none."""
    if "rows" not in record:
        return [record]
    rows = record["rows"]
    every = [*rows, record.get("judge")] if "status" in record and isinstance(rows, list) else []
    return [row for each in every if (row := mapping(each))]


def as_text(line: Mapping[str, object]) -> str:
    """`name=value` pairs in ASCII on one line; what could be taken for something else stands in quotes, escaped."""
    return " ".join(f"{name}={_value(value)}" for name, value in line.items())


class Observer:
    """Sees every request, as a middleware of the SDK; writes down each call of a tool and each request that failed.
    `told` is handed the facts of each call and the record they are from."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.in_flight = 0  # calls of tools
        self.told: Callable[[Facts, Mapping[str, object]], None] | None = None
        self._clock = clock

    async def __call__(self, ctx: ServerRequestContext[App, Any], call_next: CallNext) -> HandlerResult:
        """One message: https://py.sdk.modelcontextprotocol.io/server/middleware."""
        if ctx.method == "tools/call":
            return await self._call(ctx, call_next)
        try:
            return await call_next(ctx)
        except (MCPError, ValidationError) as failure:
            code = failure.error.code if isinstance(failure, MCPError) else "invalid_request"
            _write(ctx, {"caller": caller_of(ctx).name, "method": ctx.method, "code": code})
            raise

    async def _call(self, ctx: ServerRequestContext[App, Any], call_next: CallNext) -> HandlerResult:
        start = self._clock()
        record: Mapping[str, object] = {"status": "cancelled"}
        self.in_flight += 1
        try:
            result = await call_next(ctx)
            record = _record(result)
        except (MCPError, ValidationError):
            record = {"code": "invalid_request"}
            raise
        finally:
            self.in_flight -= 1
            tool = str((ctx.params or {}).get("name", ""))
            found = facts(caller_of(ctx).name, tool, self._clock() - start, record)
            _write(ctx, found.line())
            if self.told:
                self.told(found, record)
        return result


def _record(result: HandlerResult) -> Mapping[str, object]:
    """Of a result as it goes out."""
    sent = result.model_dump(by_alias=True) if isinstance(result, BaseModel) else mapping(result)
    if "inputRequests" in sent:
        return {"status": "asked"}
    return mapping(mapping(sent.get("_meta")).get("openrouter"))


def _write(ctx: ServerRequestContext[App, Any], line: Mapping[str, object]) -> None:
    logger.info(as_text(line), extra={"facts": line})
    if ctx.request is not None:
        ctx.request.scope["state"]["written"] = True  # or the door would write it down once more


def _value(value: object) -> str:
    text = str(value)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _joined(rows: list[Mapping[str, object]], name: str) -> str:
    found = dict.fromkeys(value for row in rows if isinstance(value := row.get(name), str) and value)
    return ",".join(found)


def _sum(rows: list[Mapping[str, object]], name: str) -> int | None:
    found = [int(value) for row in rows if (value := number(row.get(name))) is not None]
    return sum(found) if found else None


def _decimal(value: object) -> Decimal | None:
    try:
        amount = Decimal(value) if isinstance(value, str) else None
    except InvalidOperation:
        return None
    return amount if amount is not None and amount.is_finite() else None
