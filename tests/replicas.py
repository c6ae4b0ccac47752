"""Three servers on one engine, behind a proxy that takes them in turn."""

import itertools
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import httpx2
import uvicorn
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from processes import Upstream, spawned, wait_until
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from team import bearer, token_of

CHILD = [sys.executable, str(Path(__file__).with_name("replica_child.py"))]
_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


class Proxy:
    """A plain proxy: each request goes to the next of `addresses`, or to the one after it if nobody answers there."""

    def __init__(self, addresses: list[str]) -> None:
        self._turn = itertools.cycle(addresses)
        self._count = len(addresses)
        # A kept connection would be that of a server which has ended since.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        self._client = httpx2.AsyncClient(trust_env=False, timeout=60, limits=limits)
        self.served = dict.fromkeys(addresses, 0)
        app = Starlette(routes=[Route("/mcp", self._pass_on, methods=["GET", "POST", "DELETE"])])
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        wait_until(lambda: self._server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(5)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    async def _pass_on(self, request: Request) -> Response:
        body = await request.body()
        headers = [(name, value) for name, value in request.headers.items() if name not in _BY_HOP]
        for _ in range(self._count):
            address = next(self._turn)
            asked = self._client.build_request(request.method, f"{address}/mcp", headers=headers, content=body)
            try:
                reply = await self._client.send(asked, stream=True)
            except httpx2.ConnectError:
                continue
            self.served[address] += 1
            said = {name: value for name, value in reply.headers.items() if name not in _BY_HOP}
            return StreamingResponse(_to_its_end(reply), reply.status_code, said)
        return PlainTextResponse("Nobody is there", 502)


async def _to_its_end(reply: httpx2.Response) -> AsyncGenerator[bytes]:
    try:
        async for piece in reply.aiter_raw():
            yield piece
    except httpx2.TransportError:
        return  # whoever served it is gone
    finally:
        await reply.aclose()


@contextmanager
def replicas(
    upstream: Upstream, engine: str, count: int = 3, **settings: str
) -> Generator[tuple[Proxy, dict[str, "subprocess.Popen[bytes]"]]]:
    """The proxy, and the servers behind it by their addresses."""
    shared = upstream.settings | {
        "OPENROUTER_MCP_STATE_URL": engine,
        "OPENROUTER_MCP_HTTP_TOKEN": token_of("team"),
        "OPENROUTER_MCP_ALLOWED_HOSTS": "127.0.0.1",
    }
    with ExitStack() as running:
        found = {}
        for _ in range(count):
            process = running.enter_context(spawned("--port", "0", command=CHILD, **shared | settings))
            found[_address(process)] = process
        with Proxy(list(found)) as proxy:
            yield proxy, found


def _address(process: "subprocess.Popen[bytes]") -> str:
    assert process.stderr
    lines = []
    for line in process.stderr:
        lines.append(line.decode())
        if "serving" in lines[-1]:
            return lines[-1].split()[-1]
    raise AssertionError("".join(lines))


@asynccontextmanager
async def client_of(address: str, era: str) -> AsyncGenerator[Client]:
    """A client of the team's, of either era."""
    async with (
        httpx2.AsyncClient(headers=bearer("team"), timeout=60, trust_env=False) as http,
        Client(streamable_http_client(f"{address}/mcp", http_client=http), mode=era) as client,
    ):
        yield client
