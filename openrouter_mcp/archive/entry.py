"""What is kept of answers and batches, and what every archive can do, whichever keeps them. Blocking.

They hold prompts: an archive is its user's alone, and everything in it names the account and the caller it is for. What
it says is read as data and nothing else.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from pydantic import TypeAdapter, ValidationError

from openrouter_mcp.plans import Kept, Plan, State
from openrouter_mcp.text import number, one_line
from openrouter_mcp.transcript import Answer
from openrouter_mcp.wire import amount

MOST_ANSWERS = 500
MOST_BYTES = 64 * 1024 * 1024
KEPT_S = 86_400.0
_FIRST_WORDS = 80  # characters of the question, in a list
_FACTS = TypeAdapter(Answer)
_PLAN = TypeAdapter(Plan)
# What an entry is read from, in this order, after its owner.
COLUMNS = ("parent", "at", "seen", "process", "system", "prompt", "facts", "batch", "question")


@dataclass(frozen=True)
class Entry:
    """An answer as it is kept: asked `at` (epoch seconds) by `caller` of the account `owner`, continuing `parent` if
    that is not empty, or a part of `batch`; last `seen` alive in `process` while it was written. `question` is the
    fingerprint of what was asked."""

    answer: Answer
    owner: str
    caller: str
    parent: str
    at: float
    seen: float
    process: str
    system: str
    prompt: str
    batch: str = ""
    question: str = ""

    @property
    def first_words(self) -> str:
        """Of the question."""
        return one_line(self.prompt, _FIRST_WORDS)


class Archive(Protocol):
    """Answers with their pages, and batches. Each method is one transaction. `owners` are an account's names."""

    def close(self) -> None:
        """Close it; what it keeps stays."""

    def count(self) -> int:
        """How many answers there are, whosever they are."""

    # --- answers

    def save(self, entry: Entry, pages: Sequence[str], size: int) -> bool:
        """Write what is new of an answer whose text has `size` characters by now; whether somebody wants it stopped."""

    def find(self, id_: str, owners: Sequence[str], caller: str) -> Entry | None:
        """The answer of that id, if it is `caller`'s and the account's, by whichever of its names."""

    def same(self, question: str, owners: Sequence[str], caller: str, since: float) -> list[Entry]:
        """The caller's answers to the same `question` asked `since` then, newest first."""

    def newest(self, owners: Sequence[str], caller: str, count: int) -> list[Entry]:
        """The caller's latest answers but those in batches, newest first."""

    def pages(self, id_: str) -> int:
        """How many pages the answer has."""

    def page(self, id_: str, number_: int) -> str:
        """One page, counted from 1."""

    def text(self, id_: str) -> str:
        """All pages."""

    def forget(self, id_: str) -> None:
        """Nothing is kept of the answer any more."""

    def stop(self, id_: str) -> None:
        """Ask the process that writes the answer to stop."""

    def tidy(self, now: float) -> None:
        """Forget what is older than a day, and the oldest of what is too many or too much."""

    # --- batches

    def save_plan(self, plan: Plan) -> None:
        """Keep a new batch; one that is kept already stays as it is."""

    def note(self, id_: str, rows: Mapping[int, Answer]) -> None:
        """What is known of some of its answers by now, by place; nothing where the batch is not kept."""

    def settle(self, id_: str, state: State) -> None:
        """It is done or stopped; what is one already does not become the other."""

    def find_plan(self, id_: str, owners: Sequence[str], caller: str) -> Kept | None:
        """The batch of that id, if it is `caller`'s and the account's."""

    def newest_plans(self, owners: Sequence[str], caller: str, since: float) -> list[Kept]:
        """The caller's batches `since` then, newest first."""

    def left_open(self, owners: Sequence[str], caller: str, since: float) -> list[str]:
        """The ids of the caller's batches `since` then that are still to be asked."""

    def is_stopped(self, id_: str) -> bool:
        """Whether somebody wants nothing more asked of it."""


def write_facts(answer: Answer) -> str:
    """What is known of the answer, but for its text, as JSON."""
    return _FACTS.dump_json(answer).decode()


def read_facts(facts: object) -> Answer | None:
    """The same as an answer again; None when it is not what it should be."""
    try:
        answer = _FACTS.validate_json(str(facts))
    except ValidationError:
        return None
    amounts = [amount(usd) for usd in (answer.held, answer.before, answer.usage.cost or Decimal(0))]
    return None if None in amounts else answer


def read_entry(row: Sequence[object], caller: str) -> Entry | None:
    """An owner and `COLUMNS` as what they should be; None for what is not."""
    owner, parent, at, seen, process, system, prompt, facts, batch, question = row
    answer = read_facts(facts)
    return None if answer is None else Entry(
        answer, str(owner), caller, str(parent), number(at) or 0.0, number(seen) or 0.0, str(process), str(system),
        str(prompt), str(batch), str(question),
    )  # fmt: skip


def write_plan(plan: Plan) -> str:
    """What is to be asked, as JSON."""
    return _PLAN.dump_json(plan).decode()


def read_kept(id_: object, state: object, plan: object, rows: Iterable[tuple[object, object]]) -> Kept | None:
    """A batch as it is kept, with the places and the facts of its `rows`; None when it is not what it should be."""
    try:
        said = _PLAN.validate_json(str(plan))
        facts = {int(str(place)): answer for place, written in rows if (answer := read_facts(written))}
        kept = Kept(said, State(str(state)), {place: one for place, one in facts.items() if place in said.places()})
    except (ValidationError, ValueError):
        return None
    return kept if said.id == id_ and said.prompts and number(said.at) is not None else None
