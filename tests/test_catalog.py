"""One copy of the model list: fresh enough, downloaded once, never spoilt."""

from collections.abc import Callable

import anyio
import pytest

from openrouter_mcp.catalog import Catalog
from openrouter_mcp.errors import (
    CannotVerifyPrice,
    Network,
    OpenRouterMCPError,
    Outcome,
    Timeout,
)
from openrouter_mcp.listing import Listing
from openrouter_mcp.records import Model, read_models

FIRST, SECOND = Model(id="acme/tiny:free"), Model(id="globex/large:free")


def listed(models: list[Model]) -> Listing:
    return Listing({model.id: model for model in models})


class Source:
    """OpenRouter's list and the time, both as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.fetched = 0
        self.known: Listing | None = None  # what the last download was told
        self.models: Callable[[], list[Model]] = lambda: [FIRST]
        self.catalog = Catalog(self.fetch, clock=lambda: self.now, wall=lambda: self.now)

    async def fetch(self, known: Listing | None) -> Listing:
        self.fetched += 1
        self.known = known
        return listed(self.models())

    def fail(self, error: OpenRouterMCPError) -> None:
        def raising() -> list[Model]:
            raise error

        self.models = raising


@pytest.fixture
def source() -> Source:
    return Source()


def down() -> OpenRouterMCPError:
    return Timeout("OpenRouter fell silent.")


async def test_nothing_is_known_before_somebody_asks(source: Source) -> None:
    assert source.catalog.known() == []
    assert source.fetched == 0


async def test_many_callers_share_one_download() -> None:
    gate, fetched = anyio.Event(), 0
    seen: list[list[Model]] = []

    async def fetch(_: Listing | None) -> Listing:
        nonlocal fetched
        fetched += 1
        await gate.wait()
        return listed([FIRST])

    catalog = Catalog(fetch, clock=lambda: 0.0)

    async def show() -> None:
        seen.append(await catalog.models())

    async def trust() -> None:
        seen.append(list((await catalog.trusted()).values()))

    async with anyio.create_task_group() as callers:
        for caller in (show, trust) * 5:
            callers.start_soon(caller)
        await anyio.wait_all_tasks_blocked()
        gate.set()
    assert seen == [[FIRST]] * 10
    assert fetched == 1


async def test_many_callers_share_one_failure_too_each_with_an_error_of_its_own() -> None:
    """A dead host takes seconds to say so; eight callers must not wait for it one after the other."""
    gate, fetched = anyio.Event(), 0
    seen: list[OpenRouterMCPError] = []

    async def fetch(_: Listing | None) -> Listing:
        nonlocal fetched
        fetched += 1
        await gate.wait()
        raise Network("Could not be reached.", outcome=Outcome.NEVER_SENT)

    catalog = Catalog(fetch, clock=lambda: 0.0)

    async def ask() -> None:
        with pytest.raises(Network) as failure:
            await catalog.trusted()
        seen.append(failure.value)

    async with anyio.create_task_group() as callers:
        for _ in range(8):
            callers.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        gate.set()
    assert fetched == 1
    assert len({id(error) for error in seen}) == 8
    assert {(str(error), error.outcome) for error in seen} == {("network: Could not be reached.", Outcome.NEVER_SENT)}
    with pytest.raises(Network):
        await catalog.models()
    assert fetched == 2  # who comes later asks anew


async def test_a_caller_who_leaves_does_not_take_the_download_from_the_others() -> None:
    gate, seen = anyio.Event(), []

    async def fetch(_: Listing | None) -> Listing:
        await gate.wait()
        return listed([FIRST])

    catalog = Catalog(fetch, clock=lambda: 0.0)
    impatient = anyio.CancelScope()

    async def leave() -> None:
        with impatient:
            await catalog.models()

    async def stay() -> None:
        seen.append(await catalog.models())

    async with anyio.create_task_group() as callers:
        callers.start_soon(leave)
        await anyio.wait_all_tasks_blocked()
        callers.start_soon(stay)
        await anyio.wait_all_tasks_blocked()
        impatient.cancel()
        gate.set()
    assert seen == [[FIRST]]


@pytest.mark.parametrize(
    ("age", "to_show", "to_trust"),
    [(0.0, 1, 1), (300.0, 1, 1), (301.0, 1, 2), (600.0, 1, 2), (601.0, 2, 2)],
    ids=["new", "300 s", "301 s", "600 s", "601 s"],
)
async def test_a_copy_serves_ten_minutes_for_showing_and_five_for_money(
    age: float, to_show: int, to_trust: int
) -> None:
    showing, trusting = Source(), Source()
    for source in (showing, trusting):
        await source.catalog.models()
        source.models = lambda: [SECOND]
        source.now += age
    shown = await showing.catalog.models()
    trusted = await trusting.catalog.trusted()
    assert (showing.fetched, trusting.fetched) == (to_show, to_trust)
    assert shown == ([FIRST] if to_show == 1 else [SECOND])
    assert trusted == ({FIRST.id: FIRST} if to_trust == 1 else {SECOND.id: SECOND})


async def test_a_list_is_as_old_as_its_request_not_as_its_reply(source: Source) -> None:
    def slow() -> list[Model]:
        source.now += 200.0
        return [FIRST]

    source.models = slow
    await source.catalog.trusted()
    source.now += 150.0
    await source.catalog.trusted()
    assert source.fetched == 2


async def test_while_openrouter_is_down_a_copy_serves_for_money_while_fresh_and_for_a_day_to_be_shown_as_old(
    source: Source,
) -> None:
    await source.catalog.models()
    source.fail(down())
    source.now += 299.0
    assert await source.catalog.trusted() == {FIRST.id: FIRST}
    source.now += 2.0
    with pytest.raises(CannotVerifyPrice, match="timeout: OpenRouter fell silent"):
        await source.catalog.trusted()
    assert await source.catalog.models() == [FIRST]
    assert not source.catalog.stale_since
    source.now += 300.0
    assert await source.catalog.models() == [FIRST]
    assert source.catalog.stale_since == 1000.0
    with pytest.raises(CannotVerifyPrice):
        await source.catalog.trusted()
    source.now = 1000.0 + 86_400.0
    assert await source.catalog.models() == [FIRST]
    source.now += 1.0
    with pytest.raises(Timeout):
        await source.catalog.models()
    assert source.catalog.known() == [FIRST]
    source.models = lambda: [SECOND]
    assert await source.catalog.models() == [SECOND]
    assert not source.catalog.stale_since


async def test_the_list_recovers_with_openrouter(source: Source) -> None:
    source.fail(down())
    with pytest.raises(CannotVerifyPrice):
        await source.catalog.trusted()
    source.models = lambda: [SECOND]
    assert await source.catalog.trusted() == {SECOND.id: SECOND}


@pytest.mark.parametrize("outcome", [Outcome.NEVER_SENT, Outcome.BAD_TLS])
async def test_a_connection_that_cannot_be_made_is_called_that(source: Source, outcome: Outcome) -> None:
    source.fail(Network("The name was not resolved.", outcome=outcome))
    with pytest.raises(Network) as caught:
        await source.catalog.trusted()
    assert caught.value.outcome is outcome


async def test_a_connection_that_broke_leaves_the_price_unverified(source: Source) -> None:
    source.fail(Network("The connection broke."))
    with pytest.raises(CannotVerifyPrice):
        await source.catalog.trusted()


@pytest.mark.parametrize("reply", [{"data": []}, {"data": [{}]}, {}, None], ids=str)
async def test_an_empty_list_never_replaces_a_good_one(source: Source, reply: object) -> None:
    await source.catalog.models()
    source.models = lambda: read_models(reply)
    source.now += 601.0
    assert await source.catalog.models() == [FIRST]
    assert source.catalog.stale_since == 1000.0
    with pytest.raises(CannotVerifyPrice, match="bad_reply"):
        await source.catalog.trusted()
    assert source.catalog.known() == [FIRST]
