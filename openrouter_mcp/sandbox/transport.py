"""An ASGI app as an httpx2 transport, in process and unbuffered: what the app sends is what the client reads, when it
is sent. (httpx2's own ASGITransport collects the whole body first, so nothing can be cancelled or timed.)"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack
from typing import Any

import anyio
import httpx2

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class StreamingTransport(httpx2.AsyncBaseTransport):
    """Runs `app` for each request, as a task of its own that never outlives the response (asyncio only).

    The app may be one unread chunk ahead of the reader. Closing the response early tells the app `http.disconnect` and
    cancels it. An app that raises is a connection reset: `ReadError`. The request's read timeout is honoured.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if not isinstance(request.stream, httpx2.AsyncByteStream):
            raise TypeError("StreamingTransport serves an AsyncClient only")
        body = b"".join([chunk async for chunk in request.stream])
        exchange = _Exchange(self._app, request, body)
        async with AsyncExitStack() as unless_it_starts:
            unless_it_starts.push_async_callback(exchange.aclose)
            start = await exchange.next()
            unless_it_starts.pop_all()
        return httpx2.Response(start["status"], headers=start.get("headers", []), stream=exchange)


class _Exchange(httpx2.AsyncByteStream):
    """One request and its reply; as a stream, the reply's body."""

    def __init__(self, app: App, request: httpx2.Request, body: bytes) -> None:
        self._request = request
        self._body: bytes | None = body
        self._sent: asyncio.Queue[Message | asyncio.Task[None]] = asyncio.Queue()
        self._room = asyncio.Semaphore(1)
        self._gone = asyncio.Event()
        self._task = asyncio.ensure_future(self._run(app))
        self._task.add_done_callback(self._sent.put_nowait)  # the finished task is the end of the queue

    async def _run(self, app: App) -> None:
        await app(_scope(self._request), self._receive, self._send)

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self._room.acquire()
        self._sent.put_nowait(message)

    async def next(self) -> Message:
        """The app's next message; a timeout or the app's end is raised as what a socket would have shown."""
        try:
            async with asyncio.timeout(self._request.extensions.get("timeout", {}).get("read")):
                item = await self._sent.get()
        except TimeoutError as silence:
            raise httpx2.ReadTimeout("nothing was sent in time", request=self._request) from silence
        self._room.release()
        if not isinstance(item, asyncio.Task):
            return item
        failure = None if item.cancelled() else item.exception()
        if failure is not None:
            raise httpx2.ReadError("the connection was reset", request=self._request) from failure
        raise httpx2.RemoteProtocolError("the reply ended before it was complete", request=self._request)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self.next()
            more = message.get("more_body", False)
            if message.get("body"):
                yield message["body"]
        await asyncio.wait({self._task})  # what the app does after its last byte is part of the exchange

    async def aclose(self) -> None:
        self._gone.set()
        self._task.cancel()
        with anyio.CancelScope(shield=True):  # a caller that is being cancelled must not leave the task behind
            await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.exception()  # looked at, or asyncio complains of it later


def _scope(request: httpx2.Request) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "scheme": request.url.scheme,
        "path": request.url.path,
        "raw_path": request.url.raw_path.split(b"?")[0],
        "query_string": request.url.query,
        "server": (request.url.host, request.url.port),
        "client": ("127.0.0.1", 1),
        "root_path": "",
    }
