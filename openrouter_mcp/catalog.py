"""The model list, kept a while, one download for everybody; near-miss suggestions."""

import difflib
import time
from collections.abc import Awaitable, Callable

import anyio

from openrouter_mcp.errors import CannotVerifyPrice, OpenRouterMCPError, Outcome, UnknownModel
from openrouter_mcp.pricing import is_free
from openrouter_mcp.records import Model

FRESH_TO_SHOW_S = 600.0
FRESH_TO_TRUST_S = 300.0


class Catalog:
    """OpenRouter's models. `fetch` asks OpenRouter for the list; `clock` counts seconds and never steps back, but may
    stand still while the machine sleeps, which `wall` does not."""

    def __init__(
        self,
        fetch: Callable[[], Awaitable[list[Model]]],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._wall = wall
        self._models: dict[str, Model] = {}
        self._read_at = self._read_at_wall = float("-inf")
        self._one_download = anyio.Lock()
        self._downloads = 0
        self._failure: OpenRouterMCPError | None = None

    async def models(self, max_age: float = FRESH_TO_SHOW_S) -> list[Model]:
        """Every model, from a copy at most `max_age` seconds old.

        Raises:
            OpenRouterMCPError: as `fetch` does, when there is no such copy and none can be had.
        """
        if self._is_older_than(max_age):
            before = self._downloads
            async with self._one_download:
                if self._downloads == before:
                    await self._download()
                elif self._failure:  # of the download this caller waited for: asking again would only take as long
                    raise self._failure.twin()
        return self.known()

    async def _download(self) -> None:
        asked_at, asked_at_wall = self._clock(), self._wall()
        try:
            models = await self._fetch()
        except OpenRouterMCPError as failure:
            self._downloads, self._failure = self._downloads + 1, failure
            raise failure.twin() from failure
        self._downloads, self._failure = self._downloads + 1, None
        self._models, self._read_at, self._read_at_wall = {}, asked_at, asked_at_wall
        for model in models:
            if model.id not in self._models or is_free(self._models[model.id]):  # listed twice: the dearer one counts
                self._models[model.id] = model

    async def trusted(self) -> dict[str, Model]:
        """The models by id, fresh enough to decide about money.

        Raises:
            CannotVerifyPrice: when the list is too old and cannot be read anew.
            Network: when OpenRouter cannot be reached at all.
        """
        try:
            await self.models(FRESH_TO_TRUST_S)
        except OpenRouterMCPError as error:
            if error.outcome in (Outcome.NEVER_SENT, Outcome.BAD_TLS):
                raise  # the connection is the trouble, not the prices
            raise CannotVerifyPrice(f"The price list could not be read ({error.code}: {error.text})") from error
        return self._models

    def known(self) -> list[Model]:
        """The models as last read, however long ago; empty when they never were."""
        return list(self._models.values())

    def _is_older_than(self, max_age: float) -> bool:
        return max(self._clock() - self._read_at, self._wall() - self._read_at_wall) > max_age


def similar(model: str, known: dict[str, Model], count: int = 3) -> list[str]:
    """The ids most like `model`, by spelling; the same name's free variant first."""
    near = difflib.get_close_matches(model.strip().lower()[:200], known, n=count, cutoff=0.6)
    return sorted(near, key=lambda id_: not id_.endswith(":free"))


def find(model: str, known: dict[str, Model]) -> Model:
    """The entry whose id is byte for byte `model`.

    Raises:
        UnknownModel: with the nearest ids.
    """
    if model not in known:
        raise UnknownModel(model[:200], similar(model, known))
    return known[model]
