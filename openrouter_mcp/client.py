"""The only network: one method per endpoint, one attempt each. Chat takes a Permit and is always streamed.

Every failure leaves here as one of our errors, tagged with what is known to have happened (`errors.Outcome`).
"""

import ssl
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import quote

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx2

from openrouter_mcp import __version__, failures, listing, reading, records, wire
from openrouter_mcp.errors import BadKey, BadReply, Blocked, Network, NoKey, OpenRouterMCPError, Outcome, Timeout
from openrouter_mcp.guard import Permit
from openrouter_mcp.listing import Listing
from openrouter_mcp.reading import Timeouts
from openrouter_mcp.settings import Settings
from openrouter_mcp.text import mapping, one_line

_JSON_BYTES = listing.MAX_BYTES
_ERROR_BYTES = 256 * 1024
_HEADERS = {
    "user-agent": f"openrouter-mcp/{__version__}",
    "x-openrouter-title": "openrouter-mcp",
    "accept-encoding": "gzip",
}
_UNPREPARED = (
    "The connection to OpenRouter could not be prepared ({}), so nothing was sent. Ask the user to check HTTPS_PROXY, "
    "ALL_PROXY, SSL_CERT_FILE, SSL_CERT_DIR and SSLKEYLOGFILE in this server's environment."
)
_USABLE_S = 15.0  # for the models of the key; the public list comes from a cache near by
_CONNECTIONS = httpx2.Limits(max_connections=256, max_keepalive_connections=64)


class OpenRouter:
    """OpenRouter's API as this server uses it. `transport` replaces the network (the sandbox does)."""

    def __init__(
        self,
        settings: Settings,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
        timeouts: Timeouts | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._timeouts = timeouts or Timeouts()
        self._clock = clock
        self._http: httpx2.AsyncClient | None = None

    async def aclose(self) -> None:
        """Close every connection."""
        if self._http is not None:
            await self._http.aclose()

    def require_key(self) -> None:
        """Complain before anything is counted or sent.

        Raises:
            NoKey, BadKey: when there is no usable key.
        """
        self._authorization()

    async def models(self, known: Listing | None = None) -> Listing:
        """`GET /models/user`: what the key may really use. Without a key, or where that cannot be had whatever the
        reason, `GET /models`: all there are. `known` itself, if OpenRouter says that it is still current."""
        if self._settings.key:
            with anyio.move_on_after(_USABLE_S):
                try:
                    return await self._listing(listing.USABLE, self._authorization(), known)
                except OpenRouterMCPError as error:
                    if error.outcome in (Outcome.NEVER_SENT, Outcome.BAD_TLS):
                        raise  # nor could the other be had
        return await self._listing(listing.ALL, {}, known)

    async def _listing(self, path: str, headers: dict[str, str], known: Listing | None) -> Listing:
        if known and known.etag and known.path == path:
            headers = headers | {"if-none-match": known.etag}
        async with self._reply("GET", path, headers) as response:
            body = await reading.whole(response, self._timeouts, _JSON_BYTES)
        if known and response.status_code == 304:
            return known
        return await anyio.to_thread.run_sync(listing.read, body, path, response.headers.get("etag", ""))

    async def endpoints(self, model: str) -> list[records.Endpoint]:
        """`GET /models/{author}/{slug}/endpoints`: who serves a listed `model`. Latency and throughput are told to a
        caller with a key.

        Raises:
            BadReply: when there is no list.
        """
        headers = self._authorization() if self._settings.key else {}
        reply = mapping(await self._get(f"/models/{quote(model)}/endpoints", headers))
        offers = mapping(reply.get("data")).get("endpoints")
        if not isinstance(offers, list):
            raise BadReply("OpenRouter's list of providers is unreadable.")
        return records.read_endpoints(offers)

    async def zero_retention(self) -> list[records.Endpoint]:
        """`GET /endpoints/zdr`: who retains nothing; empty when OpenRouter does not say. Needs no key."""
        try:
            return records.read_endpoints(mapping(await self._get("/endpoints/zdr")).get("data"))
        except OpenRouterMCPError:
            return []

    async def key(self) -> records.KeyInfo:
        """`GET /key`: what the key may do and has used."""
        return records.read_key(await self._get("/key", self._authorization()))

    async def credits(self) -> tuple[records.Credits | None, str]:
        """`GET /credits`: the balance, which OpenRouter shows to management keys; or why it does not say."""
        try:
            credits_ = records.read_credits(await self._get("/credits", self._authorization()))
        except (BadKey, Blocked):  # this key is good for everything else
            return None, "OpenRouter shows it to management keys only"
        except OpenRouterMCPError as failure:
            return None, f"OpenRouter did not say ({failure.code}: {one_line(failure.text, 200).rstrip('.')})"
        return credits_, "" if credits_ else "OpenRouter shows this key no figures"

    async def generation(self, generation: str) -> wire.Usage | None:
        """`GET /generation`: what one answer cost; None while OpenRouter does not say."""
        if not wire.generation_id(generation):
            return None
        try:
            return records.read_generation(await self._get(f"/generation?id={generation}", self._authorization()))
        except OpenRouterMCPError:
            return None

    async def chat(self, permit: Permit) -> AsyncGenerator[wire.Event]:
        """Send the permitted request; yield what the model says as it comes. Close it early to stop the model.

        Raises:
            NoKey, BadKey: before anything is sent.
            OpenRouterMCPError: as `failures.read` finds, or Network, Timeout, BadReply, TooLarge.
        """
        headers = self._authorization() | {"content-type": "application/json"}
        async with self._reply("POST", "/chat/completions", headers, permit) as response:
            # known even if nothing else arrives
            yield wire.Event(generation_id=wire.generation_id(response.headers.get("x-generation-id")))
            whole = bytearray()  # a proxy may answer a streamed request with one plain JSON body
            async with aclosing(reading.lines(response, self._timeouts)) as lines:
                async for line in lines:
                    if line == b"data: [DONE]":
                        await reading.to_the_end(lines)
                        return
                    if line.startswith(b"data:"):
                        yield wire.read_event(wire.read_json(line[5:]))
                    elif not line.startswith((b"event:", b"id:", b"retry:")):
                        whole += line
                        if len(whole) > wire.MAX_REPLY_BYTES:
                            raise reading.too_large(wire.MAX_REPLY_BYTES)
            if whole.strip():
                yield wire.read_event(wire.read_json(bytes(whole)))

    # --- one request ------------------------------------------------------------------------------------------------

    def _authorization(self) -> dict[str, str]:
        if self._settings.key_problem:
            raise BadKey(self._settings.key_problem)
        if self._settings.key is None:
            raise NoKey
        return {"authorization": f"Bearer {self._settings.key.get_secret_value()}"}

    def _client(self) -> httpx2.AsyncClient:
        """Made at the first request: the TLS context costs 40 ms that start-up need not pay."""
        if self._http is None:
            referer = {"http-referer": self._settings.app_url} if self._settings.app_url else {}
            try:
                _require_one(self._settings.certificates)
                self._http = httpx2.AsyncClient(
                    transport=self._transport,
                    headers={**_HEADERS, **referer},
                    follow_redirects=False,  # a redirect would carry the key elsewhere
                    timeout=httpx2.Timeout(
                        self._timeouts.line, connect=self._timeouts.connect, pool=self._timeouts.connect
                    ),
                    limits=_CONNECTIONS,
                    trust_env=self._settings.base_url.startswith("https:"),  # no proxy between us and loopback
                )
            except (OSError, ValueError, ImportError) as error:
                raise Network(_UNPREPARED.format(type(error).__name__), outcome=Outcome.BAD_TLS) from error
        return self._http

    @asynccontextmanager
    async def _reply(
        self, method: str, path: str, headers: dict[str, str], permit: Permit | None = None
    ) -> AsyncGenerator[httpx2.Response]:
        """A 200 reply, its body unread, or a 304 that was asked for; every other status is raised as what it means."""
        with _as_our_errors():
            client = self._client()
            await anyio.lowlevel.checkpoint()  # who was cancelled meanwhile sends nothing and spends no permit
            request = client.build_request(
                method, self._settings.base_url + path, headers=headers, content=permit.spend() if permit else None
            )
            with anyio.move_on_after(self._timeouts.connect + self._timeouts.line) as patience:
                response = await client.send(request, stream=True)
            if patience.cancelled_caught:
                raise Timeout("OpenRouter took the request and did not answer; the connection was closed.")
            try:
                if response.status_code not in ((200, 304) if "if-none-match" in headers else (200,)):
                    raise await self._refusal(response)
                yield response
            finally:
                await response.aclose()

    async def _refusal(self, response: httpx2.Response) -> OpenRouterMCPError:
        status = response.status_code
        if 300 <= status < 400:
            return BadReply(
                f"The reply was a redirect (HTTP {status}), which is not followed.", outcome=Outcome.REFUSED
            )
        body = await reading.whole(response, self._timeouts, _ERROR_BYTES)
        try:
            payload = wire.read_json(body)
        except BadReply:
            payload = None
        return failures.read(
            status, {name.lower(): value for name, value in response.headers.items()}, payload, clock=self._clock
        )

    async def _get(self, path: str, headers: dict[str, str] | None = None) -> object:
        async with self._reply("GET", path, headers or {}) as response:
            return wire.read_json(await reading.whole(response, self._timeouts, _JSON_BYTES))


def _require_one(folders: Sequence[Path]) -> None:
    """TLS itself would say that nobody can be trusted, and only after it has called."""
    if folders and not any(folder.is_dir() for folder in folders):
        raise FileNotFoundError


@contextmanager
def _as_our_errors() -> Generator[None]:
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError) as error:
        raise _unreached(error) from error
    except httpx2.TimeoutException as error:
        raise Timeout("OpenRouter fell silent; the connection was closed.") from error
    except httpx2.TransportError as error:
        raise Network("The connection to OpenRouter broke before its reply was complete.") from error


def _unreached(error: httpx2.TransportError) -> Network:
    """Nothing was sent. A certificate that is not trusted will not be so in a second either."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return Network(
                "The certificate of OpenRouter's host is not trusted, so nothing was sent. Ask the user whether a "
                "proxy inspects TLS; its certificate can be named in SSL_CERT_FILE.",
                outcome=Outcome.BAD_TLS,
            )
        cause = cause.__cause__ or cause.__context__
    return Network(
        f"OpenRouter could not be reached ({one_line(str(error), 100) or type(error).__name__}), so nothing was sent. "
        "Ask the user to check the connection or the proxy.",
        outcome=Outcome.NEVER_SENT,
    )
