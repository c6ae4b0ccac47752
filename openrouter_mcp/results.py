"""The results of batches: how far each is, its answers page by page in the prompts' order; waited for, stopped."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import anyio

from openrouter_mcp.answers import Answers
from openrouter_mcp.archive.entry import KEPT_S
from openrouter_mcp.asking import Asking, Parts
from openrouter_mcp.batch import Batches
from openrouter_mcp.callers import NOBODY, Caller
from openrouter_mcp.errors import InvalidRequest, UnknownAnswer
from openrouter_mcp.plans import Kept, State
from openrouter_mcp.text import duration
from openrouter_mcp.transcript import Answer, Draft
from openrouter_mcp.writing import Watch

PAGE = 10  # prompts


@dataclass(frozen=True)
class Batch:
    """A batch as far as it is, and page `page` of it: answers by the places of their prompts, None where there is none
    yet. Whether some process is `asking` it; if it is this one, the rest takes about `to_go` seconds."""

    kept: Kept
    page: int
    drafts: dict[int, Draft | None]
    asking: bool
    to_go: float | None = None

    @property
    def pages(self) -> int:
        """How many there are."""
        return -(-len(self.kept.plan.prompts) // PAGE)


class Results:
    """Finds what `batches` ask and the books keep."""

    def __init__(self, batches: Batches, answers: Answers, parts: Parts) -> None:
        self._batches = batches
        self._answers = answers
        self._parts = parts

    async def wait(self, id_: str, watch: Watch, *, caller: Caller = NOBODY) -> Batch:
        """The first page of a batch that was just begun, once it is done or as late as its client's patience lasts. A
        cancel stops it, unless it comes so late that it can be the client's time-out."""
        try:
            return await self.read(id_, 1, watch, wait_s=self._parts.writing.patience(watch), caller=caller)
        except anyio.get_cancelled_exc_class():
            if self._parts.writing.is_meant(watch) and not self._batches.leaving:
                with anyio.CancelScope(shield=True):
                    await self._batches.stop(id_)
            raise

    async def read(self, id_: str, page: int, watch: Watch, *, wait_s: float, caller: Caller = NOBODY) -> Batch:
        """Page `page` of a batch, after at most `wait_s` seconds if it is still asked.

        Raises:
            UnknownAnswer: when none of that id is `caller`'s.
            InvalidRequest: when there is no such page.
        """
        await self._batches.go_on(caller)
        kept = await self._kept(id_, caller)
        last = -(-len(kept.plan.prompts) // PAGE)
        if page > last:
            raise InvalidRequest(f"Batch {id_} has {last} pages; page {page} is not one of them.")
        async with anyio.create_task_group() as group:
            if watch.wanted:
                group.start_soon(self._tell, id_, watch, caller)
            with self._parts.writing.patient(min(wait_s, self._parts.writing.patience(watch))):
                await self._until_done(id_, caller)
            group.cancel_scope.cancel()
        return await self._page(id_, page, caller)

    async def stop(self, id_: str, caller: Caller = NOBODY) -> None:
        """Nothing more is asked of the batch.

        Raises:
            UnknownAnswer: when none of that id is `caller`'s.
        """
        await self._kept(id_, caller)
        await self._batches.stop(id_)

    async def newest(self, caller: Caller = NOBODY) -> list[tuple[Kept, float]]:
        """The caller's batches, newest first, with their ages in seconds."""
        owners, now = await self._parts.ledger.owners(), self._parts.wall()
        found = await self._parts.keeping.each(lambda archive: archive.newest_plans(owners, caller.name, now - KEPT_S))
        kept = {one.plan.id: self._by_now(one) for each in reversed(found) for one in each}.values()
        return [(one, max(0.0, now - one.plan.at)) for one in sorted(kept, key=lambda one: -one.plan.at)]

    # --- pieces -------------------------------------------------------------------------------------------------------

    async def _until_done(self, id_: str, caller: Caller) -> None:
        while (await self._kept(id_, caller)).state is State.OPEN:
            await self._batches.go_on(caller)  # its process may have ended meanwhile
            if id_ in self._batches.asked:
                await self._batches.wait(id_)
            elif await self._is_asked(id_):  # in another process
                await anyio.sleep(self._parts.writing.waits.poll)
            else:
                return

    async def _tell(self, id_: str, watch: Watch, caller: Caller) -> None:
        """Say how far it is, at once and then every few seconds, by a number that only rises."""
        said = 0.0
        while True:
            kept = await self._kept(id_, caller)
            done, asked = len(kept.settled), len([*kept.plan.places()])
            to_go = await self._to_go(self._batches.asked.get(id_))
            rest = "" if to_go is None else f", about {duration(to_go)} to go"
            said = max(said + 0.001, self._parts.clock() - watch.since)
            await watch.report(said, f"{done} of {asked} prompts done{rest} (id {id_})")
            await anyio.sleep(self._parts.writing.waits.progress)

    async def _page(self, id_: str, page: int, caller: Caller) -> Batch:
        is_asked = await self._is_asked(id_)  # before its state: what ends meanwhile is done
        kept = await self._kept(id_, caller)
        asking = self._batches.asked.get(id_)
        places = range(len(kept.plan.prompts))[(page - 1) * PAGE : page * PAGE]
        drafts = {place: await self._draft(kept, asking, kept.plan.first(place)) for place in places}
        return Batch(kept, page, drafts, is_asked, await self._to_go(asking))

    async def _is_asked(self, id_: str) -> bool:
        return id_ in self._batches.asked or await self._parts.ledger.promises.is_leased(id_)

    async def _draft(self, kept: Kept, asking: Asking | None, place: int) -> Draft | None:
        running = asking.under_way.get(place) if asking else None
        if running:
            return running.draft
        row = kept.settled.get(place)
        if row is None and kept.state is State.STOPPED:
            row = _stopped(kept, place)
        if row is None:
            return None
        return await self._answers.draft(row) if row.id else Draft(row)

    async def _to_go(self, asking: Asking | None) -> float | None:
        return await asking.seconds_to_go() if asking else None

    async def _kept(self, id_: str, caller: Caller) -> Kept:
        owners = await self._parts.ledger.owners()
        found: Sequence[Kept | None] = await self._parts.keeping.each(
            lambda archive: archive.find_plan(id_, owners, caller.name)
        )
        kept = next(filter(None, found), None) or self._asked_here(id_, caller)
        if kept is None or self._parts.wall() - kept.plan.at > KEPT_S:
            raise UnknownAnswer(id_, self._parts.keeping.away)
        return self._by_now(kept)

    def _asked_here(self, id_: str, caller: Caller) -> Kept | None:
        """It goes on, although what is kept of it cannot be read."""
        asking = self._batches.asked.get(id_)
        return asking.kept if asking and asking.plan.caller == caller.name else None

    def _by_now(self, kept: Kept) -> Kept:
        """With what this process knows and may not have written yet."""
        asking = self._batches.asked.get(kept.plan.id)
        rows: dict[int, Answer] = asking.rows if asking else {}
        return replace(kept, rows=kept.rows | rows)


def _stopped(kept: Kept, place: int) -> Answer:
    """What there is to say of a prompt that got no answer before the batch was stopped."""
    named = (kept.plan.request.model,) if kept.plan.request.model else ()
    begun = kept.rows.get(place)
    problem = "it was stopped with the batch" if begun else "it was not asked any more"
    return replace(begun or Answer(models=named), problem=problem, running=False, cancelled=True)
