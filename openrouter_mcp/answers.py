"""Answers by their ids: read page by page, listed, continued, also when another process wrote them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import anyio

from openrouter_mcp.archive.entry import Entry
from openrouter_mcp.chat import ChatRequest, Turn, fingerprint
from openrouter_mcp.errors import InvalidRequest, UnknownAnswer
from openrouter_mcp.keeping import Keeping
from openrouter_mcp.ledger.allowance import Ledger
from openrouter_mcp.pages import Text
from openrouter_mcp.text import duration
from openrouter_mcp.transcript import Answer, Draft
from openrouter_mcp.wire import Image
from openrouter_mcp.writing import Watch, Writing

_DEAD_AFTER = 6  # heartbeats without one: the process that wrote the answer is gone
_LONGEST_CONVERSATION = 200  # turns


@dataclass(frozen=True)
class View:
    """One page of an answer, as far as it is; what it is doing while it is written, and whether that is elsewhere."""

    answer: Answer
    text: str
    page: int = 1
    pages: int = 1
    doing: str = ""
    elsewhere: bool = False
    images: Sequence[Image] = ()


@dataclass(frozen=True)
class Listed:
    """An answer in a list: its age in seconds, and whether another process wrote it or does."""

    entry: Entry
    age_s: float
    elsewhere: bool


@dataclass(frozen=True)
class Conversation:
    """What was said up to an answer, oldest turn first; `lost`: what came before is no longer kept."""

    turns: tuple[Turn, ...]
    system: str
    last: Answer
    lost: bool

    @property
    def model(self) -> str:
        """Who is to go on if nobody else is named."""
        return self.last.served if self.last.served in self.last.models else next(iter(self.last.models), "")


class Answers:
    """Finds what `writing` writes and `keeping` keeps. An answer serves for the same request for `repeat_s` seconds;
    `wall` gives epoch seconds."""

    def __init__(
        self,
        writing: Writing,
        keeping: Keeping,
        ledger: Ledger,
        *,
        repeat_s: float = 0.0,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._repeat_s = repeat_s
        self.writing = writing
        self._keeping = keeping
        self._ledger = ledger
        self._wall = wall

    def view(self, draft: Draft) -> View:
        """The first page of an answer that was just asked for."""
        pages = list(draft.text)
        view = _view(draft.answer, pages[:1], 1, len(pages), self.writing.doing(draft))
        return replace(view, images=draft.images)

    async def repeated(self, request: ChatRequest, caller: str = "") -> Draft | None:
        """The whole answer that `caller` got to the very same request lately, where the user wants that: it costs
        nothing."""
        question = fingerprint(request) if self._repeat_s else ""
        if not question:
            return None
        since = self._wall() - self._repeat_s
        for entry in await self._keeping.same(question, await self._ledger.owners(), caller, since):
            if entry.answer.status == "complete" and not entry.answer.warning and not entry.answer.invalid:
                return await self.draft(_again(entry.answer, self._wall() - entry.at))
        return None

    async def draft(self, answer: Answer) -> Draft:
        """A kept answer with its text."""
        pages = [await self._keeping.page(answer.id, page + 1) for page in range(await self._keeping.pages(answer.id))]
        return Draft(answer, Text.of(pages))

    async def read(self, id_: str, page: int, watch: Watch, *, wait_s: float, caller: str = "") -> View:
        """Page `page` of an answer, after at most `wait_s` seconds if it is still being written.

        Raises:
            UnknownAnswer: when none of that id is `caller`'s.
            InvalidRequest: when there is no such page.
        """
        limit = min(wait_s, self.writing.patience(watch))
        running = self.writing.running(caller).get(id_)
        if running:
            await self.writing.until([running], watch, limit)
            pages = list(running.draft.text)
            return _view(
                running.draft.answer, pages[page - 1 : page], page, len(pages), self.writing.doing(running.draft)
            )
        entry = await self._kept(id_, caller)
        said = 0.0
        with anyio.move_on_after(limit):
            while entry.answer.running:  # in another process
                if watch.wanted:
                    said += self.writing.waits.poll
                    await watch.report(
                        said, f"{entry.answer.asked}: written in another process, {said:.0f} s (id {id_})"
                    )
                await anyio.sleep(self.writing.waits.poll)
                entry = await self._kept(id_, caller)
        count, text = await self._keeping.pages(id_), await self._keeping.page(id_, page)
        view = _view(entry.answer, [text] if text else [], page, count, "")
        return replace(view, elsewhere=entry.answer.running)

    async def newest(self, count: int, caller: str = "") -> list[Listed]:
        """The caller's latest answers but those in batches, newest first."""
        running = {
            id_: replace(each.entry, answer=each.draft.answer)
            for id_, each in self.writing.running(caller).items()
            if not each.entry.batch
        }
        kept = await self._keeping.newest(await self._ledger.owners(), caller, count)
        found = {entry.answer.id: self._as_it_is(entry) for entry in kept} | running
        newest = sorted(found.values(), key=lambda entry: -entry.at)[:count]
        return [
            Listed(entry, max(0.0, self._wall() - entry.at), elsewhere=entry.process != self.writing.process)
            for entry in newest
        ]

    async def stop(self, id_: str, caller: str = "") -> None:
        """Stop an answer that is being written, here or in another process.

        Raises:
            UnknownAnswer: when none of that id is `caller`'s.
        """
        running = self.writing.running(caller).get(id_)
        if running:
            await self.writing.stop(running)
        elif (await self._kept(id_, caller)).answer.running:
            await self._keeping.stop(id_)

    async def conversation(self, id_: str, caller: str = "") -> Conversation:
        """What was said up to and in the answer `id_`.

        Raises:
            UnknownAnswer: when none of that id is `caller`'s.
            InvalidRequest: when it is still being written, or has no text.
        """
        last = entry = await self._kept(id_, caller)
        if entry.answer.running:
            raise InvalidRequest(f"Answer {id_} is still being written. read_answer(id={id_!r}) waits for it.")
        turns = [await self._turn(entry)]
        if not turns[0].answer and not turns[0].calls:
            raise InvalidRequest(f"Answer {id_} has no text to continue from. Ask anew, without continue_from.")
        owners, seen = await self._ledger.owners(), {id_}
        while entry.parent and entry.parent not in seen and len(turns) < _LONGEST_CONVERSATION:
            before = await self._keeping.find(entry.parent, owners, caller)
            if before is None:
                break
            seen.add(entry.parent)
            turns.insert(0, await self._turn(before))
            entry = before
        return Conversation(tuple(turns), last.system, last.answer, lost=bool(entry.parent))

    async def _turn(self, entry: Entry) -> Turn:
        answer = entry.answer
        return Turn(entry.prompt, await self._keeping.text(answer.id), tuple(answer.calls), answer.results)

    async def _kept(self, id_: str, caller: str) -> Entry:
        running = self.writing.running(caller).get(id_)
        if running:
            return replace(running.entry, answer=running.draft.answer)
        entry = await self._keeping.find(id_, await self._ledger.owners(), caller)
        if entry is None:
            raise UnknownAnswer(id_, self._keeping.away)
        return self._as_it_is(entry)

    def _as_it_is(self, entry: Entry) -> Entry:
        """What says that it is running, and shows no sign of life, is not."""
        seen = max(entry.seen, self._keeping.back_since)  # nobody could show life before
        silent = self._wall() - seen > _DEAD_AFTER * self.writing.waits.heartbeat
        if entry.answer.running and (silent or entry.process == self.writing.process):
            ended = replace(entry.answer, running=False, problem="its server ended before it was done")
            return replace(entry, answer=ended)
        return entry


def _again(answer: Answer, age_s: float) -> Answer:
    """An answer of some age, given once more for nothing."""
    note = (
        f"this answers the same question that was asked {duration(age_s)} ago; nothing was sent and nothing is used up"
    )
    free = replace(answer.usage, cost=Decimal(0))
    return replace(
        answer,
        usage=free,
        before=Decimal(0),
        held=Decimal(0),
        attempts=0,
        allowance="",
        age_s=age_s,
        note="; ".join(filter(None, [answer.note, note])),
    )


def _view(answer: Answer, text: Sequence[str], page: int, pages: int, doing: str) -> View:
    if page > max(1, pages):
        raise InvalidRequest(f"Answer {answer.id} has {pages} pages so far; page {page} is not one of them.")
    return View(answer, "".join(text), page, max(1, pages), doing)
