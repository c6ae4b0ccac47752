"""What is written down of each call, over stdio and HTTP alike: facts in one line that nobody's words can forge; and
the same facts as metrics and spans."""

import importlib.util
import json
import logging
import re
from decimal import Decimal
from io import StringIO
from typing import Any

import anyio
import httpx2
import pytest
from budgets import budget
from calls import Call
from hypothesis import given
from hypothesis import strategies as st
from processes import initialize, receive, send, spawned
from pydantic import SecretStr
from served import held_back
from support import CANARY, ask, connected, until
from team import WAYS, bearer, caller, team

from openrouter_mcp import asgi
from openrouter_mcp.cli import logs
from openrouter_mcp.observing import Facts, as_text, facts
from openrouter_mcp.sandbox import Fault, Sandbox

TINY = "acme/tiny"
PAIR = re.compile(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[A-Za-z0-9_./:+@-]+)(?: |$)')
FREE = "acme/tiny:free"


@pytest.fixture
def written(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The lines about calls, as they come."""
    caplog.set_level(logging.INFO, "openrouter_mcp.observing")
    return caplog


def lines(written: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.facts for record in written.records if record.name == "openrouter_mcp.observing"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_each_call_is_one_line_of_facts_without_a_word_of_what_was_said(
    sandbox: Sandbox, written: pytest.LogCaptureFixture, era: str
) -> None:
    async with connected(sandbox, era=era, settings=budget("1")) as client:
        text, record, _ = await ask(client, prompt="A secret question", system="A secret system", model=TINY)
        await ask(client, "read_answer", id=record["id"])
        _, compared, _ = await ask(client, "compare_models", prompt="A secret?", models=[TINY, "globex/large:free"])
        await ask(client, prompt="A secret question", model="no/such")
        await ask(client, prompt="A secret question", no_such_argument=1)
        await ask(client, "check_credits")
    asked, read, both, unknown, wrong, credit = lines(written)
    facts = {"caller": "", "tool": "ask_model", "code": "ok", "model": TINY, "attempts": 1}
    assert asked.items() >= facts.items()
    assert asked["prompt_tokens"] == record["prompt_tokens"]
    assert asked["completion_tokens"] == record["completion_tokens"]
    assert asked["cost_usd"] == record["cost_usd"] != "0"
    assert asked["generation"] == record["generation_id"]
    assert read.items() >= {"tool": "read_answer", "code": "ok", "model": TINY}.items()
    assert both["model"] == f"{TINY},globex/large:free"
    assert both["attempts"] == 2
    assert both["completion_tokens"] == sum(row["completion_tokens"] for row in compared["rows"])
    assert unknown["code"] == "unknown_model"
    assert wrong["code"] == "invalid_request"
    assert credit.items() >= {"tool": "check_credits", "code": "ok"}.items()
    everything = "\n".join(record.getMessage() for record in written.records)
    assert "secret" not in everything
    assert text.splitlines()[0] not in everything


async def test_what_is_not_whole_says_so(sandbox: Sandbox, written: pytest.LogCaptureFixture) -> None:
    async with connected(sandbox) as client:
        sandbox.fail(Fault(then="end", after_tokens=3))
        await ask(client, prompt="Why?", model=FREE)
        sandbox.fail(Fault(status=429), times=None)
        _, record, _ = await ask(client, prompt="Why?", model=FREE)
    assert [line["code"] for line in lines(written)] == ["partial", record["code"]]


async def test_a_call_that_is_cancelled_is_a_line_as_well(sandbox: Sandbox, written: pytest.LogCaptureFixture) -> None:
    held_back(sandbox)
    async with connected(sandbox, era="legacy") as client, anyio.create_task_group() as group:
        call = Call(group, client, "ask_model", prompt="Why?", model=FREE)
        await until(lambda: bool(sandbox.chats))
        call.cancel()
        await until(lambda: bool(lines(written)))
    assert [line["code"] for line in lines(written)] == ["cancelled"]


@pytest.mark.parametrize(("path", "era"), WAYS)
async def test_over_http_the_line_names_the_caller(
    sandbox: Sandbox, written: pytest.LogCaptureFixture, path: str, era: str
) -> None:
    async with team(sandbox, caller("alice")) as server, server.client("alice", path, era) as alice:
        await ask(alice, prompt="Why?", model=FREE)
    assert [line["caller"] for line in lines(written)] == ["alice"]


def test_over_stdio_it_stands_on_stderr_by_default_and_as_json_if_wished() -> None:
    for arguments in ((), ("--log-format", "json"), ("--log-format", "none")):
        with spawned("--sandbox", *arguments) as process:
            initialize(process)
            send(process, "tools/call", id_=2, name="ask_model", arguments={"prompt": "Why?", "model": FREE})
            assert receive(process)["id"] == 2
            assert process.stdin is not None
            assert process.stderr is not None
            process.stdin.close()
            said = process.stderr.read().decode()
        if "none" in arguments:
            assert said == ""
            continue
        assert said.count("\n") == 1
        if "json" in arguments:
            line = json.loads(said)
            assert line.items() >= {"level": "info", "caller": "", "tool": "ask_model", "code": "ok"}.items()
            assert line["model"] == FREE
        else:
            assert said.startswith('INFO openrouter_mcp.observing: caller="" tool=ask_model code=ok seconds=')


@given(
    line=st.dictionaries(
        st.sampled_from(["caller", "tool", "model", "code", "generation", "why"]), st.text() | st.integers()
    )
)
def test_no_value_can_forge_a_line_or_another_value(line: dict[str, object]) -> None:
    text = as_text(line)
    assert all(" " <= char <= "~" for char in text)
    pairs = list(PAIR.finditer(text))
    assert [pair[1] for pair in pairs] == list(line)
    assert "".join(pair[0] for pair in pairs) == text
    for pair, value in zip(pairs, line.values(), strict=True):
        read = json.loads(pair[2]) if pair[2].startswith('"') else pair[2]
        assert read == str(value) or (len(str(value)) > 200 and read == f"{str(value)[:200]}...")


@given(
    record=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["rows", "status", "judge", "code", "model", "attempts", "prompt_tokens", "cost_usd", "id"]
                ),
                inner,
                max_size=5,
            )
        ),
    ).filter(lambda value: isinstance(value, dict))
)
def test_whatever_is_in_a_record_there_is_a_line(record: dict[str, object]) -> None:
    line = as_text(facts("alice", "ask_model", 1.0, record).line())
    assert "\n" not in line
    assert line.startswith("caller=alice tool=ask_model ")


def test_a_cost_is_written_out() -> None:
    assert Facts("a", "t", "ok", 0.1234, cost_usd=Decimal("1E-7")).line()["cost_usd"] == "0.0000001"


@pytest.mark.parametrize("form", [logs.TEXT, logs.JSON])
@given(words=st.text() | st.just("x\nINFO openrouter_mcp.observing: caller=admin"))
def test_no_words_in_any_log_line_begin_another(form: str, words: str) -> None:
    stream, logger = StringIO(), logging.getLogger("any")
    logger.propagate = False
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.formatter(SecretStr(CANARY), form))
    logger.handlers = [handler]
    logger.error("It says %s and %s", words, CANARY)
    logger.error("%s", words, exc_info=ValueError(words + CANARY))
    said = stream.getvalue()
    assert CANARY not in said
    assert said.isprintable() or set(said) <= {"\n"} | {char for char in said if char.isprintable()}
    beginnings = [line for line in said.splitlines() if not line.startswith("  ")]
    if form == logs.JSON:
        assert [json.loads(line)["level"] for line in beginnings] == ["error", "error"]
    else:
        assert len(beginnings) == 2
        assert all(line.startswith("ERROR any: ") for line in beginnings)


async def test_metrics_count_calls_tokens_and_cost_by_caller_and_each_answer_once(sandbox: Sandbox) -> None:
    async with team(sandbox, caller("alice"), caller("bob"), settings=budget("1")) as server:
        async with server.client("alice") as alice:
            _, record, _ = await ask(alice, prompt="Why?", model=TINY)
            await ask(alice, "read_answer", id=record["id"])
            await ask(alice, "read_answer", id="nothing")
        async with httpx2.AsyncClient() as http:
            assert (await http.get(f"{server.address}/metrics")).status_code == 401
            reply = await http.get(f"{server.address}/metrics", headers=bearer("bob"))
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    shown = reply.text.splitlines()
    for line in (
        'openrouter_mcp_calls_total{caller="alice",code="ok",tool="ask_model"} 1.0',
        'openrouter_mcp_calls_total{caller="alice",code="ok",tool="read_answer"} 1.0',
        'openrouter_mcp_calls_total{caller="alice",code="unknown_answer",tool="read_answer"} 1.0',
        f'openrouter_mcp_tokens_total{{caller="alice",direction="out"}} {record["completion_tokens"]}.0',
        'openrouter_mcp_refused_total{status="401"} 1.0',
        'openrouter_mcp_call_seconds_count{tool="ask_model"} 1.0',
    ):
        assert line in shown
    (cost,) = [line for line in shown if line.startswith('openrouter_mcp_cost_usd_total{caller="alice"} ')]
    assert Decimal(cost.split()[-1]) == Decimal(record["cost_usd"])
    assert TINY not in reply.text


async def test_without_the_extra_metrics_say_how_to_get_them(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "find_spec", lambda _: None)
    async with team(sandbox, caller("alice")) as server, httpx2.AsyncClient(headers=bearer("alice")) as http:
        reply = await http.get(f"{server.address}/metrics")
    assert reply.status_code == 501
    assert "openrouter-mcp[metrics]" in reply.text


@pytest.mark.skipif(not importlib.util.find_spec("opentelemetry.sdk"), reason="opentelemetry-sdk is not installed")
async def test_the_sdks_own_spans_keep_working(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    from mcp.shared import _otel
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(_otel, "_tracer", provider.get_tracer("mcp"))
    async with team(sandbox, caller("alice")) as server, server.client("alice") as alice:
        await ask(alice, prompt="Why?", model=FREE)
    spans = {span.name: span for span in exporter.get_finished_spans() if span.kind.name == "SERVER"}
    assert spans["tools/call ask_model"].attributes
    assert spans["tools/call ask_model"].attributes["gen_ai.tool.name"] == "ask_model"


@pytest.mark.parametrize("form", [logs.TEXT, logs.JSON])
@pytest.mark.parametrize("key", ['sk-or-v1-a"quote"in-it', "sk-or-v1-a\\backslash\\in-it"])
def test_a_key_that_json_writes_otherwise_passes_no_line_either(key: str, form: str) -> None:
    record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "sent %s upstream", (key,), None)
    line = logs.formatter(SecretStr(key), form).format(record)
    assert "sent [key] upstream" in line


@pytest.mark.parametrize("before", ["\x08", "\x0b", "\\", '"'])
def test_a_key_beside_what_json_escapes_leaves_the_line_json(before: str) -> None:
    key = "b" * 30
    record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "%s", (f"{before}{key}",), None)
    line = logs.formatter(SecretStr(key), logs.JSON).format(record)
    assert json.loads(line)["message"] == f"{before}[key]"
