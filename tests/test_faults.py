"""What goes wrong upstream: how many requests reach OpenRouter, and what the agent reads."""

import ssl
import tracemalloc
import zlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import partial

import anyio
import anyio.lowlevel
import httpx2
import pytest
from mcp import Client
from processes import Upstream
from pydantic import SecretStr
from support import CANARY, ERAS, SETTINGS, Time, ask, connected, until

from openrouter_mcp.app import open_app
from openrouter_mcp.reading import Timeouts
from openrouter_mcp.sandbox import Fault, Sandbox, faults
from openrouter_mcp.server import build
from openrouter_mcp.settings import load

MODEL = "acme/tiny:free"


def packed(piece: bytes, times: int) -> Fault:
    """A small gzip body that unpacks to `piece` so many times."""
    packer = zlib.compressobj(9, wbits=31)
    body = b"".join(packer.compress(piece) for _ in range(times)) + packer.flush()
    return Fault(body=body, headers={"content-type": "text/event-stream", "content-encoding": "gzip"})


HASTY = Timeouts(line=0.3, first_token=0.5, between_tokens=0.5)

# fault, requests that reach OpenRouter when it strikes every time, code, words the agent must read
ALWAYS: dict[str, tuple[Fault | Callable[[], Fault], int, str, str]] = {
    "connection reset before any reply": (Fault(reset=True), 2, "network", "broke before its reply"),
    "headers, then reset": (Fault(then="reset"), 2, "network", "broke"),
    "accepted, then silence": (Fault(delay_headers_s=600), 2, "timeout", "closed"),
    "silence before the first token": (Fault(comments=0, delay_first_s=4), 2, "timeout", "fell silent"),
    "dribbled bytes, no line": (Fault(then="dribble", every_s=0.01), 2, "timeout", "fell silent"),
    "comments for ever": (Fault(then="comments", every_s=0.01), 1, "timeout", "keep-alive comments"),
    "HTML 502": (faults.html_error(), 2, "upstream", "HTTP 502 that is not OpenRouter's"),
    "200 with an error": (faults.ok_with_error(), 2, "upstream", "empty reply"),
    "no content": (Fault(answer="none"), 2, "empty_answer", "does not bill"),
    "reasoning only": (Fault(answer="reasoning"), 1, "empty_answer", "Raise max_tokens"),
    "day's limit": (faults.day_limit(), 1, "daily_quota", "00:00 UTC"),
    "minute's limit, reset in 8 s": (partial(faults.minute_limit, 8), 2, "minute_quota", "Try again in"),
    "minute's limit, reset in 50 s": (partial(faults.minute_limit, 50), 1, "minute_quota", "Try again in"),
    "busy pool": (faults.pool_busy(), 1, "model_busy", "Free alternatives: globex/large:free, "),
    "busy pool, short hint": (faults.pool_busy(retry_after=4), 2, "model_busy", "Acme Cloud"),
    "Retry-After of a day": (faults.server_error(503, retry_after=86_400), 1, "upstream", "Try again in 24 h"),
    "401": (faults.bad_key(), 1, "bad_key", "OPENROUTER_API_KEY"),
    "402 no credit": (faults.no_credit(), 1, "no_credit", "can only afford"),
    "402 negative balance": (faults.negative_balance(), 1, "no_credit", "negative"),
    "403 moderation": (faults.moderation(), 1, "blocked", "violence"),
    "403 region": (faults.region(), 1, "blocked", "region"),
    "403 budget": (faults.budget_spent(), 1, "no_credit", "Budget exceeded"),
    "404 free promotion ended": (faults.free_ended(), 1, "not_free", "acme/gone, costs money"),
    "404 privacy": (faults.privacy(), 1, "privacy", "data policy"),
    "redirect": (faults.redirect("https://evil.example/"), 1, "bad_reply", "not followed"),
    **{
        str(status): (faults.server_error(status), 2, "upstream", f"answered {status}")
        for status in (408, 500, 502, 503, 504, 529)
    },
}


@pytest.mark.parametrize(("fault", "requests", "code", "words"), ALWAYS.values(), ids=ALWAYS)
async def test_a_lasting_fault_costs_few_requests_and_is_said_plainly(
    sandbox: Sandbox, fault: Fault | Callable[[], Fault], requests: int, code: str, words: str
) -> None:
    sandbox.fail(fault if isinstance(fault, Fault) else fault(), times=None)
    at = Time()
    async with connected(sandbox, timeouts=HASTY, at=at) as client:
        text, record, is_error = await ask(client, prompt="Hi", model=MODEL)
        assert is_error
        assert record["code"] == code
        assert record["attempts"] == len(sandbox.chats) == requests
        assert text.startswith(f"{code}: ")
        assert words in text
        assert "\n" not in text
        assert "settings/privacy" not in text
        assert "user_sandbox" not in text
        sandbox.clear()
        at.now += 86_400
        _, _, is_error = await ask(client, prompt="Hi", model=MODEL)
    assert not is_error  # the server goes on
    assert sandbox.open_streams == 0


ONCE = {
    name: ALWAYS[name][0]
    for name in (
        "connection reset before any reply",
        "accepted, then silence",
        "200 with an error",
        "no content",
        "503",
    )
} | {"minute's limit, reset in 8 s": partial(faults.minute_limit, 8)}


@pytest.mark.parametrize("fault", ONCE.values(), ids=ONCE)
async def test_a_passing_fault_is_met_by_a_second_try(sandbox: Sandbox, fault: Fault | Callable[[], Fault]) -> None:
    sandbox.fail(fault if isinstance(fault, Fault) else fault())
    at = Time()
    async with connected(sandbox, timeouts=HASTY, at=at) as client:
        text, record, is_error = await ask(client, prompt="Hi", model=MODEL)
    assert not is_error
    assert record["attempts"] == len(sandbox.chats) == 2
    assert ", 2 requests, " in text
    assert len(at.waits) <= 1


async def test_the_reset_of_the_minute_is_waited_for(sandbox: Sandbox) -> None:
    sandbox.fail(faults.minute_limit(8))
    at = Time()
    async with connected(sandbox, at=at) as client:
        await ask(client, prompt="Hi", model=MODEL)
    assert 7 < sum(at.waits) < 9


BROKEN = {
    "stall": Fault(then="stall", after_tokens=5),
    "reset": Fault(then="reset", after_tokens=5),
    "end without [DONE]": Fault(then="end", after_tokens=5),
    "error event": Fault(then="error", after_tokens=5),
    "choices[0].error": Fault(then="choice_error", after_tokens=5),
}


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
async def test_what_came_before_a_stream_broke_is_the_answer_marked_incomplete(sandbox: Sandbox, fault: Fault) -> None:
    sandbox.fail(fault)
    async with connected(sandbox, timeouts=HASTY) as client:
        text, record, is_error = await ask(client, prompt="Hi", model=MODEL)
    assert not is_error
    assert record["status"] == "partial"
    assert text.startswith("[sandbox] ")
    assert "[incomplete: " in text
    assert len(sandbox.chats) == 1
    assert sandbox.open_streams == 0


async def test_busy_models_that_we_chose_are_left_for_others(sandbox: Sandbox) -> None:
    sandbox.fail(faults.pool_busy())
    async with connected(sandbox) as client:
        _, record, is_error = await ask(client, prompt="Hi")
        assert not is_error
        first, second = [{chat.body["model"], *chat.body["models"]} for chat in sandbox.chats]
        assert not first & second
        assert record["model"] in second
        await ask(client, prompt="Hi")  # and the next call does not choose them either
    assert not first & {sandbox.chats[-1].body["model"], *sandbox.chats[-1].body["models"]}


async def test_a_redirect_is_not_followed_and_the_other_host_sees_nothing() -> None:
    seen: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.url.host)
        return httpx2.Response(302, headers={"location": "https://evil.example/api/v1/models"})

    async with open_app(SETTINGS, transport=httpx2.MockTransport(answer)) as app:
        with pytest.raises(Exception, match="not followed"):
            await app.client.models()
    assert seen == ["localhost", "localhost"]  # once for each list


@pytest.mark.parametrize("model", ["openrouter/free", MODEL])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (httpx2.ConnectError("[Errno -2] Name or service not known"), "Name or service not known"),
        (httpx2.ConnectTimeout("timed out"), "Ask the user to check the connection or the proxy"),
    ],
)
async def test_what_never_left_the_machine_is_tried_three_times(error: Exception, words: str, model: str) -> None:
    calls: list[str] = []

    def refuse(request: httpx2.Request) -> httpx2.Response:
        calls.append(request.url.path)
        raise error

    at = Time()
    transport = httpx2.MockTransport(refuse)
    async with open_app(SETTINGS, transport=transport, sleep=at.sleep) as app, Client(build(app)) as client:
        text, record, is_error = await ask(client, prompt="Hi", model=model)
    assert is_error
    assert record["code"] == "network"
    assert words in text
    assert len(calls) == 3


async def test_a_certificate_that_is_not_trusted_is_not_tried_again() -> None:
    calls: list[str] = []

    def refuse(request: httpx2.Request) -> httpx2.Response:
        calls.append(request.url.path)
        raise httpx2.ConnectError("handshake") from ssl.SSLCertVerificationError("self-signed")

    transport = httpx2.MockTransport(refuse)
    async with open_app(SETTINGS, transport=transport) as app, Client(build(app)) as client:
        text, record, _ = await ask(client, prompt="Hi")
    assert record["code"] == "network"
    assert "SSL_CERT_FILE" in text
    assert len(calls) == 1


BOMBS = {
    "one endless line": faults.gzip_bomb(),
    "lines that are no events": packed(b"x" * 2**20 + b"\n", 300),
    "blank lines": packed(b"\n" * 2**20, 5),
    "comments": packed(b":\n" * 2**19, 5),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
async def test_a_gzip_bomb_is_cut_off_without_filling_the_memory_or_stopping_the_others(
    sandbox: Sandbox, bomb: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bomb in (BOMBS["blank lines"], BOMBS["comments"]):  # which cost nothing but time, so that the whole is limited
        monkeypatch.setattr("openrouter_mcp.reading._REPLY_BYTES", 4 * 1024 * 1024)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with connected(sandbox) as client:
        await ask(client, prompt="Hi", model=MODEL)
        sandbox.fail(bomb)
        async with anyio.create_task_group() as group:
            group.start_soon(others)
            tracemalloc.start()
            try:
                _, record, is_error = await ask(client, prompt="Hi", model=MODEL)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
                group.cancel_scope.cancel()
    assert is_error
    assert record["code"] == "too_large"
    assert peak < 32 * 1024 * 1024
    assert turns > 100  # a turn between any two pieces


async def test_endless_tokens_are_cut_and_the_connection_closed(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openrouter_mcp.transcript.MAX_REPLY_BYTES", 4000)
    sandbox.fail(Fault(then="tokens", every_s=0))
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, prompt="Hi", model=MODEL)
    assert record["status"] == "partial"
    assert "cut off here" in text
    assert len(text) < 5000
    assert sandbox.chats[0].closed_early
    assert sandbox.open_streams == 0


@pytest.mark.parametrize("era", ERAS)
async def test_a_cancelled_call_closes_its_upstream_connection(sandbox: Sandbox, era: str) -> None:
    sandbox.fail(Fault(then="stall", after_tokens=2))
    async with connected(sandbox, era=era) as client, anyio.create_task_group() as group:
        group.start_soon(partial(ask, client, prompt="Hi", model=MODEL))
        await until(lambda: sandbox.open_streams == 1)
        group.cancel_scope.cancel()
    assert sandbox.open_streams == 0
    assert sandbox.chats[0].closed_early


DONE = b'data: {"choices":[{"delta":{"content":"Whole."},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


async def test_what_breaks_after_the_last_event_does_not_matter() -> None:
    class BreaksAtTheEnd(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncGenerator[bytes]:
            yield DONE
            raise httpx2.ReadError("reset")

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, stream=BreaksAtTheEnd())

    async with open_app(SETTINGS, transport=httpx2.MockTransport(answer)) as app, Client(build(app)) as client:
        text, record, _ = await ask(client, prompt="Hi")
    assert text.startswith("Whole.\n")
    assert record["status"] == "complete"


async def test_calls_one_after_the_other_share_one_connection() -> None:
    with Upstream() as upstream:
        settings = load(upstream.settings)
        async with open_app(settings) as app, Client(build(app)) as client:
            for _ in range(3):
                _, _, is_error = await ask(client, prompt="Hi", model=MODEL)
                assert not is_error
        assert len(upstream.connections) == 1


@pytest.mark.parametrize(
    "fault",
    [
        faults.refusal(401, f"Incorrect API key provided: {CANARY}."),
        faults.refusal(400, "Bad request", metadata={"raw": f"authorization: Bearer {CANARY}"}),
        Fault(json={"choices": [{"message": {"content": f"Your key is {CANARY}"}, "finish_reason": "stop"}]}),
        Fault(model=f"acme/{CANARY}"),
    ],
    ids=["message", "raw", "answer", "model"],
)
async def test_a_host_that_says_the_key_back_does_not_bring_it_to_the_agent(sandbox: Sandbox, fault: Fault) -> None:
    sandbox.fail(fault)
    async with connected(sandbox) as client:
        result = await client.call_tool("ask_model", {"prompt": "Hi", "model": MODEL})
    shown = result.model_dump_json()
    assert CANARY not in shown
    assert "[key]" in shown


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "ALL_PROXY", "HTTPS_PROXY"])
async def test_an_environment_that_no_connection_can_be_made_with_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "ftp://nowhere.invalid")
    settings = load({"OPENROUTER_API_KEY": CANARY, "OPENROUTER_BASE_URL": "https://openrouter.ai/api/v1"})
    async with open_app(replace(settings, state_dir=None, cache_dir=None)) as app, Client(build(app)) as client:
        text, record, _ = await ask(client, "list_free_models")
    assert record["code"] == "network"
    assert "could not be prepared" in text
    assert name in text


async def test_a_model_list_that_never_ends_is_cut_off(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openrouter_mcp.client._JSON_BYTES", 10_000)
    async with connected(sandbox) as client:
        text, record, _ = await ask(client, "list_free_models")
    assert record["code"] == "too_large"
    assert "10000 bytes" in text


async def test_an_answer_that_takes_longer_than_any_may_is_cut_off(sandbox: Sandbox) -> None:
    sandbox.fail(Fault(then="tokens", every_s=0.01))
    limits = Timeouts(line=30, first_token=30, between_tokens=30, whole_answer=0.3)
    async with connected(sandbox, timeouts=limits) as client:
        text, record, _ = await ask(client, prompt="Hi", model=MODEL)
    assert record["status"] == "partial"
    assert "took too long" in text
    assert sandbox.open_streams == 0


@pytest.mark.parametrize("key", ["x", "text", "content", "isError", "complete", 'odd"key\\here'])
async def test_a_key_that_is_also_a_word_of_the_protocol_breaks_no_result(sandbox: Sandbox, key: str) -> None:
    settings = replace(SETTINGS, key=SecretStr(key))
    async with connected(sandbox, settings=settings) as client:
        text, record, is_error = await ask(client, prompt="Hi", model=MODEL)
        assert not is_error
        assert text.startswith("[sandbox] acme/tiny:free was asked")
        assert record["model"] == MODEL
        _, record, _ = await ask(client, prompt="Hi", model="acme/tiny")
    assert record["code"] == "not_free"
