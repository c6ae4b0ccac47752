"""Batches as they are kept: what is to be asked, and what came of each prompt. Blocking; in the answers' archive."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum

from pydantic import TypeAdapter, ValidationError

from openrouter_mcp.archive import Archive, read_facts, write_facts
from openrouter_mcp.chat import ChatRequest
from openrouter_mcp.text import number, one_line
from openrouter_mcp.transcript import Answer


class State(StrEnum):
    """How a batch stands: still to be asked, all of it asked, or stopped by whoever wanted it."""

    OPEN = ""
    DONE = "done"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Plan:
    """A batch: `prompts` to be asked as `request` is. `caller` of the account `owner` wants it, since `at` (epoch
    seconds), for at most `max_cost` USD (None: what the user's settings say); the person agreed to `agreed`."""

    id: str
    owner: str
    caller: str
    at: float
    request: ChatRequest
    prompts: tuple[str, ...]
    max_cost: Decimal | None
    agreed: Decimal

    def places(self) -> Iterator[int]:
        """The places of the prompts that are asked: the first of identical ones."""
        return (place for place in range(len(self.prompts)) if self.first(place) == place)

    def first(self, place: int) -> int:
        """The first place that has the same prompt."""
        return self.prompts.index(self.prompts[place])

    def question(self, place: int) -> ChatRequest:
        """What is asked for the prompt there."""
        return replace(self.request, prompt=self.prompts[place])


@dataclass(frozen=True)
class Kept:
    """A batch as far as it is: the facts of each answer that was begun, by the place of its prompt."""

    plan: Plan
    state: State
    rows: dict[int, Answer]

    @property
    def settled(self) -> dict[int, Answer]:
        """Those that will not be asked (again)."""
        return {place: row for place, row in self.rows.items() if not row.running}

    @property
    def first_words(self) -> str:
        """Of the first prompt."""
        return one_line(self.plan.prompts[0], 60)


_PLAN = TypeAdapter(Plan)
_COLUMNS = "id, state, plan"


def save(archive: Archive, plan: Plan) -> None:
    """Keep a new batch."""
    with archive.db as db:
        db.execute(
            "INSERT INTO plans (id, owner, caller, at, plan) VALUES (?, ?, ?, ?, ?)",
            (plan.id, plan.owner, plan.caller, plan.at, _PLAN.dump_json(plan).decode()),
        )


def note(archive: Archive, id_: str, rows: Mapping[int, Answer]) -> None:
    """What is known of some of its answers by now, by place; nothing where the batch is not kept."""
    with archive.db as db:
        db.executemany(
            "INSERT OR REPLACE INTO plan_rows (plan, place, facts) SELECT id, ?, ? FROM plans WHERE id = ?",
            [(place, write_facts(answer), id_) for place, answer in rows.items()],
        )


def settle(archive: Archive, id_: str, state: State) -> None:
    """It is done or stopped; what is one already does not become the other."""
    with archive.db as db:
        db.execute("UPDATE plans SET state = ? WHERE id = ? AND state = ?", (state, id_, State.OPEN))


def find(archive: Archive, id_: str, owners: Sequence[str], caller: str) -> Kept | None:
    """The batch of that id, if it is `caller`'s and the account's."""
    found = archive.db.execute(
        f"SELECT owner, {_COLUMNS} FROM plans WHERE id = ? AND caller = ?",  # noqa: S608 - our own names
        (id_, caller),
    ).fetchone()
    return _kept(archive, found[1:]) if found and found[0] in owners else None


def newest(archive: Archive, owners: Sequence[str], caller: str, since: float) -> list[Kept]:
    """The caller's batches `since` then, newest first."""
    rows = archive.db.execute(
        f"SELECT owner, {_COLUMNS} FROM plans WHERE caller = ? AND at > ? ORDER BY at DESC",  # noqa: S608 - our own names
        (caller, since),
    ).fetchall()
    return [kept for row in rows if row[0] in owners and (kept := _kept(archive, row[1:]))]


def left_open(archive: Archive, owners: Sequence[str], caller: str, since: float) -> list[str]:
    """The ids of the caller's batches `since` then that are still to be asked."""
    rows = archive.db.execute(
        "SELECT owner, id FROM plans WHERE caller = ? AND at > ? AND state = ?", (caller, since, State.OPEN)
    ).fetchall()
    return [str(id_) for owner, id_ in rows if owner in owners]


def is_stopped(archive: Archive, id_: str) -> bool:
    """Whether somebody wants nothing more asked of it."""
    row = archive.db.execute("SELECT state FROM plans WHERE id = ?", (id_,)).fetchone()
    return bool(row) and row[0] == State.STOPPED


def _kept(archive: Archive, row: tuple[object, ...]) -> Kept | None:
    """A row as what it should be; None for one that is not."""
    id_, state, plan = row
    rows = archive.db.execute("SELECT place, facts FROM plan_rows WHERE plan = ?", (id_,)).fetchall()
    try:
        said = _PLAN.validate_json(str(plan))
        facts = {int(place): answer for place, written in rows if (answer := read_facts(written))}
        kept = Kept(said, State(str(state)), {place: one for place, one in facts.items() if place in said.places()})
    except (ValidationError, ValueError):
        return None
    return kept if said.id == id_ and said.prompts and number(said.at) is not None else None
