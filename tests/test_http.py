"""The HTTP server as a real process: both transports, both eras, who may come in, and a well-behaved end."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.sse import sse_client
from processes import Upstream, spawned, wait_until
from support import CANARY, ERAS, SETTINGS, ask
from team import WAYS, callers_file, token_of
from team import client_of as client_as

from openrouter_mcp.app import open_app
from openrouter_mcp.cli.serve import _listen, serve
from openrouter_mcp.errors import BadSetting
from openrouter_mcp.sandbox import Fault
from openrouter_mcp.server import build
from openrouter_mcp.settings import load
from openrouter_mcp.tools import TOOLS


@contextmanager
def serving(*arguments: str, **settings: str) -> Generator[tuple[str, subprocess.Popen[bytes]]]:
    """`openrouter-mcp serve` on a free port; its address and the process."""
    with spawned("serve", "--port", "0", *arguments, **settings) as process:
        yield address_of(process), process


def address_of(process: subprocess.Popen[bytes]) -> str:
    """What its next line says it serves."""
    assert process.stderr is not None
    line = process.stderr.readline().decode()
    assert line.startswith("openrouter-mcp: serving "), line
    return line.split()[-1]


def client_of(address: str, path: str, era: str) -> Client:
    """A client of the given era on either transport; SSE exists in the older era only, or as any client finds out."""
    return Client(address + path if path == "/mcp" else sse_client(address + path), mode=era)


@pytest.fixture(scope="module")
def address() -> Generator[str]:
    """One sandboxed server for the tests that leave it as it was."""
    with serving("--sandbox") as (address, _):
        yield address


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_a_client_lists_asks_and_compares_over_http(address: str, path: str, era: str) -> None:
    async with client_of(address, path, era) as client:
        assert client.protocol_version == ("2026-07-28" if era == "auto" else "2025-11-25")
        assert len((await client.list_tools()).tools) == len(TOOLS)
        text, record, is_error = await ask(client, prompt="Grüße, 世界?", model="acme/tiny:free")
        assert not is_error
        assert "'Grüße, 世界?'" in text
        assert record["status"] == "complete"
        _, record, _ = await ask(client, "compare_models", prompt="Why?")
        assert len(record["rows"]) == 3
        text, _, is_error = await ask(client, prompt="Why?", model="acme/tiny")
        assert is_error
        assert text.startswith("not_free: ")
        text, _, _ = await ask(client, "check_credits")
        assert "free requests left today" in text


async def test_without_a_token_nothing_is_spent_whatever_is_set_and_it_says_so() -> None:
    """Any process of the machine could ask."""
    money = {"DAILY_BUDGET_USD": "5", "CALL_BUDGET_USD": "5", "DEFAULT_MODEL": "globex/large"}
    settings = {f"OPENROUTER_MCP_{name}": value for name, value in money.items()}
    with Upstream() as upstream, spawned("serve", "--port", "0", **upstream.settings, **settings) as process:
        assert process.stderr is not None
        note = process.stderr.readline().decode()
        assert note == "openrouter-mcp: over HTTP without a token the budget is $0: free models only\n"
        async with client_of(address_of(process), "/mcp", "auto") as client:
            assert "at no cost" in (client.instructions or "")
            _, record, _ = await ask(client, prompt="Why?", model="globex/large", max_cost_usd=5)
            assert record["code"] == "not_free"
            _, record, _ = await ask(client, "compare_models", prompt="Why?", models=["acme/tiny", "globex/large"])
            assert [row["code"] for row in record["rows"]] == ["not_free", "not_free"]
            assert upstream.sandbox.chats == []
            _, record, is_error = await ask(client, prompt="Why?")  # not the default model that costs
            assert not is_error
            assert record["model"].endswith(":free")
            _, record, _ = await ask(client, "check_credits")
            assert record["budget_usd"] == "0"
        assert upstream.sandbox.bill == 0


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_whoever_reaches_the_port_attaches_none_of_the_users_files(tmp_path: Path, path: str) -> None:
    (tmp_path / "diary.txt").write_text("My secret diary")
    with Upstream() as upstream:
        settings = upstream.settings | {"OPENROUTER_MCP_FILES_DIR": str(tmp_path)}
        async with open_app(load(settings)) as app, Client(build(app)) as stdio:
            _, _, is_error = await ask(stdio, prompt="Hi", model="wonka/long:free", attach=["diary.txt"])
            assert not is_error
        assert "diary" in str(upstream.sandbox.chats[-1].body)
        upstream.sandbox.requests.clear()
        with serving(**settings) as (address, _):
            async with client_of(address, path, "auto") as client:
                for attach in ("diary.txt", str(tmp_path / "diary.txt"), f"file://{tmp_path}/diary.txt"):
                    for tool in ("ask_model", "compare_models"):
                        text, record, _ = await ask(client, tool, prompt="Hi", attach=[attach])
                        assert record["code"] == "bad_file"
                        assert "secret" not in text
                        assert "FILES_DIR" not in text  # it names no folder that would do here
                assert upstream.sandbox.chats == []
                _, _, is_error = await ask(client, prompt="Hi", attach=["https://a.example/x.png"])
                assert not is_error


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_whoever_reaches_the_port_does_not_read_what_was_asked_over_stdio(path: str) -> None:
    with Upstream() as upstream:
        async with open_app(load(upstream.settings)) as app, Client(build(app)) as stdio:
            _, record, _ = await ask(stdio, prompt="My secret diary", model="acme/tiny:free")
        with serving(**upstream.settings) as (address, _):
            async with client_of(address, path, "auto") as client:
                listed, _, _ = await ask(client, "read_answer")
                _, refused, _ = await ask(client, "read_answer", id=record["id"])
    assert "diary" not in listed
    assert refused["code"] == "unknown_answer"


async def test_clients_side_by_side_get_their_own_answers() -> None:
    texts: dict[int, str] = {}

    async def one(address: str, number: int) -> None:
        async with client_of(address, "/mcp" if number % 2 else "/sse", ERAS[number // 2 % 2]) as client:
            texts[number], _, _ = await ask(client, prompt=f"Question {number}?", model="acme/tiny:free")

    with serving("--sandbox") as (address, _):
        async with anyio.create_task_group() as group:
            for number in range(6):
                group.start_soon(one, address, number)
    assert all(f"'Question {number}?'" in texts[number] for number in range(6))


@pytest.mark.parametrize(
    ("transport", "offered", "missing"), [("streamable-http", "/mcp", "/sse"), ("sse", "/sse", "/mcp")]
)
async def test_one_transport_can_be_served_alone(transport: str, offered: str, missing: str) -> None:
    with serving("--sandbox", "--transport", transport) as (address, _):
        async with client_of(address, offered, "auto") as client:
            assert len((await client.list_tools()).tools) == len(TOOLS)
        async with httpx2.AsyncClient() as http:
            assert (await http.get(address + missing)).status_code == 404
            assert (await http.get(address + "/health")).json()["status"] == "ok"


def test_replies_on_a_kept_connection_are_not_held_back() -> None:
    """asyncio sets TCP_NODELAY only on sockets that name their protocol; without it each reply is 40 ms late."""
    with _listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1:1"}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"content-type": "text/plain"}, 400),
    ],
    ids=["DNS rebinding", "another port", "another origin", "null origin", "form post"],
)
async def test_a_page_in_a_browser_cannot_use_it(address: str, headers: dict[str, str], status: int) -> None:
    async with httpx2.AsyncClient() as http:
        reply = await http.post(
            address + "/mcp", headers={"content-type": "application/json", "accept": "application/json"} | headers
        )
    assert reply.status_code == status


@pytest.mark.parametrize("host", ["::", "192.168.1.5", "example.com"])
async def test_an_address_others_can_reach_is_refused(host: str) -> None:
    with pytest.raises(BadSetting, match=f"--host {host} can be reached from other machines"):
        await serve(SETTINGS, sandbox=True, host=host, port=0)


def test_it_says_so_in_one_line_and_ends() -> None:
    host = "0.0.0.0"
    with spawned("serve", "--host", host, "--port", "0", "--sandbox") as process:
        _, complaint = process.communicate(timeout=20)
    assert process.returncode == 2
    assert complaint.decode().startswith(f"openrouter-mcp: --host {host} can be reached from other machines")
    assert complaint.count(b"\n") == 1


def test_with_a_token_and_a_name_others_may_reach_it() -> None:
    access = {"OPENROUTER_MCP_HTTP_TOKEN": token_of("http"), "OPENROUTER_MCP_ALLOWED_HOSTS": "team.example"}
    with spawned("serve", "--host", "0.0.0.0", "--port", "0", "--sandbox", **access) as process:
        port = address_of(process).rpartition(":")[2]
        for host, token, status in (
            ("team.example", token_of("http"), 400),
            ("team.example", "none", 401),
            (f"127.0.0.1:{port}", token_of("http"), 400),
            ("other.example", token_of("http"), 421),
        ):
            headers = {"host": host, "authorization": f"Bearer {token}", "content-type": "application/json"}
            reply = httpx2.post(f"http://127.0.0.1:{port}/mcp", content="{", headers=headers)
            assert (host, reply.status_code) == (host, status)


async def test_the_servers_own_files_are_sent_by_nobody(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(token_of("http"))
    (tmp_path / "note.txt").write_text("A note")
    path = callers_file(tmp_path / "callers.txt", "alice", more=f'files_dir = "{tmp_path.as_posix()}"\n')
    settings = {"OPENROUTER_MCP_CALLERS": str(path), "OPENROUTER_MCP_HTTP_TOKEN_FILE": str(tmp_path / "token")}
    with Upstream() as upstream, serving(**upstream.settings, **settings) as (address, _):
        async with client_as(address, "/mcp", "auto", "alice") as client:
            for name, code in (("token", "bad_file"), ("callers.txt", "bad_file"), ("note.txt", None)):
                _, record, _ = await ask(client, prompt="Hi", model="wonka/long:free", attach=[name])
                assert (name, record.get("code")) == (name, code)


def test_names_for_others_need_a_token_on_loopback_too() -> None:
    with spawned("serve", "--port", "0", "--sandbox", OPENROUTER_MCP_ALLOWED_HOSTS="team.example") as process:
        _, complaint = process.communicate(timeout=20)
    assert process.returncode == 2
    assert b"OPENROUTER_MCP_HTTP_TOKEN" in complaint
    assert complaint.count(b"\n") == 1


async def test_with_a_token_loopback_keeps_its_budget() -> None:
    settings = {"OPENROUTER_MCP_HTTP_TOKEN": token_of("http"), "OPENROUTER_MCP_DAILY_BUDGET_USD": "5"}
    with Upstream() as upstream, serving(**upstream.settings, **settings) as (address, _):
        async with client_as(address, "/mcp", "auto", "http") as client:
            _, record, is_error = await ask(client, prompt="Why?", model="globex/large")
            assert not is_error
            assert record["cost_usd"] != "0"


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_certificates_that_are_missing_are_said_in_one_line(name: str) -> None:
    settings = {"OPENROUTER_API_KEY": CANARY, name: "/nowhere/at/all"}
    with serving(**settings) as (address, process):

        async def call() -> None:
            async with client_of(address, "/mcp", "auto") as client:
                text, record, _ = await ask(client, prompt="Why?")
                assert record["code"] == "network"
                assert name in text

        anyio.run(call)
        process.send_signal(signal.SIGTERM)
        assert process.wait(2.5) == 0
        assert process.stderr is not None
        (line,) = process.stderr.read().decode().splitlines()
        assert " tool=ask_model code=network " in line


def test_a_port_in_use_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with spawned("serve", "--port", str(port), "--sandbox") as process:
            _, complaint = process.communicate(timeout=20)
    assert process.returncode == 2
    assert complaint.decode().startswith(f"openrouter-mcp: Port {port} on 127.0.0.1 cannot be used")
    assert "--port" in complaint.decode()
    assert complaint.count(b"\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("number", "path"), [(signal.SIGTERM, "/mcp"), (signal.SIGTERM, "/sse"), (signal.SIGINT, "/mcp")]
)
def test_a_signal_ends_it_with_calls_in_flight(number: signal.Signals, path: str) -> None:
    with Upstream() as upstream, serving(**upstream.settings) as (address, process):
        upstream.sandbox.fail(Fault(then="stall", after_tokens=2), times=None)
        caller = threading.Thread(target=partial(anyio.run, call_until_cut, address, path))
        caller.start()
        wait_until(lambda: upstream.sandbox.open_streams == 5)
        process.send_signal(number)
        assert process.wait(2.5) == 0
        wait_until(lambda: upstream.sandbox.open_streams == 0)
        caller.join(10)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_signal_as_soon_as_it_says_that_it_serves_ends_it() -> None:
    with serving("--sandbox") as (_, process):
        process.send_signal(signal.SIGTERM)
        assert process.wait(2) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(("path", "era"), WAYS)
def test_a_signal_hands_over_fifty_calls_in_flight(path: str, era: str) -> None:
    """Each is answered with what there is and an id, under which it is found afterwards; no money is lost track of."""
    budget = {"OPENROUTER_MCP_DAILY_BUDGET_USD": "5", "OPENROUTER_MCP_HTTP_TOKEN": token_of("http")}
    records: list[dict[str, Any]] = []

    async def call(address: str) -> None:
        async def one(client: Client, number: int) -> None:
            _, record, _ = await ask(client, prompt=f"Why {number}?", model="acme/tiny")
            records.append(record)

        with suppress(BaseExceptionGroup):  # that its session is gone afterwards is the client's own affair
            async with client_as(address, path, era, "http") as client, anyio.create_task_group() as group:
                await client.list_tools()
                for number in range(50):
                    group.start_soon(one, client, number)

    with Upstream() as upstream:
        with serving(**upstream.settings, **budget) as (address, process):
            upstream.sandbox.fail(Fault(then="stall", after_tokens=2), times=None)
            caller = threading.Thread(target=partial(anyio.run, call, address))
            caller.start()
            wait_until(lambda: upstream.sandbox.open_streams == 50)
            process.send_signal(signal.SIGTERM)
            assert process.wait(2.5) == 0
            caller.join(10)
            assert process.stderr is not None
            said = process.stderr.read().decode().splitlines()
        wait_until(lambda: upstream.sandbox.open_streams == 0)
        assert [record["status"] for record in records] == ["running"] * 50
        assert len([line for line in said if " tool=ask_model code=running " in line]) == 50
        assert [line for line in said if not line.startswith("INFO ") and "deprecated" not in line] == []
        anyio.run(look, upstream.settings | budget, [str(record["id"]) for record in records])


async def look(settings: dict[str, str], ids: list[str]) -> None:
    """What the next server finds."""
    chosen = replace(load(settings), caller="http")
    async with open_app(chosen, clock=lambda: time.time() + 600) as app, Client(build(app)) as client:
        for id_ in ids:
            text, record, _ = await ask(client, "read_answer", id=id_)
            assert record["status"] == "cancelled"
            assert "the server was stopped" in text
        text, _, _ = await ask(client, "check_credits")
        assert " held for calls" not in text  # by then OpenRouter has told what they cost


async def call_until_cut(address: str, path: str) -> None:
    """Five calls that never end by themselves; how the client sees the cut is its own affair."""

    async def call(client: Client) -> None:
        await ask(client, prompt="Why?", model="acme/tiny:free")

    try:
        async with client_of(address, path, "legacy") as client, anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(call, client)
    except* Exception:  # noqa: BLE001, S110
        pass
