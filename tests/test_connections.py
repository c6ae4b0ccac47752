"""A slow, silent or greedy client costs the others nothing."""

import socket
import time
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import pytest
from calls import Clock
from support import ask, until
from team import JSON, Team, bearer, caller, team, token_of

from openrouter_mcp.cli.connections import allow_many
from openrouter_mcp.sandbox import Sandbox

MANY = 400


def address_of(server: Team) -> tuple[str, int]:
    host, port = server.address.removeprefix("http://").split(":")
    return host, int(port)


@asynccontextmanager
async def crowd(server: Team, said: bytes, count: int = MANY) -> AsyncGenerator[list[socket.socket]]:
    """That many connections on which this was said, and no more."""
    with ExitStack() as open_ones:
        connections = []
        for _ in range(count):
            connection = await anyio.to_thread.run_sync(socket.create_connection, address_of(server))
            open_ones.enter_context(connection)
            connection.sendall(said)
            connections.append(connection)
        yield connections


def head(server: Team, *more: str) -> bytes:
    host, port = address_of(server)
    lines = ["POST /mcp HTTP/1.1", f"host: {host}:{port}", *(f"{name}: {value}" for name, value in JSON.items()), *more]
    return "".join(f"{line}\r\n" for line in lines).encode()


@pytest.mark.parametrize("kind", ["silent", "half a head", "half a body", "a body of many"])
async def test_with_hundreds_of_them_a_call_takes_as_long_as_ever(sandbox: Sandbox, kind: str) -> None:
    async def longest(client: Any) -> float:
        took = []
        for number in range(10):
            start = time.monotonic()
            _, _, is_error = await ask(client, prompt=f"{kind} {number}", model="acme/tiny:free")
            took.append(time.monotonic() - start)
            assert not is_error
        return sorted(took)[5]

    allow_many()
    async with team(sandbox, caller("alice"), caller("bob")) as server, server.client("alice") as alice:
        said = {
            "silent": b"",
            "half a head": head(server)[:30],
            "half a body": head(server, f"authorization: Bearer {token_of('bob')}", "content-length: 99") + b"\r\n{",
            "a body of many": head(server, "authorization: Bearer no", "content-length: 99999999") + b"\r\n{",
        }
        usual = await longest(alice)
        async with crowd(server, said[kind]):
            crowded = await longest(alice)
    assert crowded < 5 * usual + 0.05


async def test_who_is_silent_or_stops_in_a_head_is_hung_up_on(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    async with team(sandbox, caller("alice")) as server:
        for said in (b"", head(server)[:30]):
            async with crowd(server, said, 3) as connections:
                await until_taken(server, 3)
                clock.jump(9)
                await until_taken(server, 3)
                clock.jump(2)
                for connection in connections:
                    assert await anyio.to_thread.run_sync(ended, connection)


async def test_a_connection_that_is_kept_may_be_used_again_but_not_half(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    async with (
        team(sandbox, caller("alice")) as server,
        crowd(server, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n", 1) as (connection,),
    ):
        await anyio.to_thread.run_sync(answered, connection)
        clock.jump(4)
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        await anyio.to_thread.run_sync(answered, connection)
        connection.sendall(b"GET /health")
        await anyio.to_thread.run_sync(httpx2.get, f"{server.address}/health")
        clock.jump(11)
        assert await anyio.to_thread.run_sync(ended, connection)


async def test_a_stream_that_stands_longer_is_not_hung_up_on(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    async with team(sandbox, caller("alice")) as server:
        said = head(server, f"authorization: Bearer {token_of('alice')}").replace(b"POST /mcp", b"GET /sse") + b"\r\n"
        async with crowd(server, said, 1) as (connection,):
            assert b"200 OK" in await anyio.to_thread.run_sync(connection.recv, 64)
            clock.jump(11)
            await until_taken(server, 2)
            with pytest.raises(TimeoutError):
                await anyio.to_thread.run_sync(read_all, connection)


def read_all(connection: socket.socket) -> None:
    """Reads to the end; TimeoutError while there is none."""
    connection.settimeout(0.2)
    while connection.recv(4096):
        pass


async def until_taken(server: Team, count: int) -> None:
    """Until the server has taken that many connections, and read what came on them."""
    async with httpx2.AsyncClient(headers=bearer("alice")) as http:
        assert (await http.get(f"{server.address}/health")).status_code == 200
    await until(lambda: len(server.server.server_state.connections) >= count)


def answered(connection: socket.socket) -> None:
    """Reads one reply of /health."""
    connection.settimeout(5)
    said = b""
    while not said.endswith(b"}"):
        said += connection.recv(4096)
    assert said.startswith(b"HTTP/1.1 200 OK")


def ended(connection: socket.socket) -> bool:
    connection.settimeout(5)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
