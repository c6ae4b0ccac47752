"""The archive on a Redis or Valkey server, so that every replica has the answers. Each method runs one script there."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from openrouter_mcp.archive.entry import (
    KEPT_S,
    MOST_ANSWERS,
    MOST_BYTES,
    Archive,
    Entry,
    read_entry,
    read_kept,
    write_facts,
    write_plan,
)
from openrouter_mcp.plans import Kept, Plan, State
from openrouter_mcp.text import encodable
from openrouter_mcp.transcript import Answer

if TYPE_CHECKING:  # its library is an extra
    from openrouter_mcp.engine import Engine

_KEPT_S = int(KEPT_S)  # after the last word of it, whatever our clocks say
_WHOLE = -1


class RedisArchive(Archive):
    """What `engine` keeps, which is its opener's to close. What each method does stands at `Archive`.

    Raises:
        UnusableBook: from every method, when the engine is away.
    """

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._script = files(__package__).joinpath("archive.lua").read_text("utf-8")
        self._written: dict[str, int] = {}  # how many pages there are, of what is written here

    def _run(self, method: str, *arguments: str | float) -> Any:  # noqa: ANN401 - what a script says
        return self._engine.run(self._script, method, *arguments)

    def close(self) -> None:
        self._written.clear()

    def count(self) -> int:
        return int(self._run("count"))

    # --- answers

    def save(self, entry: Entry, pages: Sequence[str], size: int) -> bool:
        id_ = entry.answer.id
        written = self._written.pop(id_, None)
        said = _WHOLE if written is None else self._save(entry, pages, size, max(0, written - 1), {})
        if said == _WHOLE:
            constant: dict[str, str | float] = {
                "at": entry.at, "owner": entry.owner, "caller": entry.caller, "parent": entry.parent,
                "process": entry.process, "batch": entry.batch, "question": entry.question,
                "system": encodable(entry.system), "prompt": encodable(entry.prompt),
            }  # fmt: skip
            said = self._save(entry, pages, size, 0, constant)
        if entry.answer.running:
            self._written[id_] = len(pages)
        return bool(said)

    def _save(
        self, entry: Entry, pages: Sequence[str], size: int, unsent: int, constant: dict[str, str | float]
    ) -> int:
        fields = [part for field in constant.items() for part in field]
        size += len(entry.system) + len(entry.prompt)
        facts = write_facts(entry.answer)
        told = (entry.answer.id, _KEPT_S, entry.seen, facts, size, len(pages), unsent, len(constant))
        return int(self._run("save", *told, *fields, *pages[unsent:]))

    def find(self, id_: str, owners: Sequence[str], caller: str) -> Entry | None:
        row = self._run("find", caller, id_, *owners)
        return read_entry(row, caller) if row else None

    def same(self, question: str, owners: Sequence[str], caller: str, since: float) -> list[Entry]:
        rows = self._run("same", caller, question, since, *owners)
        return [entry for row in rows if (entry := read_entry(row, caller))]

    def newest(self, owners: Sequence[str], caller: str, count: int) -> list[Entry]:
        rows = self._run("newest", caller, count, *owners)
        return [entry for row in rows if (entry := read_entry(row, caller))]

    def pages(self, id_: str) -> int:
        return int(self._run("pages", id_))

    def page(self, id_: str, number_: int) -> str:
        return str(self._run("page", id_, number_) or "")

    def text(self, id_: str) -> str:
        return "".join(self._run("text", id_))

    def forget(self, id_: str) -> None:
        self._run("forget", id_)

    def stop(self, id_: str) -> None:
        self._run("stop", id_)

    def tidy(self, now: float) -> None:
        self._run("tidy", now - KEPT_S, MOST_ANSWERS, MOST_BYTES)

    # --- batches

    def save_plan(self, plan: Plan) -> None:
        self._run("save_plan", plan.id, _KEPT_S, plan.owner, plan.caller, plan.at, write_plan(plan))

    def note(self, id_: str, rows: Mapping[int, Answer]) -> None:
        said = [part for place, answer in rows.items() for part in (place, write_facts(answer))]
        self._run("note", id_, _KEPT_S, *said)

    def settle(self, id_: str, state: State) -> None:
        self._run("settle", id_, state.value)

    def find_plan(self, id_: str, owners: Sequence[str], caller: str) -> Kept | None:
        row = self._run("find_plan", caller, id_, *owners)
        return _kept(row) if row else None

    def newest_plans(self, owners: Sequence[str], caller: str, since: float) -> list[Kept]:
        rows = self._run("newest_plans", caller, since, *owners)
        return [kept for row in rows if (kept := _kept(row))]

    def left_open(self, owners: Sequence[str], caller: str, since: float) -> list[str]:
        return [str(id_) for id_ in self._run("left_open", caller, since, *owners)]

    def is_stopped(self, id_: str) -> bool:
        return bool(self._run("is_stopped", id_))


def _kept(row: Sequence[Any]) -> Kept | None:
    id_, state, plan, rows = row
    return read_kept(id_, state, plan, zip(rows[::2], rows[1::2], strict=True))
