"""The model list, kept a while, one download for everybody."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import anyio

from openrouter_mcp.cached import Cached
from openrouter_mcp.errors import CannotVerifyPrice, OpenRouterMCPError, Outcome
from openrouter_mcp.listing import Listing
from openrouter_mcp.records import Model

FRESH_TO_SHOW_S = 600.0
FRESH_TO_TRUST_S = 300.0
STALE_TO_SHOW_S = 86_400.0  # while OpenRouter gives no newer one


class Catalog:
    """OpenRouter's models. `fetch` asks OpenRouter for the list and is told the one known, which it returns if that is
    still current; `cached` shares it with other processes. `clock` counts seconds and never steps back, but may stand
    still while the machine sleeps, which `wall` (epoch seconds) does not."""

    def __init__(
        self,
        fetch: Callable[[Listing | None], Awaitable[Listing]],
        cached: Cached | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._fetch = fetch
        self._cached = cached or Cached(None)
        self._clock = clock
        self._wall = wall
        self._listing: Listing | None = None
        self._read_at = self._read_at_wall = float("-inf")
        self._one_at_a_time = anyio.Lock()
        self._downloads = 0
        self._failure: OpenRouterMCPError | None = None

    async def models(self) -> list[Model]:
        """Every model, to be shown: from a copy at most ten minutes old or, while OpenRouter gives none, a day
        (`stale_since` tells).

        Raises:
            OpenRouterMCPError: as `fetch` does, when there is no such copy and none can be had.
        """
        try:
            await self._renew(FRESH_TO_SHOW_S)
        except OpenRouterMCPError:
            if self._is_older_than(STALE_TO_SHOW_S):
                raise
        return self.known()

    async def trusted(self) -> dict[str, Model]:
        """The models by id, fresh enough to decide about money.

        Raises:
            CannotVerifyPrice: when the list is too old and cannot be read anew.
            Network: when OpenRouter cannot be reached at all.
        """
        try:
            return (await self._renew(FRESH_TO_TRUST_S)).models
        except OpenRouterMCPError as error:
            if error.outcome in (Outcome.NEVER_SENT, Outcome.BAD_TLS):
                raise  # the connection is the trouble, not the prices
            raise CannotVerifyPrice(f"The price list could not be read ({error.code}: {error.text})") from error

    def known(self) -> list[Model]:
        """The models as last read, however long ago; empty when they never were."""
        return list(self._listing.models.values()) if self._listing else []

    @property
    def stale_since(self) -> float | None:
        """Of when the list is (epoch seconds), if that is too long ago for it to be shown unmarked."""
        return self._read_at_wall if self._listing and self._is_older_than(FRESH_TO_SHOW_S) else None

    @property
    def skipped(self) -> int:
        """How many rows of the list could not be read."""
        return self._listing.skipped if self._listing else 0

    # --- one copy -----------------------------------------------------------------------------------------------------

    async def _renew(self, max_age: float) -> Listing:
        """The list, at most `max_age` seconds old: ours, a sibling's or OpenRouter's."""
        before = self._downloads
        while self._listing is None or self._is_older_than(max_age):
            async with self._one_at_a_time:
                if self._downloads != before and self._failure:
                    raise self._failure.twin()  # this caller waited for it: asking again would only take as long
                if not self._is_older_than(max_age) or await self._has_sibling_read(max_age):
                    continue
                async with self._cached.turn():
                    if not await self._has_sibling_read(max_age):
                        await self._download()
        return self._listing

    async def _has_sibling_read(self, max_age: float) -> bool:
        """Take what another process has kept, if it is newer; whether that is new enough."""
        now = self._wall()
        found = await self._cached.read(max(self._read_at_wall, now - STALE_TO_SHOW_S), now, self._listing)
        if found:
            listing, at = found
            self._take(listing, self._clock() - (self._wall() - at), at)
        return not self._is_older_than(max_age)

    async def _download(self) -> None:
        asked_at, asked_at_wall = self._clock(), self._wall()
        try:
            found = await self._fetch(self._listing)
        except OpenRouterMCPError as failure:
            self._downloads, self._failure = self._downloads + 1, failure
            raise failure.twin() from failure
        self._downloads, self._failure = self._downloads + 1, None
        self._take(found, asked_at, asked_at_wall)
        await self._cached.keep(found, asked_at_wall)

    def _take(self, found: Listing, read_at: float, read_at_wall: float) -> None:
        self._listing = replace(found, body=b"")  # which is on disk, and as large as all the rest
        self._read_at, self._read_at_wall = read_at, read_at_wall

    def _is_older_than(self, max_age: float) -> bool:
        return max(self._clock() - self._read_at, self._wall() - self._read_at_wall) > max_age
