"""POST /chat/completions: the models' answers on the wire, streamed or whole, and how a fault spoils them."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import anyio

from openrouter_mcp.sandbox.answers import Answer, compose, words
from openrouter_mcp.sandbox.books import Call, book, envelope, usage
from openrouter_mcp.sandbox.faults import Fault, Reset, refusal
from openrouter_mcp.sandbox.reply import Reply, whole
from openrouter_mcp.sandbox.routing import Refused, Route, routes

if TYPE_CHECKING:
    from openrouter_mcp.sandbox.server import Sandbox

Json = dict[str, Any]
COMMENT = b": OPENROUTER PROCESSING\n\n"
COMMENT_EVERY_S = 5.0
PATH = "/chat/completions"


async def complete(sandbox: "Sandbox", body: object) -> Reply:
    """The reply to one request for a completion, after the account's limits and the queued faults."""
    if not isinstance(body, dict):
        return whole(refusal(400, "Invalid JSON in the request body"))
    try:
        found = routes(body, sandbox.catalog, sandbox.account)
    except Refused as refused:
        return whole(refused.fault)
    denied = _account_says(sandbox, found[0], body)
    if denied:
        return whole(denied)
    route, fault = _choose(sandbox, found)
    generation = f"gen-{int(sandbox.clock())}-{next(sandbox.serial):06}"
    await sandbox.wait(fault.delay_headers_s)
    if fault.reset:
        raise Reset
    if fault.is_reply:
        reply = whole(fault)
        if reply.status == 200:
            reply.headers.setdefault("x-generation-id", generation)
        return reply
    call = _call(sandbox, generation, route, body, fault)
    headers = {"x-generation-id": generation}
    if body.get("stream") and not fault.plain:
        return Reply(200, _stream(sandbox, call), {"content-type": "text/event-stream", **headers})
    return Reply(200, await _plain(sandbox, call), {"content-type": "application/json", **headers})


def _account_says(sandbox: "Sandbox", route: Route, body: Json) -> Fault | None:
    account = sandbox.account
    if route.free_tokens:
        limited = account.count_free(sandbox.clock())
        if limited:
            return limited
    top = route.row.get("top_provider") or {}
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or top.get("max_completion_tokens") or 8_192
    return account.affords(route.prompt * route.prompt_tokens + route.flat, route.completion, int(limit))


def _choose(sandbox: "Sandbox", found: list[Route]) -> tuple[Route, Fault]:
    """The model that serves: a fault that strikes one model moves the request on to the next, as at OpenRouter."""
    everywhere = sandbox.take(PATH)
    if everywhere:
        return found[0], everywhere
    for route in found:
        fault = sandbox.take(PATH, {route.asked, route.id}) or Fault()
        if route is found[-1] or not (fault.is_reply and fault.content()[0] >= 400):
            break
    return route, fault


def _call(sandbox: "Sandbox", generation: str, route: Route, body: Json, fault: Fault) -> Call:
    answer = compose(route.row, body)
    if fault.answer == "none":
        answer = Answer([], [], [], None)
    elif fault.answer == "reasoning":
        thoughts = answer.reasoning or words("The question needs more thought than there is room for.")
        answer = Answer(thoughts, [], [], "length")
    usual = sandbox.delays.get(route.asked, sandbox.delays.get(route.id, sandbox.delay_s))
    first = usual if fault.delay_first_s is None else fault.delay_first_s
    token = sandbox.token_delay_s if fault.delay_token_s is None else fault.delay_token_s
    return Call(generation, int(sandbox.clock()), route, body, fault, answer, first, token)


async def _stream(sandbox: "Sandbox", call: Call) -> AsyncGenerator[bytes, None]:
    fault = call.fault
    sandbox.open_streams += 1
    try:
        for _ in range(fault.comments):
            yield COMMENT
        for index, (thinks, delta) in enumerate(_deltas(call)):
            if fault.then and index >= fault.after_tokens:
                break
            async with aclosing(_pause(sandbox, call.token_s if index else call.first_s)) as pause:
                async for comment in pause:
                    yield comment
            _count(call, thinks=thinks)
            yield _event(call, delta)
        if fault.then:
            async with aclosing(_breakdown(sandbox, call)) as breakdown:
                async for piece in breakdown:
                    yield piece
            return
        yield _event(call, {"role": "assistant", "content": ""}, call.answer.finish)
        call.finished = True
        book(call, sandbox.account)
        yield _data(envelope(call, "chat.completion.chunk", []) | {"usage": usage(call)})
        yield b"data: [DONE]\n\n"
    finally:
        sandbox.open_streams -= 1
        book(call, sandbox.account)


async def _pause(sandbox: "Sandbox", seconds: float) -> AsyncGenerator[bytes, None]:
    while seconds > COMMENT_EVERY_S:
        await sandbox.wait(COMMENT_EVERY_S)
        yield COMMENT
        seconds -= COMMENT_EVERY_S
    await sandbox.wait(seconds)


async def _breakdown(sandbox: "Sandbox", call: Call) -> AsyncGenerator[bytes, None]:
    """How a broken stream goes on after its last good token."""
    fault = call.fault
    if fault.then == "stall":
        await anyio.sleep_forever()
    if fault.then == "reset":
        raise Reset
    if fault.then in {"error", "choice_error"}:
        call.failed = True
        top = {"error": dict(fault.error)} if fault.then == "error" else {}
        choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
        if fault.then == "choice_error":
            choice["error"] = dict(fault.error)
        yield _data(envelope(call, "chat.completion.chunk", [choice]) | top)
    if fault.then == "dribble":
        yield b"data: {"
    while fault.then in {"comments", "tokens", "dribble"}:
        await sandbox.wait(fault.every_s)
        if fault.then == "tokens":
            call.written += 1
            yield _event(call, {"role": "assistant", "content": "more "})
        else:
            yield COMMENT if fault.then == "comments" else b" "


async def _plain(sandbox: "Sandbox", call: Call) -> bytes:
    fault, deltas = call.fault, _deltas(call)
    await sandbox.wait(call.first_s + call.token_s * len(deltas))
    if fault.then == "reset":
        raise Reset
    if fault.then in {"stall", "comments", "tokens", "dribble"}:
        await anyio.sleep_forever()
    call.failed = fault.then in {"error", "choice_error"}
    call.finished = not call.failed
    for thinks, _ in deltas[: fault.after_tokens] if call.failed else deltas:
        _count(call, thinks=thinks)
    book(call, sandbox.account)
    message: Json = {
        "role": "assistant",
        "content": "".join(call.answer.content[: call.written]) or None,
        "refusal": None,
        "reasoning": "".join(call.answer.reasoning[: call.reasoned]) or None,
    }
    if call.answer.calls:
        message["tool_calls"] = call.answer.calls
    finish = "error" if call.failed else call.answer.finish
    choice = {"index": 0, "finish_reason": finish, "native_finish_reason": finish, "logprobs": None, "message": message}
    if call.failed:
        choice["error"] = dict(fault.error)
    body = json.dumps(envelope(call, "chat.completion", [choice]) | {"usage": usage(call)}).encode()
    return body[: len(body) // 2] if fault.then == "end" else body


def _deltas(call: Call) -> list[tuple[bool, Json]]:
    """What is streamed, token by token; each with whether it is a thought."""
    hidden = (call.body.get("reasoning") or {}).get("exclude")
    deltas: list[tuple[bool, Json]] = []
    for token in call.answer.reasoning:
        detail = {"type": "reasoning.text", "text": token, "format": "unknown", "index": 0}
        shown = {} if hidden else {"reasoning": token, "reasoning_details": [detail]}
        deltas.append((True, {"role": "assistant", "content": "", **shown}))
    deltas += [(False, {"role": "assistant", "content": token}) for token in call.answer.content]
    for made in call.answer.calls:
        name, arguments = made["function"]["name"], made["function"]["arguments"]
        half = len(arguments) // 2
        first = made | {"index": 0, "function": {"name": name, "arguments": arguments[:half]}}
        deltas.append((False, {"role": "assistant", "content": None, "tool_calls": [first]}))
        deltas.append((False, {"tool_calls": [{"index": 0, "function": {"arguments": arguments[half:]}}]}))
    return deltas


def _count(call: Call, *, thinks: bool) -> None:
    call.reasoned += thinks
    call.written += not thinks


def _event(call: Call, delta: Json, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "native_finish_reason": finish, "logprobs": None}
    return _data(envelope(call, "chat.completion.chunk", [choice]))


def _data(event: Json) -> bytes:
    return f"data: {json.dumps(event)}\n\n".encode()
