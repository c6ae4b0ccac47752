"""The stand-in for OpenRouter behaves as OpenRouter is described to behave."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from openrouter_mcp.sandbox import Fault, Sandbox, faults
from openrouter_mcp.sandbox.answers import instance
from openrouter_mcp.sandbox.transport import App, Message, Receive, Send, StreamingTransport

NOON = 1_795_176_000.0  # 2026-11-20 12:00 UTC
KEY = "sk-or-v1-canary-sandbox"


class Clock:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sandbox(clock: Clock) -> Sandbox:
    return Sandbox(clock=clock, sleep=clock.sleep)


def connect(app: App, timeout: float = 5.0) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {KEY}"}
    transport = StreamingTransport(app)
    return httpx2.AsyncClient(transport=transport, base_url="http://sandbox/api/v1", headers=headers, timeout=timeout)


async def idle(turns: int) -> None:
    """Let everybody else run."""
    for _ in range(turns):
        await asyncio.sleep(0)


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[httpx2.AsyncClient]:
    async with connect(sandbox.app) as client:
        yield client


ASKED = "What is tea made of?"


def question(text: str = ASKED, **more: object) -> dict[str, Any]:
    """A request's body; a `model` of None leaves the model out."""
    body = {"model": "acme/tiny:free", "messages": [{"role": "user", "content": text}], **more}
    return {name: value for name, value in body.items() if value is not None}


async def ask(client: httpx2.AsyncClient, text: str = ASKED, **more: object) -> httpx2.Response:
    return await client.post("/chat/completions", json=question(text, **more))


async def lines(client: httpx2.AsyncClient, text: str = ASKED, **more: object) -> list[str]:
    """The lines of a streamed answer, without the empty ones."""
    async with client.stream("POST", "/chat/completions", json=question(text, stream=True, **more)) as reply:
        assert reply.status_code == 200
        return [line async for line in reply.aiter_lines() if line]


def events(streamed: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in streamed if line.startswith("data: {")]


def spoken(streamed: list[str]) -> str:
    choices = [choice for event in events(streamed) for choice in event["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


async def test_the_catalogue_has_every_oddity(client: httpx2.AsyncClient) -> None:
    rows = {row["id"]: row for row in (await client.get("/models")).json()["data"]}
    free = [name for name in rows if name.endswith(":free") and not name.startswith("trap/")]
    assert len(free) >= 10
    assert len({name.split("/")[0] for name in free}) >= 8
    assert all(rows[name]["pricing"] == {"prompt": "0", "completion": "0"} for name in free)
    assert rows["stealth/heron-alpha"]["pricing"]["completion"] == "0"
    assert rows["openrouter/auto"]["pricing"]["prompt"] == "-1"
    assert rows["openrouter/free"]["pricing"]["prompt"] == "0"
    assert rows["~acme/tiny-latest"]["alias_target"]["slug"] == "acme/tiny"
    assert rows["acme/old:free"]["expiration_date"] == "2026-11-30"
    assert rows["acme/tiny:free"]["canonical_slug"] == "acme/tiny-04-28"
    assert rows["nakatomi/endless"]["context_length"] is None
    assert rows["nakatomi/open"]["top_provider"]["max_completion_tokens"] is None
    assert "description" not in rows["nakatomi/bare"]
    assert "\x1b" in rows["vandelay/loud:free"]["description"]
    assert "acme/gone:free" not in rows
    assert "umbrella/embed" not in rows
    traps = [row["pricing"] for name, row in rows.items() if name.startswith("trap/")]
    assert len(traps) == 12
    assert not any(pricing == {"prompt": "0", "completion": "0"} for pricing in traps)


async def test_other_kinds_of_output_are_listed_on_request(client: httpx2.AsyncClient) -> None:
    everything = (await client.get("/models", params={"output_modalities": "all"})).json()
    assert "umbrella/embed" in {row["id"] for row in everything["data"]}
    assert everything["total_count"] == (await client.get("/models/count")).json()["data"]["count"] + 1


@pytest.mark.parametrize("path", ["/models", "/models/user"])
async def test_an_unchanged_catalogue_is_not_sent_twice(
    sandbox: Sandbox, client: httpx2.AsyncClient, path: str
) -> None:
    tag = (await client.get(path)).headers["etag"]
    assert (await client.get(path, headers={"If-None-Match": tag})).status_code == 304
    sandbox.catalog[0]["pricing"]["prompt"] = "0.5"
    changed = await client.get(path, headers={"If-None-Match": tag})
    assert changed.json()["data"][0]["pricing"]["prompt"] == "0.5"


async def test_one_sandbox_does_not_change_another(sandbox: Sandbox, clock: Clock) -> None:
    for row in sandbox.catalog:
        row["pricing"]["prompt"] = "7"
    assert all(row["pricing"]["prompt"] != "7" for row in Sandbox(clock=clock).catalog)


async def test_one_model_and_its_endpoints_are_found_by_any_spelling(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/model/acme/tiny:free:nitro")).json()["data"]["id"] == "acme/tiny:free"
    assert (await client.get("/model/~acme/tiny-latest")).json()["data"]["id"] == "acme/tiny"
    assert (await client.get("/model/acme/none")).status_code == 404
    offers = (await client.get("/models/acme/tiny/endpoints")).json()["data"]["endpoints"]
    assert offers[0]["tag"] == "acme"
    assert (await client.get("/models/acme/gone:free/endpoints")).json()["data"]["endpoints"] == []


async def test_a_stream_is_comment_tokens_usage_without_choices_and_done(client: httpx2.AsyncClient) -> None:
    streamed = await lines(client)
    assert streamed[0] == ": OPENROUTER PROCESSING"
    assert streamed[-1] == "data: [DONE]"
    told = events(streamed)
    assert told[-1]["choices"] == []
    assert told[-1]["usage"]["cost"] == 0
    assert told[-2]["choices"][0]["finish_reason"] == "stop"
    assert told[-1]["usage"]["completion_tokens"] == len(told) - 2
    assert spoken(streamed).startswith("[sandbox] acme/tiny:free was asked: 'What is tea made of?' (5 words).")


async def test_a_plain_reply_has_openrouters_shape(client: httpx2.AsyncClient) -> None:
    reply = await ask(client)
    body = reply.json()
    assert reply.headers["x-generation-id"] == body["id"]
    assert body["object"] == "chat.completion"
    assert body["provider"] == "Acme Cloud"
    assert body["choices"][0]["message"]["content"] == spoken(await lines(client))
    assert body["usage"]["is_byok"] is False


async def test_answers_depend_on_model_prompt_and_system_and_on_nothing_else(client: httpx2.AsyncClient) -> None:
    system = {"role": "system", "content": "Be brief."}
    told = {"model": "acme/tiny:free", "messages": [system, *question()["messages"]]}
    said = [
        (await client.post("/chat/completions", json=body)).json()["choices"][0]["message"]["content"]
        for body in (question(), question(), question("Why?"), question(model="globex/large:free"), told)
    ]
    assert said[0] == said[1]
    assert len(set(said)) == 4


async def test_the_output_limit_cuts_the_answer(client: httpx2.AsyncClient) -> None:
    cut = (await ask(client, max_tokens=5)).json()
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 5


async def test_an_answer_is_as_long_as_asked(client: httpx2.AsyncClient) -> None:
    reply = (await ask(client, "Write 3000 words about tea.", model="globex/large:free")).json()
    assert len(reply["choices"][0]["message"]["content"].split()) >= 3000


async def test_a_thinking_model_thinks_before_it_answers(client: httpx2.AsyncClient) -> None:
    told = events(await lines(client, model="hooli/thinker:free"))
    assert told[0]["choices"][0]["delta"]["reasoning"]
    assert told[-1]["usage"]["completion_tokens_details"]["reasoning_tokens"] > 3
    short = (await ask(client, model="hooli/thinker:free", max_tokens=3)).json()["choices"][0]
    assert (short["message"]["content"], short["finish_reason"]) == (None, "length")
    refused = await ask(client, model="hooli/thinker:free", reasoning={"effort": "none"})
    assert refused.status_code == 400


async def test_a_tool_is_called_when_the_prompt_says_so(client: httpx2.AsyncClient) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": schema}}]
    told = events(await lines(client, "Please call the tool.", tools=tools))
    pieces = [event["choices"][0]["delta"].get("tool_calls") for event in told[:-1]]
    arguments = "".join(piece[0]["function"]["arguments"] for piece in pieces if piece)
    assert json.loads(arguments) == {"city": "[sandbox]"}
    assert told[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert "tool_calls" not in (await ask(client, tools=tools)).json()["choices"][0]["message"]


async def test_a_schema_is_answered_by_an_instance_of_it(client: httpx2.AsyncClient) -> None:
    schema = {
        "$defs": {"kind": {"enum": ["green", "black"]}},
        "type": "object",
        "properties": {"kind": {"$ref": "#/$defs/kind"}, "cups": {"type": "integer", "minimum": 2}},
        "required": ["kind", "cups"],
    }
    wish = {"type": "json_schema", "json_schema": {"name": "tea", "schema": schema}}
    reply = await ask(client, model="cyberdyne/json:free", response_format=wish)
    assert json.loads(reply.json()["choices"][0]["message"]["content"]) == {"kind": "green", "cups": 2}


def test_a_schema_that_contains_itself_has_an_instance() -> None:
    tree = {"type": "object", "properties": {"leaves": {"type": "array", "items": {"$ref": "#"}}}}
    assert instance(tree) is not None


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (question(model="acme/tinny"), 400, "model_not_found"),
        (question(model="acme/gone:free"), 404, "free_variant_ended"),
        (question(models=["a/1", "a/2", "a/3", "a/4"]), 400, "must have 3 items or fewer"),
        (question(provider={"max_prize": 1}), 400, "max_prize"),
        (question(max_tokens=0), 400, "max_tokens"),
        (question(plugins={"id": "web"}), 400, "plugins"),
        ({"model": "acme/tiny:free", "messages": []}, 400, "non-empty"),
        (question("x" * 140_000), 400, "context_length_exceeded"),
        (question(provider={"data_collection": "deny"}), 404, "privacy_restricted"),
        (question(provider={"zdr": True}), 404, "privacy_restricted"),
        (question(model="acme/tiny", provider={"max_price": {"prompt": "0"}}), 404, "max_price"),
        (question(model="openrouter/auto", provider={"max_price": {"completion": "0"}}), 404, "max_price"),
        (question(model="trap/number:free", provider={"max_price": {"prompt": "0"}}), 404, "max_price"),
        (question(model="trap/request:free", provider={"max_price": {"request": "0"}}), 404, "max_price"),
        (question(provider={"only": ["globex"]}), 404, "allowed_providers"),
    ],
)
async def test_a_request_that_cannot_be_served_is_refused(
    client: httpx2.AsyncClient, body: dict[str, Any], status: int, says: str
) -> None:
    reply = await client.post("/chat/completions", json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, status)
    assert says in reply.text


async def test_an_ended_promotion_names_the_paid_twin(client: httpx2.AsyncClient) -> None:
    availability = (await ask(client, model="acme/gone:free")).json()["error"]["availability"]
    assert availability["fallback_models"] == ["acme/gone"]
    assert availability["retryable"] is False


async def test_an_account_may_exclude_free_models(sandbox: Sandbox, client: httpx2.AsyncClient) -> None:
    sandbox.account.allows_free = False
    assert "privacy_restricted" in (await ask(client)).text
    usable = {row["id"] for row in (await client.get("/models/user")).json()["data"]}
    assert "acme/tiny" in usable
    assert "acme/tiny:free" not in usable


async def test_a_price_limit_that_is_met_changes_nothing(client: httpx2.AsyncClient) -> None:
    dear = {"prompt": "0.15", "completion": "0.6"}  # acme/tiny's own prices, in USD per million
    assert (await ask(client, model="acme/tiny", provider={"max_price": dear})).status_code == 200
    zero = {"prompt": "0", "completion": "0", "request": "0", "image": "0"}
    assert (await ask(client, provider={"max_price": zero})).status_code == 200


@pytest.mark.parametrize("model", [None, "@preset/mine", "acme/tiny:free@preset/mine", "~acme/tiny-latest"])
async def test_what_names_no_free_model_is_billed(
    sandbox: Sandbox, client: httpx2.AsyncClient, model: str | None
) -> None:
    reply = (await ask(client, model=model)).json()
    assert reply["model"] == "acme/tiny"
    assert sandbox.bill == Decimal(str(reply["usage"]["cost"])) > 0


@pytest.mark.parametrize("router", ["openrouter/auto", "openrouter/fusion", "openrouter/bodybuilder"])
async def test_a_router_picks_a_paid_model(sandbox: Sandbox, client: httpx2.AsyncClient, router: str) -> None:
    assert (await ask(client, model=router)).json()["model"] != router
    assert sandbox.bill > 0


@pytest.mark.parametrize("name", ["completion", "missing", "negative", "exponent", "small-exponent", "blank", "null",
                                  "number", "overrides", "unknown", "request"])  # fmt: skip
async def test_a_trap_costs_who_believes_its_name(sandbox: Sandbox, client: httpx2.AsyncClient, name: str) -> None:
    assert (await ask(client, "How long may this be? " * 3, model=f"trap/{name}:free")).status_code == 200
    assert sandbox.bill > 0


async def test_the_free_router_picks_a_model_that_can_do_it(sandbox: Sandbox, client: httpx2.AsyncClient) -> None:
    image = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": "https://a.example/x.png"}}]
    picked = {(await ask(client, f"Question {n}", model="openrouter/free")).json()["model"] for n in range(8)}
    assert len(picked) > 2
    assert all(name.endswith(":free") for name in picked)
    body = {"model": "openrouter/free", "messages": [{"role": "user", "content": image}]}
    seen = (await client.post("/chat/completions", json=body)).json()["model"]
    assert seen in {"umbrella/vision:free", "weyland/reader:free", "massive/omni:free"}
    assert sandbox.bill == 0
    blind = await client.post("/chat/completions", json={**body, "model": "acme/tiny:free"})
    assert "image input" in blind.json()["error"]["message"]


async def test_search_costs_also_on_a_free_model(sandbox: Sandbox, client: httpx2.AsyncClient) -> None:
    await ask(client, model="acme/tiny:free:nitro")
    assert sandbox.bill == 0
    for extra in ({"model": "acme/tiny:free:online"}, {"plugins": [{"id": "web"}]},
                  {"tools": [{"type": "openrouter:web_search"}]}):  # fmt: skip
        before = sandbox.bill
        await ask(client, **extra)
        assert sandbox.bill - before == Decimal("0.02")


async def test_an_account_default_plugin_bills_unless_it_is_disabled(
    sandbox: Sandbox, client: httpx2.AsyncClient
) -> None:
    sandbox.account.default_plugins = ["web", "fusion"]
    off = [{"id": "web", "enabled": False}, {"id": "fusion", "enabled": False}]
    assert (await ask(client, plugins=off)).json()["usage"]["cost"] == 0
    assert sandbox.bill == 0
    assert (await ask(client, plugins=off[:1])).json()["usage"]["cost"] == 0.02
    assert sandbox.bill == Decimal("0.02")


async def test_a_document_costs_unless_it_is_read_for_free(sandbox: Sandbox, client: httpx2.AsyncClient) -> None:
    part = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}}
    body = {"model": "acme/tiny:free", "messages": [{"role": "user", "content": [part]}]}
    free = [{"id": "file-parser", "pdf": {"engine": "cloudflare-ai"}}]
    await client.post("/chat/completions", json={**body, "plugins": free})
    await client.post("/chat/completions", json={**body, "model": "weyland/reader:free"})
    assert sandbox.bill == 0
    await client.post("/chat/completions", json=body)
    assert sandbox.bill == Decimal("0.002")


async def test_the_minute_is_counted_with_failures_and_slides(
    sandbox: Sandbox, client: httpx2.AsyncClient, clock: Clock
) -> None:
    sandbox.account.per_minute = 3
    sandbox.fail(faults.server_error(503))
    statuses = [(await ask(client)).status_code for _ in range(4)]
    assert statuses == [503, 200, 200, 429]
    reply = await ask(client)
    assert reply.json()["error"]["message"] == "Rate limit exceeded: free-models-per-min."
    reset = str(int(NOON + 60) * 1000)
    assert reply.headers["x-ratelimit-reset"] == reset
    assert reply.json()["error"]["metadata"]["headers"]["X-RateLimit-Reset"] == reset
    assert "retry-after" not in reply.headers
    assert (await ask(client, model="acme/tiny")).status_code == 200
    clock.now += 60
    assert (await ask(client)).status_code == 200


async def test_the_day_is_counted_until_midnight_utc(
    sandbox: Sandbox, client: httpx2.AsyncClient, clock: Clock
) -> None:
    sandbox.account.per_day = 2
    assert [(await ask(client)).status_code for _ in range(3)] == [200, 200, 429]
    reply = await ask(client)
    assert "free-models-per-day. Add 10 credits to unlock" in reply.json()["error"]["message"]
    reset = int(reply.headers["x-ratelimit-reset"]) / 1000
    assert datetime.fromtimestamp(reset, UTC).isoformat() == "2026-11-21T00:00:00+00:00"
    quota = (await client.get("/key")).json()["data"]["free_model_daily_requests"]
    assert quota == {"used": 2, "limit": 2, "remaining": 0}
    sandbox.account.bought = Decimal(10)
    assert "free-models-per-day-high-balance" in (await ask(client)).text
    clock.now = reset
    assert (await ask(client)).status_code == 200


async def test_credit_is_checked_before_a_call(sandbox: Sandbox, client: httpx2.AsyncClient) -> None:
    sandbox.account.bought = Decimal("0.001")
    refused = await ask(client, model="acme/tiny")
    assert (refused.status_code, "can only afford 1664" in refused.text) == (402, True)
    assert (await ask(client, model="acme/tiny", max_tokens=100)).status_code == 200
    sandbox.account.limit = Decimal(0)
    assert "openrouter_key_limit" in (await ask(client, model="acme/tiny", max_tokens=100)).text
    assert (await ask(client)).status_code == 200
    sandbox.account.bill = Decimal(1)
    assert (await ask(client)).status_code == 402


async def test_the_key_tells_what_it_knows(sandbox: Sandbox, client: httpx2.AsyncClient) -> None:
    sandbox.account.limit = Decimal(2)
    await ask(client, model="globex/large")
    key = (await client.get("/key")).json()["data"]
    assert key["usage"] == float(sandbox.bill) > 0
    assert key["limit_remaining"] == key["effective_budget"]["remaining_usd"] == float(2 - sandbox.bill)
    sandbox.account.newer_key_fields = False
    assert "free_model_daily_requests" not in (await client.get("/key")).json()["data"]


async def test_credits_answer_as_they_were_seen_to(sandbox: Sandbox, client: httpx2.AsyncClient) -> None:
    refused = await client.get("/credits")
    assert refused.json()["error"] == {"message": "Only management keys can perform this operation", "code": 403}
    sandbox.account.credits = "real"
    assert (await client.get("/credits")).json()["data"] == {"total_credits": 5.0, "total_usage": 0.0}
    sandbox.account.credits = "zero"
    assert (await client.get("/credits")).json()["data"] == {"total_credits": 0, "total_usage": 0}


@pytest.mark.parametrize("path", ["/key", "/credits", "/models/user", "/generation?id=x"])
async def test_a_missing_or_rejected_key_is_refused(sandbox: Sandbox, client: httpx2.AsyncClient, path: str) -> None:
    sandbox.rejected_keys.add(KEY)
    assert (await client.get(path)).json() == {"error": {"message": "User not found.", "code": 401}}
    async with httpx2.AsyncClient(transport=StreamingTransport(sandbox.app), base_url="http://sandbox/api/v1") as other:
        assert (await other.get(path)).json()["error"]["message"] == "No cookie auth credentials found"
        assert (await other.get("/models")).status_code == 200
        assert (await ask(other)).status_code == 401
    assert (await client.get("/models")).status_code == 200


async def test_nothing_is_served_outside_the_base_path(sandbox: Sandbox, client: httpx2.AsyncClient) -> None:
    assert (await client.get("http://sandbox/key")).status_code == 404
    assert (await client.get("/nothing")).status_code == 404
    assert len(sandbox.requests) == 2


async def test_a_past_generation_is_known(sandbox: Sandbox, client: httpx2.AsyncClient) -> None:
    assert (await client.get("/generation", params={"id": "gen-0"})).status_code == 404
    body = (await ask(client, model="acme/tiny")).json()
    past = (await client.get("/generation", params={"id": body["id"]})).json()["data"]
    assert past["total_cost"] == float(sandbox.bill)
    assert (past["model"], past["cancelled"], past["streamed"]) == ("acme/tiny", False, False)


async def test_the_key_is_not_in_what_a_failed_test_would_print(sandbox: Sandbox, client: httpx2.AsyncClient) -> None:
    await ask(client)
    assert sandbox.chats[0].headers["authorization"] == f"Bearer {KEY}"
    assert sandbox.chats[0].body["model"] == "acme/tiny:free"
    assert KEY not in repr(sandbox.requests)


READY_MADE: list[tuple[Fault, int, str]] = [
    (faults.minute_limit(8, now=NOON), 429, str(int(NOON + 8) * 1000)),
    (faults.day_limit(), 429, "Add 10 credits"),
    (faults.day_limit(high_balance=True), 429, "free-models-per-day-high-balance"),
    (faults.pool_busy("Initech Cloud"), 429, "upstream_provider_shared_pool"),
    (faults.capacity(4), 429, "capacity_exhausted"),
    (faults.no_credit(), 402, "can only afford 27342"),
    (faults.negative_balance(), 402, "negative"),
    (faults.key_limit(), 402, "openrouter_key_limit"),
    (faults.in_flight_budget(4), 402, "openrouter_in_flight_budget"),
    (faults.budget_spent("workspace"), 403, "openrouter_workspace_budget"),
    (faults.moderation(), 403, "flagged_input"),
    (faults.region(), 403, "region_restricted"),
    (faults.privacy(), 404, "privacy_restricted"),
    (faults.free_ended(), 404, "free_variant_ended"),
    (faults.bad_key(), 401, "User not found."),
    (faults.server_error(529), 529, "provider_unavailable"),
    (faults.html_error(), 502, "<html>"),
    (faults.redirect("https://elsewhere.example/"), 307, ""),
    (faults.ok_with_error(), 200, '{"error"'),
    (Fault(then="error", after_tokens=2), 200, "Provider disconnected mid-stream"),
]


@pytest.mark.parametrize(("fault", "status", "says"), READY_MADE)
async def test_a_fault_strikes_once_and_then_all_is_well(
    sandbox: Sandbox, client: httpx2.AsyncClient, fault: Fault, status: int, says: str
) -> None:
    sandbox.fail(fault)
    reply = await ask(client)
    assert reply.status_code == status
    assert says in reply.text
    assert (await ask(client)).json()["choices"][0]["finish_reason"] == "stop"


async def test_retry_hints_are_headers(sandbox: Sandbox, client: httpx2.AsyncClient) -> None:
    sandbox.fail(faults.in_flight_budget(4))
    assert (await ask(client)).headers["retry-after"] == "4"


async def test_an_error_in_the_middle_of_a_stream_keeps_status_200(
    sandbox: Sandbox, client: httpx2.AsyncClient
) -> None:
    sandbox.fail(Fault(then="error", after_tokens=5))
    streamed = await lines(client)
    last = events(streamed)[-1]
    assert last["error"]["message"] == "Provider disconnected mid-stream"
    assert last["choices"][0]["finish_reason"] == "error"
    assert len(events(streamed)) == 6
    assert streamed[-1] != "data: [DONE]"


async def test_an_error_can_sit_inside_a_choice(sandbox: Sandbox, client: httpx2.AsyncClient) -> None:
    sandbox.fail(Fault(then="choice_error", after_tokens=3), times=2)
    assert events(await lines(client))[-1]["choices"][0]["error"]["code"] == 502
    choice = (await ask(client, model="acme/tiny")).json()["choices"][0]
    assert (choice["finish_reason"], choice["error"]["code"]) == ("error", 502)
    assert choice["message"]["content"] == "[sandbox] acme/tiny was "
    assert sandbox.bill == 0


async def test_a_stream_can_end_without_done(sandbox: Sandbox, client: httpx2.AsyncClient) -> None:
    sandbox.fail(Fault(then="end", after_tokens=5))
    streamed = await lines(client)
    assert len(events(streamed)) == 5
    assert "[DONE]" not in streamed[-1]


async def test_a_stream_can_be_reset_before_and_within_the_reply(sandbox: Sandbox, client: httpx2.AsyncClient) -> None:
    sandbox.fail(Fault(reset=True))
    with pytest.raises(httpx2.ReadError):
        await ask(client)
    sandbox.fail(Fault(then="reset", after_tokens=2))
    got = []
    with pytest.raises(httpx2.ReadError):  # noqa: PT012 -- what came before the reset counts
        async with client.stream("POST", "/chat/completions", json=question(stream=True)) as reply:
            async for line in reply.aiter_lines():
                got.append(line)  # noqa: PERF401 -- a comprehension would lose what came
    assert len(events(got)) == 2
    assert [request.closed_early for request in sandbox.chats] == [False, False]


async def test_a_model_can_stay_silent_or_only_think(sandbox: Sandbox, client: httpx2.AsyncClient) -> None:
    sandbox.fail(Fault(answer="none"))
    cold = events(await lines(client))
    assert cold[0]["choices"][0]["finish_reason"] is None
    assert cold[-1]["usage"]["completion_tokens"] == 0
    sandbox.fail(Fault(answer="reasoning"))
    thought = await lines(client)
    assert spoken(thought) == ""
    assert events(thought)[-2]["choices"][0]["finish_reason"] == "length"


async def test_a_streamed_request_can_get_plain_json(sandbox: Sandbox, client: httpx2.AsyncClient) -> None:
    sandbox.fail(Fault(plain=True))
    reply = await ask(client, stream=True)
    assert reply.headers["content-type"] == "application/json"
    assert reply.json()["object"] == "chat.completion"


async def test_what_the_books_say_can_be_overridden(sandbox: Sandbox, client: httpx2.AsyncClient) -> None:
    sandbox.fail(Fault(cost=0.14, is_byok=True, upstream_cost=0.5, model="acme/tiny"))
    reply = (await ask(client)).json()
    usage = reply["usage"]
    assert (reply["model"], usage["cost"], usage["is_byok"]) == ("acme/tiny", 0.14, True)
    assert usage["cost_details"]["upstream_inference_cost"] == 0.5
    assert sandbox.bill == Decimal("0.14")


@pytest.mark.parametrize(
    ("fault", "sign"),
    [
        (Fault(then="comments"), b": OPENROUTER PROCESSING\n\n"),
        (Fault(then="tokens"), b"more "),
        (Fault(then="dribble"), b" "),
    ],
)
async def test_a_stream_can_be_endless(sandbox: Sandbox, client: httpx2.AsyncClient, fault: Fault, sign: bytes) -> None:
    sandbox.fail(fault)
    async with client.stream("POST", "/chat/completions", json=question(stream=True)) as reply:
        chunks = reply.aiter_raw()
        got = [await anext(chunks) for _ in range(40)]
    assert sign in got[-1]
    assert fault.then != "dribble" or b"\n" not in b"".join(got[1:])
    assert sandbox.chats[0].closed_early
    assert sandbox.open_streams == 0


async def test_delays_go_through_the_clock_with_comments_meanwhile(
    sandbox: Sandbox, client: httpx2.AsyncClient, clock: Clock
) -> None:
    sandbox.delay_s = 12.0
    sandbox.delays["globex/large:free"] = 1.0
    streamed = await lines(client)
    assert clock.now == NOON + 12
    assert streamed[:4] == [": OPENROUTER PROCESSING"] * 3 + streamed[3:4]
    await lines(client, model="globex/large:free")
    assert clock.now == NOON + 13
    sandbox.fail(Fault(delay_headers_s=30, delay_first_s=2, delay_token_s=0.5))
    tokens = len(events(await lines(client))) - 2
    assert clock.now == NOON + 13 + 30 + 2 + 0.5 * (tokens - 1)


async def test_a_fault_of_one_model_moves_the_request_to_its_fallback(
    sandbox: Sandbox, client: httpx2.AsyncClient
) -> None:
    sandbox.fail(faults.pool_busy(), times=None, model="acme/tiny:free")
    assert (await ask(client)).status_code == 429
    reply = await ask(client, models=["globex/large:free", "initech/coder:free"])
    assert reply.json()["model"] == "globex/large:free"
    sandbox.clear()
    assert (await ask(client)).status_code == 200
    assert len(sandbox.requests) == 1


async def test_other_paths_fail_too(sandbox: Sandbox, client: httpx2.AsyncClient) -> None:
    sandbox.fail(faults.html_error(), path="/models")
    sandbox.fail(Fault(reset=True), path="/models")
    sandbox.fail(Fault(then="end"), path="/models")
    assert (await client.get("/models")).status_code == 502
    with pytest.raises(httpx2.ReadError):
        await client.get("/models")
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        (await client.get("/models")).json()
    assert (await client.get("/models")).json()["data"]


async def test_a_bomb_is_small_until_it_is_unpacked(sandbox: Sandbox, client: httpx2.AsyncClient) -> None:
    bomb = faults.gzip_bomb(4 * 2**20)
    assert len(bomb.content()[1]) < 10_000
    sandbox.fail(bomb)
    assert len((await ask(client)).content) == 4 * 2**20 + len("data: ")


async def test_leaving_early_is_noticed_and_bills_only_what_was_written(
    sandbox: Sandbox, client: httpx2.AsyncClient
) -> None:
    sandbox.fail(Fault(then="stall", after_tokens=3))
    async with client.stream("POST", "/chat/completions", json=question(model="acme/tiny", stream=True)) as reply:
        chunks = reply.aiter_lines()
        while "was " not in await anext(chunks):
            assert sandbox.open_streams == 1
    assert sandbox.chats[0].closed_early
    assert sandbox.open_streams == 0
    past = (await client.get("/generation", params={"id": reply.headers["x-generation-id"]})).json()["data"]
    assert (past["cancelled"], past["tokens_completion"]) == (True, 3)
    assert Decimal(str(past["total_cost"])) == sandbox.bill > 0


async def test_a_whole_answer_is_no_early_leave(sandbox: Sandbox, client: httpx2.AsyncClient) -> None:
    await lines(client)
    await ask(client)
    assert [request.closed_early for request in sandbox.chats] == [False, False]
    assert sandbox.open_streams == 0


async def test_a_cancelled_client_leaves_no_task_behind(sandbox: Sandbox, client: httpx2.AsyncClient) -> None:
    sandbox.fail(Fault(then="stall"), times=2)
    before = asyncio.all_tasks()
    for streamed in (True, False):  # while the body stalls, and while even the headers do
        call = asyncio.ensure_future(ask(client, stream=streamed))
        await idle(100)
        call.cancel()
        await asyncio.wait({call})
        assert call.cancelled()
    assert len(sandbox.chats) == 2
    assert asyncio.all_tasks() == before
    assert all(request.closed_early for request in sandbox.chats)


async def test_an_unread_stream_does_not_run_ahead(sandbox: Sandbox, client: httpx2.AsyncClient) -> None:
    sandbox.fail(Fault(then="tokens", every_s=0.0))
    async with client.stream("POST", "/chat/completions", json=question(model="acme/tiny", stream=True)) as reply:
        chunks = reply.aiter_raw()
        for _ in range(5):
            await anext(chunks)
        await idle(500)
    past = sandbox.account.generations[reply.headers["x-generation-id"]]
    assert 4 <= past["tokens_completion"] <= 7


async def test_a_silent_app_runs_into_the_read_timeout(sandbox: Sandbox) -> None:
    sandbox.fail(Fault(then="stall", after_tokens=1), times=2)
    async with connect(sandbox.app, timeout=0.01) as client:
        for streamed in (True, False):
            with pytest.raises(httpx2.ReadTimeout):
                await asyncio.wait_for(ask(client, stream=streamed), 5)
    assert all(request.closed_early for request in sandbox.chats)
    assert sandbox.open_streams == 0


async def test_an_app_that_gives_up_looks_like_a_broken_connection() -> None:
    async def silent(_scope: Message, _receive: Receive, _send: Send) -> None:
        """Returns without a reply."""

    async def half(_scope: Message, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    for app in (silent, half):
        async with connect(app) as client:
            with pytest.raises(httpx2.RemoteProtocolError):
                await client.get("/")


async def test_leaving_tells_the_app_that_the_client_is_gone() -> None:
    heard: list[str] = []

    async def app(_scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            await asyncio.Event().wait()
        finally:
            heard.append((await asyncio.wait_for(receive(), 5))["type"])

    async with connect(app) as client, client.stream("GET", "/") as reply:
        assert reply.status_code == 200
    assert heard == ["http.disconnect"]
