"""Callers apart: who shares a server sees their own answers, conversations, batches and files, and nobody else's."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from budgets import budget
from mcp import Client
from support import ask, text_of
from team import JSON, WAYS, bearer, caller, client_of, team, token_of

from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.sandbox import Sandbox

TINY = "acme/tiny"  # priced: the free allowance of a minute is none of what is tested here
ALICE, BOB = caller("alice"), caller("bob")
PAID = budget("5", "1")
ways = pytest.mark.parametrize(("path", "era"), WAYS)


@ways
async def test_an_answer_is_found_by_whoever_asked_and_by_nobody_else(sandbox: Sandbox, path: str, era: str) -> None:
    async with (
        team(sandbox, ALICE, BOB, settings=PAID) as server,
        server.client("alice", path, era) as alice,
        server.client("bob", path, era) as bob,
    ):
        _, answer, is_error = await ask(alice, prompt="The secret of Alice", model=TINY)
        assert not is_error
        _, batch, is_error = await ask(alice, "ask_many", prompts=["One of Alice"], model=TINY)
        assert not is_error
        listed, _, _ = await ask(alice, "read_answer")
        assert "The secret of Alice" in listed
        sent = len(sandbox.requests)
        listed, _, _ = await ask(bob, "read_answer")
        assert "Alice" not in listed
        for id_ in (answer["id"], batch["id"]):
            for more in ({}, {"cancel": True}):
                text, refused, _ = await ask(bob, "read_answer", id=id_, **more)
                assert refused["code"] == "unknown_answer"
                assert "Alice" not in text
        _, refused, _ = await ask(bob, prompt="Go on", continue_from=answer["id"], model=TINY)
        assert refused["code"] == "unknown_answer"
        assert len(sandbox.requests) == sent
        _, read, is_error = await ask(alice, "read_answer", id=answer["id"])
        assert not is_error
        assert read["id"] == answer["id"]
        _, _, is_error = await ask(alice, prompt="Go on", continue_from=answer["id"], model=TINY)
        assert not is_error


async def test_one_who_still_writes_for_alice_does_not_write_for_bob(sandbox: Sandbox) -> None:
    async with (
        team(sandbox, ALICE, BOB, settings=replace(PAID, repeat_s=600)) as server,
        server.client("alice") as alice,
        server.client("bob") as bob,
    ):
        _, first, _ = await ask(alice, prompt="Why?", model=TINY)
        _, again, _ = await ask(alice, prompt="Why?", model=TINY)
        assert again["id"] == first["id"]
        _, other, _ = await ask(bob, prompt="Why?", model=TINY)
        assert other["id"] != first["id"]


async def test_nobody_is_asked_about_money_for_an_answer_they_have(sandbox: Sandbox, tmp_path: Path) -> None:
    kept = replace(PAID, state_dir=tmp_path, repeat_s=600)
    both = {"prompt": "How?", "models": [TINY, "globex/large"]}
    async with team(sandbox, ALICE, settings=kept) as server, server.client("alice") as alice:
        await ask(alice, prompt="Why?", model=TINY)
        await ask(alice, "compare_models", **both)
    asking = replace(budget("5", "1", confirm_above=Decimal("0.0000001")), state_dir=tmp_path, repeat_s=600)
    async with (
        team(sandbox, ALICE, BOB, settings=asking) as server,
        server.client("alice") as alice,
        server.client("bob") as bob,
    ):
        _, record, _ = await ask(alice, prompt="Why?", model=TINY)
        assert record["status"] == "complete"
        _, record, _ = await ask(alice, "compare_models", **both)
        assert record["status"] == "complete"
        for tool, arguments in (("ask_model", {"prompt": "Why?", "model": TINY}), ("compare_models", both)):
            _, record, _ = await ask(bob, tool, **arguments)
            assert record["code"] == "declined"


async def test_a_new_token_finds_what_the_old_one_asked(sandbox: Sandbox, tmp_path: Path) -> None:
    kept = replace(PAID, state_dir=tmp_path)
    async with team(sandbox, ALICE, settings=kept) as server, server.client("alice") as alice:
        _, answer, _ = await ask(alice, prompt="Why?", model=TINY)
    rotated = replace(caller("new"), name="alice")
    async with team(sandbox, rotated, settings=kept) as server, server.client("new") as alice:
        _, read, is_error = await ask(alice, "read_answer", id=answer["id"])
    assert not is_error
    assert read["id"] == answer["id"]


@ways
async def test_files_are_sent_from_a_callers_own_folder_only(
    sandbox: Sandbox, tmp_path: Path, path: str, era: str
) -> None:
    folder = tmp_path / "alice"
    folder.mkdir()
    (folder / "note.txt").write_text("The note of Alice")
    (other := tmp_path / "other").mkdir()
    (other / "note.txt").write_text("The note of the user")
    settings = replace(PAID, files=(other,))  # what the user of the process may send is nobody's over HTTP
    async with (
        team(sandbox, replace(ALICE, files=(folder,)), BOB, settings=settings) as server,
        server.client("alice", path, era) as alice,
        server.client("bob", path, era) as bob,
    ):
        for attach in ("note.txt", str(folder / "note.txt")):
            text, record, _ = await ask(bob, prompt="Hi", model=TINY, attach=[attach])
            assert record["code"] == "bad_file"
            assert "FILES_DIR" not in text
        assert not sandbox.chats
        _, _, is_error = await ask(alice, prompt="Hi", model=TINY, attach=["note.txt"])
        assert not is_error
    assert "The note of Alice" in str(sandbox.chats[-1].body)


@ways
async def test_fifty_clients_with_equal_request_ids_see_their_own_answers_only(
    sandbox: Sandbox, path: str, era: str
) -> None:
    """Every client counts its requests from the same number."""
    names = [f"caller{number}" for number in range(50)]
    heard: dict[str, str] = {}

    async def one(address: str, name: str, start: anyio.Event) -> None:
        async with client_of(address, path, era, name) as client:
            await client.list_tools()
            await start.wait()
            text, answer, is_error = await ask(client, prompt=f"Canary of {name}.", model=TINY)
            assert not is_error, text
            read, _, _ = await ask(client, "read_answer", id=answer["id"])
            listed, _, _ = await ask(client, "read_answer")
            heard[name] = text + read + listed

    async with team(sandbox, *map(caller, names), settings=budget("50", "1")) as server:
        start = anyio.Event()
        async with anyio.create_task_group() as group:
            for name in names:
                group.start_soon(one, server.address, name, start)
            start.set()
    for name in names:
        assert heard[name].count(f"Canary of {name}.") >= 3
        assert heard[name].count("Canary of ") == heard[name].count(f"Canary of {name}.")


async def test_the_session_of_another_caller_is_none(sandbox: Sandbox) -> None:
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "read_answer", "arguments": {}}}
    async with team(sandbox, ALICE, BOB) as server, httpx2.AsyncClient(headers=JSON) as http:
        opening = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
        opened = await http.post(f"{server.address}/mcp", json=opening, headers=bearer("alice"))
        session = {"mcp-session-id": opened.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
        for headers, status in ((bearer("bob"), 404), ({}, 401), (bearer("alice"), 200)):
            reply = await http.post(f"{server.address}/mcp", json=call, headers=session | headers)
            assert reply.status_code == status
        reply = await http.delete(f"{server.address}/mcp", headers=session | bearer("bob"))
        assert reply.status_code == 404


async def test_nobody_else_posts_to_an_sse_session(sandbox: Sandbox) -> None:
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    async with (
        team(sandbox, ALICE, BOB) as server,
        httpx2.AsyncClient(headers=JSON) as http,
        http.stream("GET", f"{server.address}/sse", headers=bearer("alice")) as stream,
    ):
        lines = stream.aiter_lines()
        messages = ""
        while not messages.startswith("data: /messages/"):
            messages = await anext(lines)
        endpoint = server.address + messages.removeprefix("data: ")
        for headers, status in ((bearer("bob"), 404), ({}, 401), (bearer("alice"), 202)):
            reply = await http.post(endpoint, json=ping, headers=headers)
            assert reply.status_code == status


async def test_a_tokens_way_ends_at_the_door(sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with team(sandbox, ALICE, settings=PAID) as server:
        async with server.client("alice") as alice:
            result = await alice.call_tool("ask_model", {"prompt": "Hi", "model": TINY})
            assert text_of(result)
        async with httpx2.AsyncClient(headers=bearer("alice")) as http:
            shown = (await http.get(f"{server.address}/metrics")).text
            shown += (await http.post(f"{server.address}/mcp", headers=JSON, content="{")).text
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith(("http", "mcp.client"))]
    upstream = str([(request.headers, request.body) for request in sandbox.requests])
    for text in (shown, str(result), *ours, upstream):
        assert token_of("alice") not in text


async def test_a_batch_that_was_left_goes_on_when_its_own_caller_comes(sandbox: Sandbox, tmp_path: Path) -> None:
    kept = replace(PAID, state_dir=tmp_path)
    woken: list[str] = []
    looked = anyio.Event()
    async with team(sandbox, ALICE, BOB, settings=kept) as server:
        go_on = server.app.batches.go_on

        async def noted(caller: Caller = NOBODY) -> None:
            woken.append(caller.name)
            await looked.wait()
            await go_on(caller)

        server.app.batches.go_on = noted  # type: ignore[method-assign]
        async with server.client("alice") as alice, server.client("bob") as bob:
            await called(alice)
            await called(bob)
            await called(bob)
            looked.set()
    assert woken == ["alice", "bob"]  # neither waits for the other's, and one look at a time is enough


async def called(client: Client) -> Any:
    return await ask(client, "list_free_models")


async def test_a_question_put_to_alice_is_not_answered_by_bob(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """What a client carries from one round of a call to the next is good for its own caller only."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}},
    }
    headers = JSON | {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "ask_model"}
    settings = budget("5", "1", confirm_above=Decimal("0.00001"))
    caplog.set_level("INFO", "openrouter_mcp.observing")

    async def call(http: httpx2.AsyncClient, address: str, name: str, **more: Any) -> dict[str, Any]:
        arguments = {"prompt": "Hi", "model": TINY, "max_tokens": 4096}
        params = {"name": "ask_model", "arguments": arguments, "_meta": meta} | more
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        reply = await http.post(f"{address}/mcp", json=message, headers=headers | bearer(name))
        return dict(reply.json())

    async with team(sandbox, ALICE, BOB, settings=settings) as server, httpx2.AsyncClient() as http:
        for name, sent in (("bob", 0), ("alice", 1)):
            asked = (await call(http, server.address, "alice"))["result"]
            (question,) = asked["inputRequests"]
            yes = {question: {"action": "accept", "content": {"spend": True}}}
            said = await call(http, server.address, name, inputResponses=yes, requestState=asked["requestState"])
            assert ("error" in said) == (name == "bob"), said
            assert len(sandbox.chats) == sent
    codes = [line["code"] for record in caplog.records if (line := getattr(record, "facts", {})) and "code" in line]
    assert codes == ["asked", "asked", "ok"]  # bob was refused before it was a call
