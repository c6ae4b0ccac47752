"""What reads other people's bytes, as functions of bytes: each returns when all is well, and raises when an error is
none of ours or a promise is broken. `SEEDS` are inputs that reach deep, for a fuzzer to vary."""

import asyncio
import gzip
import json
import logging
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any, cast

import httpx2
from pydantic import SecretStr

from openrouter_mcp import failures, wire
from openrouter_mcp.catalog import Catalog
from openrouter_mcp.chat import ChatRequest
from openrouter_mcp.cli import logs
from openrouter_mcp.client import OpenRouter
from openrouter_mcp.errors import BadReply, OpenRouterMCPError, Outcome
from openrouter_mcp.guard import Permit
from openrouter_mcp.listing import Listing
from openrouter_mcp.policy import Policy
from openrouter_mcp.pricing import costs_nothing, dearest, price
from openrouter_mcp.purse import Purse, Vetted
from openrouter_mcp.records import FREE_ROUTER, Architecture, Model
from openrouter_mcp.retry import LONGEST_HINT_S, Tries, decide
from openrouter_mcp.settings import Settings
from openrouter_mcp.text import encodable, without_key
from openrouter_mcp.vetting import vet

_KEY = "sk-or-v1-" + "fuzz" * 8
_SETTINGS = Settings(key=SecretStr(_KEY), base_url="http://localhost/api/v1")
_LONGEST_S = 30 * 86_400
_NO_PRICE = {"discount", "overrides"}  # of `pricing`
_CONDITIONS = {"min_prompt_tokens", "utc_start", "utc_end"}  # of its overrides
_ZERO = re.compile(r"0+(\.0+)?")
_PRICES = ({"prompt": "0", "completion": "0"}, {"prompt": "0.000001", "completion": "0.000002"})
_runner = asyncio.Runner()


# --- the stream -----------------------------------------------------------------------------------------------------


class _Reply(httpx2.AsyncBaseTransport, httpx2.AsyncByteStream):
    """Answers whatever is asked with `pieces`."""

    def __init__(self, pieces: list[bytes], *, packed: bool) -> None:
        self._pieces = pieces
        self._headers = {"content-encoding": "gzip"} if packed else {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers=self._headers, stream=self, request=request)

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        for piece in self._pieces:
            yield piece


class _Permit:
    def spend(self) -> bytes:
        return b"{}"


async def _said(reply: _Reply) -> tuple[list[tuple[wire.Event, str]], str]:
    """The events of `reply` with the failures they tell of in words, and the error that ended it."""
    client, events = OpenRouter(_SETTINGS, transport=reply), []
    try:
        async for event in client.chat(cast(Permit, _Permit())):
            failed = event.failure.text if event.failure else ""
            events.append((replace(event, failure=None), failed))
    except OpenRouterMCPError as error:
        return events, str(error)
    finally:
        await client.aclose()
    return events, ""


def stream(data: bytes) -> None:
    """A streamed reply: its first byte says how large its pieces are, the second how it is packed."""
    size, packing, body = (data[0] or 1 if data else 1), (data[1] % 3 if len(data) > 1 else 0), data[2:]
    body = gzip.compress(body, 1) if packing == 1 else body
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    cut = _runner.run(_said(_Reply(pieces, packed=packing > 0)))
    if packing < 2:  # what is packed wrongly may break earlier or later
        assert _runner.run(_said(_Reply([body], packed=packing > 0))) == cut, "the pieces made a difference"
    for event, _ in cut[0]:
        assert isinstance(event.text + event.refusal + event.reasoning + event.finish_reason, str)
        if event.usage and event.usage.cost is not None:
            assert event.usage.cost.is_finite()
            assert event.usage.cost >= 0
        assert re.fullmatch(r"[A-Za-z0-9_-]*", event.generation_id)
        json.dumps([event.logprobs, [[index, *vars(call).values()] for index, call in event.calls]]).encode()


# --- errors ---------------------------------------------------------------------------------------------------------


def errors(data: bytes) -> None:
    """A reply with an error as it comes over the wire: the status, the headers, a blank line, the body."""
    head, _, body = data.partition(b"\n\n")
    status, *lines = head.decode("latin-1").split("\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    try:
        payload = wire.read_json(body)
    except BadReply:
        payload = None
    number = int(status) if re.fullmatch(r"[2-5][0-9]{2}", status, re.ASCII) else 500
    failure = failures.read(number, headers, payload, clock=lambda: 1_795_000_000.0)
    assert isinstance(failure, OpenRouterMCPError)
    text = str(failure)
    assert text.isprintable(), "it would not be one line"
    assert text.startswith(f"{failure.code}: ")
    assert len(text) < 3000
    assert failure.hint_s is None or 0 <= failure.hint_s <= _LONGEST_S
    for free in (True, False):
        again = decide(failure, Tries(free=free).after(failure, time_left=600.0), 0.5)
        assert 0 <= again.wait_s <= LONGEST_HINT_S
        assert free or not again.again or failure.outcome is not Outcome.LOST, "it might be billed twice"


# --- prices ---------------------------------------------------------------------------------------------------------


def _leaves(pricing: dict[str, Any]) -> Iterator[object]:
    """Every price, found another way than ours."""
    yield from (value for name, value in pricing.items() if name not in _NO_PRICE)
    for entry in pricing.get("overrides") or []:
        yield from (value for name, value in entry.items() if name not in _CONDITIONS and name != "discount")


def prices(data: bytes) -> None:
    """A model's `pricing` as JSON, or one price as text."""
    text = data.decode("utf-8", "replace")
    amount = price(text)
    assert amount is None or (amount.is_finite() and amount >= 0 and text.isascii())
    assert amount != 0 or _ZERO.fullmatch(text), f"{text!a} is not plainly nothing"
    try:
        pricing = wire.read_json(data)
    except BadReply:
        return
    if not isinstance(pricing, dict):
        return
    if costs_nothing(pricing):
        assert {"prompt", "completion"} <= set(pricing)
        for value in _leaves(pricing):
            assert isinstance(value, str)
            assert _ZERO.fullmatch(value), f"{value!a} is not plainly nothing"
    bound = dearest(_model("acme/tiny", pricing))
    if bound is not None:
        listed = [Decimal(str(value)) for value in _leaves(pricing)]
        assert bound.prompt == max([Decimal(pricing["prompt"]), bound.prompt])
        assert {bound.prompt, bound.completion, bound.request, bound.image, bound.audio} <= {*listed, Decimal(0)}
        assert 0 <= bound.cost(1, 1) <= bound.cost(2, 2)
        assert all(re.fullmatch(r"[0-9]+(\.[0-9]+)?", most) for most in bound.max_price().values())


def _model(id_: str, pricing: dict[str, Any]) -> Model:
    return Model(id=id_, pricing=pricing, architecture=Architecture(output_modalities=("text",)))


# --- ids ------------------------------------------------------------------------------------------------------------


async def _vetted(id_: str, pricing: dict[str, Any], limit: Decimal) -> Vetted:
    listed = {id_, "acme/tiny:free"} if id_ and encodable(id_) == id_ else {"acme/tiny:free"}

    async def fetch(_: Listing | None) -> Listing:
        return Listing({each: _model(each, pricing) for each in listed})

    request = ChatRequest(id_, "Hi")
    return await vet(request, Catalog(fetch), Policy(daily_budget=limit, call_budget=limit), Purse(limit, "budget"))


def ids(data: bytes) -> None:
    """A model's id as an agent names it, over a catalogue that lists just this one, for nothing and for money."""
    id_ = data.decode("utf-8", "surrogateescape")
    for pricing in _PRICES:
        for limit in (Decimal(0), Decimal(1)):
            try:
                vetted = _runner.run(_vetted(id_, pricing, limit))
            except OpenRouterMCPError as error:
                str(error).encode()
                continue
            assert id_.isascii(), f"{id_!a} was accepted"
            assert id_.isprintable()
            assert not set(id_) & set(" ~@%?#\\\"'<>,;"), f"{id_!a} was accepted"
            assert (id_.count("/"), id_.count(":") < 2) == (1, True)
            assert ".." not in id_.split("/")
            assert id_ == FREE_ROUTER or not id_.startswith("openrouter/") or id_.endswith(":free")
            assert vetted.worst <= limit
            if not limit:
                assert id_ == FREE_ROUTER or (id_.endswith(":free") and pricing is _PRICES[0])


# --- the key --------------------------------------------------------------------------------------------------------


def redactor(data: bytes) -> None:
    """A key on the first line, and words to put it between."""
    first, _, rest = data.decode("utf-8", "replace").partition("\n")
    # As `settings` admits it; brackets apart, which with those of "[key]" could make a new one.
    key = first if re.fullmatch(r"[\x21-\x5a\x5c\x5e-\x7e]{16,200}", first) else _KEY
    words = rest.split("\x00")
    text = key.join(["", *words, ""])
    said = without_key(
        {"content": [{"text": text, "parts": [key, [text, 1, None]]}], "_meta": {"one": {"two": key}}}, key
    )
    assert [leaf for leaf in _texts(said) if key in leaf] == []
    error = ValueError(text)
    record = logging.LogRecord("any", logging.ERROR, "any", 1, "%s", (text,), (ValueError, error, None))
    in_words = logs.formatter(SecretStr(key), logs.TEXT).format(record)
    assert key not in in_words
    assert not [line for line in in_words.split("\n")[1:] if not line.startswith("  ")], "somebody's words begin a line"
    line = logs.formatter(SecretStr(key), logs.JSON).format(record)
    assert "\n" not in line
    assert [leaf for leaf in _texts(json.loads(line)) if key in leaf] == []


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


# --- where to begin -------------------------------------------------------------------------------------------------

TARGETS: dict[str, Callable[[bytes], None]] = {each.__name__: each for each in (stream, errors, prices, ids, redactor)}
_EVENTS = rb"""
: OPENROUTER PROCESSING
data: {"id":"gen-1","model":"acme/tiny","provider":"Acme","choices":[{"delta":{"role":"assistant","content":"Hi"}}]}

data: {"choices":[{"delta":{"reasoning":"So","tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"{"}}]}}]}
data: {"choices":[{"delta":{"content":[{"text":"a"}],"annotations":[{"url_citation":{"url":"https://a","title":"A"}}]}}]}
data: {"choices":[{"logprobs":{"content":[{"token":"a","logprob":-0.5,"top_logprobs":[{"token":"b","logprob":-1}]}]}}]}
data: {"choices":[{"delta":{"images":[{"image_url":{"url":"data:image/png;base64,QQ=="}}]},"finish_reason":"stop"}]}
data: {"usage":{"prompt_tokens":3,"completion_tokens":4,"cost":1e-7,"is_byok":true,"cost_details":{"upstream_inference_cost":0.5},"completion_tokens_details":{"reasoning_tokens":1}}}
data: [DONE]
"""  # noqa: E501 - as they come
_SHARED = b'"metadata":{"limit_source":"upstream","provider_name":"Acme","raw":"busy","reasons":["a"]}'
_KNOWN = b'"availability":{"code":"model_not_found","requested_models":["a/b"],"retryable":false,"retry_after":5}'
SEEDS: dict[str, tuple[bytes, ...]] = {
    "stream": (
        b"\xff\x00" + _EVENTS,
        b"\x07\x01" + _EVENTS,
        b"\x50\x02\x1f\x8b\x08" + _EVENTS,
        b'\x10\x00{"choices":[{"message":{"content":"whole"},"finish_reason":"length"}]}',
        b'\x10\x00data: {"error":{"code":429,"message":"busy","metadata":{"provider_name":"Acme"}}}\n\n',
    ),
    "errors": (
        b'429\nretry-after: 5\n\n{"error":{"code":429,"message":"Rate limit exceeded: free-models-per-min"}}',
        b'429\nx-ratelimit-reset: 1795000060000\n\n{"error":{"code":429,"message":"free-models-per-day"}}',
        b'503\nretry-after: Sat, 21 Nov 2026 10:00:00 GMT\n\n{"error":{"code":"x","message":"No",' + _SHARED + b"}}",
        b'404\nretry-after-ms: 1500\n\n{"error":{"code":404,"message":"No endpoints found",' + _KNOWN + b"}}",
        b'402\n\n{"error":{"code":402,"metadata":{"limit_source":"in_flight","headers":{"Retry-After":"2"}}}}',
        b"502\n\n<html>Bad gateway</html>",
        b'200\n\n{"error":{"code":400,"availability":{"code":"free_variant_ended","fallback_models":["a/b"]}}}',
    ),
    "prices": (
        b"0", b"0.000001", b"-1", b"1e-9", b"0.", "\u0660".encode(),
        b'{"prompt":"0","completion":"0.00","request":"0","overrides":[{"min_prompt_tokens":9,"prompt":"0"}]}',
        b'{"prompt":"0.000001","completion":"0.1","image":"1","audio":"2","discount":0.5,"web_search":"1"}',
        b'{"prompt":0,"completion":"0","moonlight":null}',
    ),
    "ids": (
        b"acme/tiny:free", b"acme/tiny", b"openrouter/free", b"openrouter/auto", b"~acme/tiny", b"@preset/a",
        b"acme/tiny:free:online", "acme/tiny:fre\u0435".encode(), b"acme/tiny:free\n", b"acme/../tiny:free",
    ),
    "redactor": (
        _KEY.encode() + b"\nBearer \x00 again", b'sk-or-v1-"quoted\\0123456789\nwords\x00more\r\n\x1b[31m',
        b"short\n\x00\x00",
    ),
}  # fmt: skip
