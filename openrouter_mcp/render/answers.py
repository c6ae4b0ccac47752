"""Answers as text: whole, in pages, side by side, in a list."""

from collections.abc import Sequence

from openrouter_mcp.answers import Listed, View
from openrouter_mcp.errors import OpenRouterMCPError
from openrouter_mcp.plans import Kept
from openrouter_mcp.render import pieces
from openrouter_mcp.render.reply import Reply, table
from openrouter_mcp.text import duration


def error(failure: OpenRouterMCPError) -> Reply:
    """What went wrong, and what to do."""
    record: dict[str, object] = {"status": "error", "code": failure.code, "retry_after_s": failure.hint_s}
    record |= {"attempts": failure.attempts} | ({"model": failure.model} if failure.model else {})
    return Reply(str(failure), record, is_error=True)


def answer(view: View) -> Reply:
    """A warning if there is one, the text, a mark where it is not whole, a footer line, and how to read on."""
    answer = view.answer
    facts = pieces.record(answer) | {"page": view.page, "pages": view.pages}
    facts |= pieces.parsed(answer, [view.text] if view.pages == 1 else [])
    if answer.code:
        left = f" ({answer.allowance})" if answer.allowance else ""
        return Reply(answer.problem + left, facts, is_error=True)
    first, last = view.page == 1, view.page == view.pages
    parts = [
        *(pieces.marks(answer) if first else []),
        pieces.reasoning(answer) if first else "",
        view.text,
        *(pieces.around(answer) if last else []),
        f"[incomplete: {answer.problem}]" if answer.problem and (first or last) else "",
        f"[note: {answer.note}]" if answer.note and first else "",
        _still_writing(view) if answer.running else f"[{pieces.footer(answer)}]" if first else "",
        "" if last else f"[page {view.page} of {view.pages}; {pieces.read(answer, page=view.page + 1)} has the next]",
    ]
    return Reply("\n\n".join(filter(None, parts)), facts, images=view.images)


def answers(listed: Sequence[Listed], batches: Sequence[tuple[Kept, float]] = ()) -> Reply:
    """The newest answers and batches, a line each."""
    if not listed and not batches:
        return Reply("No answers are kept: nothing was asked in the last day.", {"rows": []})
    rows = [*(pieces.batch_line(kept, age_s) for kept, age_s in batches), *map(_line, listed)]
    text = table([["id", "model", "state", "age", "question"], *rows])
    records = [pieces.batch_record(kept) for kept, _ in batches]
    records += [pieces.record(one.entry.answer) for one in listed]
    return Reply(f"Your newest answers; read_answer(id=...) reads one.\n\n{text}", {"rows": records})


def _line(one: Listed) -> list[str]:
    entry = one.entry
    return [entry.answer.id, pieces.name(entry.answer) or "-", _state(one), duration(one.age_s), entry.first_words]


def _state(one: Listed) -> str:
    status = one.entry.answer.status
    return f"{status} in another process" if one.elsewhere and one.entry.answer.running else status


def _still_writing(view: View) -> str:
    answer = view.answer
    if view.elsewhere:
        return f"[still writing, in another process of this server; {pieces.read(answer)} waits for more]"
    return f"[still writing: {view.doing}; {pieces.read(answer)} waits for more]"
