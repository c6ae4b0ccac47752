"""Batches: how far they are, and their answers in order."""

from decimal import Decimal

from openrouter_mcp.pages import PAGE
from openrouter_mcp.plans import Kept, State
from openrouter_mcp.render import pieces
from openrouter_mcp.render.reply import Reply, table
from openrouter_mcp.results import Batch
from openrouter_mcp.text import duration, one_line, usd
from openrouter_mcp.transcript import Draft

_FIRST_WORDS = 60  # of a prompt, characters
_HEAD = ["prompt", *pieces.HEAD]


def batch(found: Batch) -> Reply:
    """How far it is, a table of this page's prompts, their answers each cut to its share of a page, and how to read on.
    An error only when no prompt has or may yet have an answer."""
    kept, shown = found.kept, {place: draft for place, draft in found.drafts.items() if draft}
    first = {place: kept.plan.first(place) for place in found.drafts}
    lines = [[f"{place + 1}", *_row(draft, place, first[place])] for place, draft in shown.items()]
    own = [(place, draft) for place, draft in shown.items() if first[place] == place or first[place] not in shown]
    share = PAGE // max(1, len(own))
    sections = [f"## {place + 1}. {_prompt(kept, place)}\n\n{pieces.section(draft, share)}" for place, draft in own]
    status, code = _status(found)
    parts = [
        f"{code}: {_how_far(found)}" if code else _how_far(found),
        table([_HEAD, *lines]) if lines else "",
        *sections,
        f"[{_footer(kept)}]",
        f"[page {found.page} of {found.pages}; {_read(found, found.page + 1)} has the next]"
        if found.page < found.pages
        else "",
    ]
    rows = [
        pieces.record(draft.answer) | pieces.parsed(draft.answer, list(draft.text)) | {"prompt": place + 1}
        for place, draft in shown.items()
    ]
    record = pieces.batch_record(kept) | {"status": status, "page": found.page, "pages": found.pages, "rows": rows}
    record |= {"to_go_s": None if found.to_go is None else round(found.to_go)} | ({"code": code} if code else {})
    return Reply("\n\n".join(filter(None, parts)), record, is_error=bool(code))


def _status(found: Batch) -> tuple[str, str]:
    """How it stands; and if nothing came of it, why."""
    kept = found.kept
    codes = {row.code for row in kept.settled.values()}
    if kept.state is State.STOPPED:
        return "cancelled", ""
    if kept.state is State.OPEN:
        return "running" if found.asking else "partial", ""
    if "" in codes:
        return "complete", ""
    return "error", codes.pop() if len(codes) == 1 else "upstream"


def _how_far(found: Batch) -> str:
    kept, read = found.kept, _read(found, found.page)
    count = pieces.batch_count(kept)
    if kept.state is State.STOPPED:
        return f"Batch {kept.plan.id} was stopped: {count}."
    if kept.state is State.DONE:
        return f"Batch {kept.plan.id} is done: {count}."
    if not found.asking:
        return f"Batch {kept.plan.id} is waiting for a server that may go on with it: {count}. {read} tries."
    if found.to_go is None:
        return f"Batch {kept.plan.id} is being asked in another process: {count}. {read} waits for more."
    return f"Batch {kept.plan.id} is being asked: {count}, about {duration(found.to_go)} to go. {read} waits for more."


def _row(draft: Draft, place: int, first: int) -> list[str]:
    row = pieces.row(draft.answer)
    return row if place == first else [f"the same as {first + 1}", *["-"] * (len(row) - 2), row[-1]]


def _prompt(kept: Kept, place: int) -> str:
    return one_line(kept.plan.prompts[place], _FIRST_WORDS) or "(empty)"


def _footer(kept: Kept) -> str:
    rows = [*kept.rows.values()]
    unknown = sum(row.cost is None and not row.running and bool(row.held or (row.id and not row.code)) for row in rows)
    parts = [f"{usd(sum((row.cost or Decimal(0) for row in rows), Decimal(0)))} in all"]
    parts += [f"the cost of {unknown} is not known yet"] if unknown else []
    return ", ".join([*parts, *_latest([row.allowance for row in rows])])


def _latest(allowances: list[str]) -> list[str]:
    return [*filter(None, allowances)][-1:]


def _read(found: Batch, page: int) -> str:
    which = f", page={page}" if page > 1 else ""
    return f'read_answer(id="{found.kept.plan.id}"{which})'
