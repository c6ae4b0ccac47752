"""Several servers behind one address, with one secret: a question that one of them put is answered at another, once."""

import itertools
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
import uvicorn
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult
from processes import Upstream
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from support import ask, record_of, until
from team import bearer, callers_file
from test_cancelling import eventually
from test_consent import NO, PRICED, YES, Person, shown
from test_consent_once import MONEY, by_hand, question_of
from test_http import serving

from openrouter_mcp.cli.serve import _listen
from openrouter_mcp.ledger.allowance import Ledger
from openrouter_mcp.records import KeyInfo

SECRET = "a canary of a secret, 32 characters or more".replace(" ", "-")


@pytest.fixture
def upstream() -> Generator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@contextmanager
def servers(upstream: Upstream, folder: Path, *, host: str = "example.com", **more: str) -> Generator[list[str]]:
    """The addresses of two that share their books, with money that the person is asked about; also known as `host`."""
    settings = upstream.settings | {f"OPENROUTER_MCP_{name}_USD": value for name, value in MONEY.items()} | more
    settings |= {"OPENROUTER_MCP_CALLERS": str(callers_file(folder / "callers.toml", "alice", "bob"))}
    settings |= {"OPENROUTER_MCP_ALLOWED_HOSTS": host}
    with ExitStack() as stack:
        yield [stack.enter_context(serving(**settings))[0] for _ in range(2)]


def shared(**more: str) -> dict[str, str]:
    return {"OPENROUTER_MCP_REQUEST_STATE_KEY": SECRET} | more


@asynccontextmanager
async def client_of(address: str, name: str, person: Person) -> AsyncGenerator[Client]:
    """A client of the newer era, in which it is the client that carries question and answer."""
    async with (
        httpx2.AsyncClient(headers=bearer(name), timeout=30) as http,
        Client(streamable_http_client(f"{address}/mcp", http_client=http), elicitation_callback=person) as client,
    ):
        yield client


@asynccontextmanager
async def round_robin(addresses: Callable[[], list[str]], listener: Any) -> AsyncGenerator[list[str]]:
    """On `listener`, a proxy that sends each request to the next of `addresses`; where each call of a tool went."""
    went: list[str] = []
    turns = itertools.count()

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        address = addresses()[next(turns) % 2]
        if request.headers.get("mcp-method") == "tools/call":
            went.append(address)
        reply = await http.request(
            request.method, address + request.url.path, headers=request.headers.raw, content=await request.body()
        )
        await Response(reply.content, reply.status_code, {"content-type": reply.headers["content-type"]})(
            scope, receive, send
        )

    server = uvicorn.Server(uvicorn.Config(proxy, log_config=None, lifespan="off"))
    async with httpx2.AsyncClient(timeout=30, trust_env=False) as http, anyio.create_task_group() as group:
        group.start_soon(server._serve, [listener])
        await until(lambda: server.started)
        yield went
        server.should_exit = True


async def test_behind_a_round_robin_proxy_a_question_is_answered_at_the_other_server(
    upstream: Upstream, tmp_path: Path
) -> None:
    person = Person(upstream.sandbox, YES, NO, YES)
    with _listen("127.0.0.1", 0) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        with servers(upstream, tmp_path, host=host, **shared()) as both:
            async with (
                round_robin(lambda: both, listener) as went,
                client_of(f"http://{host}", "alice", person) as client,
            ):
                for code in ("complete", "declined", "complete"):
                    _, record, _ = await ask(client, **PRICED)
                    assert record.get("code") or record["status"] == code
                assert [went[0], went[1]] in ([*both], [*reversed(both)])
    assert len(went) == 6  # the question, and the answer to it
    assert len(upstream.sandbox.chats) == 2
    assert [f"{shown(question)}" for question in person.questions] == ["0.082"] * 3


async def test_one_yes_pays_one_call_at_whichever_servers_it_is_sent_to_at_once(
    upstream: Upstream, tmp_path: Path
) -> None:
    came: list[str] = []

    async def insist(client: Client, yes: dict[str, Any]) -> None:
        try:
            answer = await by_hand(client, PRICED, **yes)
        except MCPError as refused:
            came.append(refused.error.message)
        else:
            assert isinstance(answer, CallToolResult)
            came.append(record_of(answer)["status"])

    person = Person(upstream.sandbox)
    with servers(upstream, tmp_path, **shared()) as both:
        async with client_of(both[0], "alice", person) as one, client_of(both[1], "alice", person) as other:
            yes = await question_of(one)
            async with anyio.create_task_group() as group:
                for client in (one, other) * 5:
                    group.start_soon(insist, client, yes)
            await insist(one, yes)
            await insist(other, yes)
    assert sorted(came) == [*["Invalid or expired requestState"] * 11, "complete"]
    assert len(upstream.sandbox.chats) == 1


async def test_a_yes_is_its_callers_for_its_call_and_nobody_forges_one(upstream: Upstream, tmp_path: Path) -> None:
    person = Person(upstream.sandbox)
    with servers(upstream, tmp_path, **shared()) as both:
        async with client_of(both[0], "alice", person) as alice, client_of(both[1], "bob", person) as bob:
            yes = await question_of(alice)
            forged = yes | {"request_state": yes["request_state"][:-4] + "AAAA"}
            for who, arguments, what in (
                (bob, PRICED, yes),
                (alice, PRICED | {"prompt": "Why not?"}, yes),
                (alice, PRICED, forged),
            ):
                with pytest.raises(MCPError, match="requestState"):
                    await by_hand(who, arguments, **what)
    assert upstream.sandbox.chats == []


@pytest.mark.parametrize("keys", [("", ""), (SECRET, "another-" + SECRET)], ids=["none", "two"])
async def test_servers_that_share_no_secret_answer_none_of_each_others_questions(
    upstream: Upstream, tmp_path: Path, keys: tuple[str, str]
) -> None:
    name, person = "OPENROUTER_MCP_REQUEST_STATE_KEY", Person(upstream.sandbox)
    with (
        servers(upstream, tmp_path, **{name: keys[0]}) as (first, _),
        servers(upstream, tmp_path, **{name: keys[1]}) as (second, _),
    ):
        async with client_of(first, "alice", person) as one, client_of(second, "alice", person) as other:
            yes = await question_of(one)
            with pytest.raises(MCPError, match="requestState"):
                await by_hand(other, PRICED, **yes)
            assert upstream.sandbox.chats == []
            assert isinstance(await by_hand(one, PRICED, **yes), CallToolResult)
    await eventually(lambda: len(upstream.sandbox.chats) == 1)


async def test_where_nobody_knows_what_was_used_nothing_is(tmp_path: Path) -> None:
    """Without the shared book another process may have taken the same yes."""

    async def say_nothing() -> KeyInfo:
        return KeyInfo()

    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "ledger.db").write_bytes(b"no book" * 100)
    broken = Ledger("any", tmp_path / "broken", say_nothing)
    whole, sibling = (Ledger("any", tmp_path, say_nothing) for _ in range(2))
    assert not await broken.seals.use("a")
    assert [await each.seals.use("a") for each in (whole, sibling, whole)] == [True, False, False]
    for ledger in (broken, whole, sibling):
        await ledger.aclose()
