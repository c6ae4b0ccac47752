"""The door of the HTTP server: who comes in, and what is said and written down of what does not; nothing of it goes
upstream."""

import hmac
import socket
import subprocess
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx2
import pytest
from calls import Clock
from mcp.shared.exceptions import MCPError
from mcp_types import EmptyResult, SubscribeRequest, SubscribeRequestParams
from processes import Upstream, spawned, wait_until
from support import ERAS, Time, ask, until
from team import JSON, bearer, caller, callers_file, client_of, digest_of, token_of

from openrouter_mcp.door import Door, Guesses

BIG = b'{"jsonrpc": "2.0", "id": 1, "method": "' + b"x" * 5 * 1024 * 1024 + b'"}'
PING = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}'


@dataclass
class Shared:
    """A server of alice and bob as a process, what is above it, and all that it says on stderr."""

    address: str
    upstream: Upstream
    process: subprocess.Popen[bytes]
    said: list[str] = field(default_factory=list)
    _marks: int = 0

    def listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line.decode().rstrip("\n"))

    def lines(self, act: Callable[[], Any]) -> list[str]:
        """What it says while `act` is done: until a mark that comes after it."""
        before = len(self.said)
        act()
        self._marks += 1
        mark = f"MARK-{self._marks}"
        assert httpx2.request(mark, f"{self.address}/mcp", headers=bearer("alice")).status_code == 405
        wait_until(lambda: any(f"method={mark} " in line for line in self.said))
        return [line for line in self.said[before:] if "method=MARK-" not in line]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Generator[Shared]:
    path = callers_file(tmp_path_factory.mktemp("callers") / "callers.toml", "alice", "bob")
    settings = {"OPENROUTER_MCP_CALLERS": str(path), "OPENROUTER_MCP_DAILY_BUDGET_USD": "1"}
    with Upstream() as upstream, spawned("serve", "--port", "0", **upstream.settings, **settings) as process:
        assert process.stderr is not None
        address = process.stderr.readline().decode().split()[-1]
        server = Shared(address, upstream, process)
        listening = threading.Thread(target=server.listen, daemon=True)
        listening.start()
        yield server
        process.kill()
        listening.join(10)
        everything = "\n".join(server.said)
        assert "canary" not in everything  # tokens, and what was asked
        assert "Traceback" not in everything


def post(content: bytes, **headers: str) -> dict[str, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"content": content, "headers": JSON | bearer("alice") | named}


BAD = {
    "wrong token": (401, post(PING, authorization="Bearer " + "canary" * 8)),
    "no bearer": (401, post(PING, authorization=f"Basic {token_of('alice')}")),
    "no token": (401, {"content": PING, "headers": JSON}),
    "token in the query": (401, {"content": PING, "headers": JSON, "params": {"access_token": token_of("alice")}}),
    "token in both": (400, post(PING) | {"params": {"token": token_of("alice")}}),
    "wrong host": (421, post(PING, host="evil.example")),
    "another port": (421, post(PING, host="127.0.0.1:1")),
    "another origin": (403, post(PING, origin="http://evil.example")),
    "null origin": (403, post(PING, origin="null")),
    "plain text": (400, post(PING, content_type="text/plain")),
    "5 MB": (413, post(BIG)),
    "invalid JSON": (400, post(b'{"jsonrpc": canary')),
    "no text": (400, post(b"\xff\xfe\x00")),
    "a batch": (400, post(b"[" + PING + b"," + PING + b"]")),
    "a session nobody has": (404, post(PING, mcp_session_id="canary-session")),
    "a version nobody speaks": (400, post(PING, mcp_protocol_version="1999-01-01")),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_refused_is_said_by_its_status_and_in_one_line_of_the_log(shared: Shared, kind: str) -> None:
    status, request = BAD[kind]
    replies: list[httpx2.Response] = []
    lines = shared.lines(lambda: replies.append(httpx2.post(f"{shared.address}/mcp", **request)))
    (reply,) = replies
    assert reply.status_code == status
    assert reply.headers.get("www-authenticate", "").startswith("Bearer") == (status == 401)
    (line,) = lines
    assert f" status={status} method=POST path=/mcp " in f"{line} "
    assert shared.upstream.sandbox.requests == []


@pytest.mark.parametrize("path", ["/sse", "/metrics", "/messages/", f"/mcp/{token_of('alice')}"])
@pytest.mark.parametrize(
    ("status", "headers"),
    [(401, {}), (421, bearer("alice") | {"host": "evil.example"}), (403, bearer("alice") | {"origin": "null"})],
    ids=["no token", "wrong host", "null origin"],
)
def test_every_other_path_lies_behind_the_same_door(
    shared: Shared, path: str, status: int, headers: dict[str, str]
) -> None:
    replies: list[httpx2.Response] = []
    (line,) = shared.lines(lambda: replies.append(httpx2.get(shared.address + path, headers=headers)))
    assert replies[0].status_code == status
    assert f"status={status} " in line


def test_only_health_is_told_to_anybody_and_says_nothing(shared: Shared) -> None:
    reply = httpx2.get(f"{shared.address}/health", headers={"host": "probe.example"})
    assert reply.json().keys() == {"status", "version"}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("path", ["/mcp", "/sse"])
def test_what_does_not_exist_is_a_line_in_either_era(shared: Shared, path: str, era: str) -> None:
    async def call() -> None:
        async with client_of(shared.address, path, era, "bob") as client:
            with pytest.raises(MCPError):
                await client.call_tool("no_such\ntool", {})
            request = SubscribeRequest(params=SubscribeRequestParams(uri="openrouter://usage"))
            with pytest.raises(MCPError):
                await client.session.send_request(request, EmptyResult)

    lines = [line for line in shared.lines(lambda: anyio.run(call)) if "deprecated" not in line]
    assert lines[0].startswith('INFO openrouter_mcp.observing: caller=bob tool="no_such\\ntool" code=invalid_request ')
    assert lines[1:] == ["INFO openrouter_mcp.observing: caller=bob method=resources/subscribe code=-32601"]


def test_another_callers_answer_is_unknown_and_a_line(shared: Shared) -> None:
    ids: list[str] = []

    async def alice() -> None:
        async with client_of(shared.address, "/mcp", "auto", "alice") as client:
            _, record, _ = await ask(client, prompt="canary", model="acme/tiny:free")
            ids.append(record["id"])

    async def bob() -> None:
        async with client_of(shared.address, "/mcp", "auto", "bob") as client:
            _, record, _ = await ask(client, "read_answer", id=ids[0])
            assert record["code"] == "unknown_answer"

    (line,) = shared.lines(lambda: anyio.run(alice))
    assert line.startswith("INFO openrouter_mcp.observing: caller=alice tool=ask_model code=ok seconds=")
    assert " model=acme/tiny:free attempts=1 prompt_tokens=" in line
    shared.upstream.sandbox.requests.clear()
    (line,) = shared.lines(lambda: anyio.run(bob))
    assert line.startswith("INFO openrouter_mcp.observing: caller=bob tool=read_answer code=unknown_answer seconds=")
    assert shared.upstream.sandbox.requests == []


def test_half_a_body_is_no_request(shared: Shared) -> None:
    host, port = shared.address.removeprefix("http://").split(":")

    def half() -> None:
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST /mcp HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: Bearer {token_of('alice')}\r\n"
            connection.sendall(f"{head}content-type: application/json\r\ncontent-length: 99\r\n\r\n{{".encode())
        wait_until(lambda: "status=400" in shared.said[-1])

    (line,) = shared.lines(half)
    assert "ended before the body did" in line


@pytest.mark.parametrize("content", [b"{", b"[" + PING + b"]", b"\xff"])
def test_what_cannot_be_read_on_sse_is_refused_in_one_line_too(shared: Shared, content: bytes) -> None:
    with httpx2.stream("GET", f"{shared.address}/sse", headers=bearer("alice")) as stream:
        lines = stream.iter_lines()
        endpoint = next(line for line in lines if line.startswith("data: ")).removeprefix("data: ")
        wait_until(lambda: "deprecated" in "".join(shared.said))
        replies: list[httpx2.Response] = []
        (line,) = shared.lines(lambda: replies.append(httpx2.post(shared.address + endpoint, **post(content))))
        assert replies[0].status_code == 400
        assert " status=400 method=POST path=/messages/ " in line
        assert httpx2.post(shared.address + endpoint, **post(PING)).status_code == 202  # and the session goes on
        assert '"id":1' in next(line for line in lines if line.startswith("data: ") and '"result"' in line)


# --- the door by itself -----------------------------------------------------------------------------------------------


async def nothing() -> Any:
    """An empty body."""
    return {"type": "http.request", "body": b"", "more_body": False}


@dataclass
class Guarded:
    """A door with alice behind it, and what it tells of refusals."""

    time: Time = field(default_factory=Time)
    refused: list[tuple[int, str]] = field(default_factory=list)
    inside: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.door = Door(
            self._app,
            callers=[caller("alice"), caller("bob")],
            names=["team.example", "team.example:8000"],
            refused=lambda _, status, why: self.refused.append((status, why)),
            guesses=Guesses(self.time.clock),
        )

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002 - as ASGI hands it in
        self.inside.append(dict(scope))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask(
        self, token: str, address: str = "10.0.0.1", receive: Any = nothing, query: str = "", **headers: str
    ) -> tuple[int, str]:
        """The status, and when to come again."""
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        said = {"host": "team.example", "authorization": f"Bearer {token}"} | headers
        scope = {
            "type": "http", "method": "POST", "path": "/mcp", "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in said.items()], "client": (address, 1),
        }  # fmt: skip
        await self.door(scope, receive, send)
        return sent[0]["status"], dict(sent[0]["headers"]).get(b"retry-after", b"").decode()


WRONG, RIGHT = "wrong" * 8, token_of("alice")


async def test_guessing_is_slowed_for_a_minute_and_the_right_token_still_comes_in() -> None:
    """Behind one proxy the guesser and the team have one address."""
    guarded = Guarded()
    for _ in range(5):
        assert await guarded.ask(WRONG) == (401, "")
    guarded.time.now += 20
    assert await guarded.ask(WRONG) == (429, "40")
    assert await guarded.ask(RIGHT) == (200, "")
    assert await guarded.ask(WRONG) == (429, "40")
    assert [status for status, _ in guarded.refused] == [401] * 5 + [429]  # the log is not theirs to fill
    assert await guarded.ask(WRONG, "10.0.0.2") == (401, "")
    guarded.time.now += 40
    assert await guarded.ask(WRONG) == (401, "")


async def test_whoever_comes_is_compared_with_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long it takes tells nothing of how near a guess was, or of whose place in the file it was."""
    compared: list[bytes] = []

    def compare(shown: bytes, known: bytes) -> bool:
        compared.append(known)
        return shown == known

    monkeypatch.setattr(hmac, "compare_digest", compare)
    guarded = Guarded()
    for token in (token_of("alice"), token_of("bob"), WRONG):
        await guarded.ask(token)
        assert [compared.pop(), compared.pop()] == [digest_of("bob"), digest_of("alice")]
        assert not compared


def test_however_many_guess_little_is_remembered() -> None:
    guesses = Guesses(Time().clock)
    for number in range(5000):
        guesses.wrong(str(number))
    assert len(guesses._seen) <= 1000


async def test_behind_the_door_there_is_a_caller_and_no_token() -> None:
    guarded = Guarded()
    assert (await guarded.ask(RIGHT))[0] == 200
    (scope,) = guarded.inside
    assert scope["state"]["caller"].name == "alice"
    assert RIGHT not in str(scope) + str(vars(scope["user"]))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "TEAM.example:8000", "origin": "https://team.example"}, 200),
        ({"origin": "http://team.example:8000"}, 200),
        ({"host": "team.example:8001"}, 421),
        ({"host": "127.0.0.1"}, 421),
        ({"origin": "https://team.example:9"}, 403),
        ({"origin": ""}, 403),
        ({"authorization": f"bearer {RIGHT}"}, 200),
        ({"authorization": RIGHT}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": f"Bearer {RIGHT}x"}, 401),
        ({"authorization": "Bearer \u00fc"}, 401),
    ],
)
async def test_names_origins_and_tokens_are_taken_exactly(headers: dict[str, str], status: int) -> None:
    assert (await Guarded().ask(RIGHT, **headers))[0] == status


@pytest.mark.parametrize("query", ["token=x", "a=b&ACCESS_TOKEN=", "api%5Fkey=x"])
async def test_a_token_in_the_address_is_refused_with_the_right_one_too(query: str) -> None:
    guarded = Guarded()
    assert (await guarded.ask(RIGHT, query=query))[0] == 400
    assert (await guarded.ask(WRONG, query=query))[0] == 401
    assert (await guarded.ask(RIGHT, query="session_id=x"))[0] == 200
    assert len(guarded.inside) == 1


@pytest.mark.parametrize("declared", [{}, {"content-length": str(10**9)}], ids=["unannounced", "announced"])
async def test_of_an_endless_body_little_is_read(declared: dict[str, str]) -> None:
    read: list[bytes] = []

    async def endless() -> Any:
        assert len(read) < 100
        read.append(b"x" * 65536)
        return {"type": "http.request", "body": read[-1], "more_body": True}

    guarded = Guarded()
    with anyio.fail_after(5):
        assert (await guarded.ask(RIGHT, receive=endless, **declared))[0] == 413
    assert len(read) == (0 if declared else 65)
    assert not guarded.inside


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, guarded, asked = Clock(monkeypatch), Guarded(), anyio.Event()
    statuses: list[int] = []

    async def slow() -> Any:
        if not asked.is_set():
            asked.set()
            return {"type": "http.request", "body": b"{", "more_body": True}
        return await anyio.sleep_forever()

    async def ask() -> None:
        statuses.append((await guarded.ask(RIGHT, receive=slow))[0])

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        await asked.wait()
        clock.jump(19)
        assert not statuses
        clock.jump(2)
        await until(lambda: bool(statuses))
    assert statuses == [408]
    assert not guarded.inside
