"""Answers side by side, and what a judge says of them."""

from collections.abc import Sequence

from openrouter_mcp.compare import Judged
from openrouter_mcp.judge import verdict
from openrouter_mcp.likeness import alike
from openrouter_mcp.pages import PAGE
from openrouter_mcp.render import pieces
from openrouter_mcp.render.reply import Reply, table
from openrouter_mcp.text import one_line
from openrouter_mcp.transcript import Draft

_REASON = 400  # characters


def comparison(drafts: Sequence[Draft], judged: Judged | None = None) -> Reply:
    """A table, what the judge says, then the answers under the models' names, each cut to its share of a page. An error
    only when no row has text or may yet have one."""
    rows = [draft.answer for draft in drafts]
    share = PAGE // (len(rows) + bool(judged))
    judged = None if all(row.code for row in rows) else judged  # there was nothing to judge
    said, ruling = _ruling(judged, share) if judged else ("", {})
    sections = [f"## {pieces.name(draft.answer)}\n\n{pieces.section(draft, share)}" for draft in drafts]
    text = "\n\n".join(filter(None, [table([pieces.HEAD, *map(pieces.row, rows)]), _likeness(drafts), said, *sections]))
    asked = [*rows, judged.draft.answer] if judged else rows
    if allowances := [answer.allowance for answer in asked if answer.allowance]:
        text += f"\n\n[{allowances[-1]}]"
    each = [pieces.record(draft.answer) | pieces.parsed(draft.answer, list(draft.text)) for draft in drafts]
    records = {"rows": each} | ({"judge": ruling} if judged else {})
    if not all(row.code for row in rows):
        return Reply(text, {"status": "running" if any(answer.running for answer in asked) else "complete", **records})
    codes = {row.code for row in rows}
    code = codes.pop() if len(codes) == 1 else "upstream"
    head = f"{code}: None of the {len(rows)} models answered; each says why below."
    return Reply(f"{head}\n\n{text}", {"status": "error", "code": code, **records}, is_error=True)


def _likeness(drafts: Sequence[Draft]) -> str:
    """Which answers say the same; of long ones, their first pages."""
    texts = ["" if draft.answer.running else next(iter(draft.text), "") for draft in drafts]
    names = [pieces.name(draft.answer) for draft in drafts]
    return "\n".join(
        f"{names[place]} says {'' if same else 'nearly '}word for word what {names[first]} does."
        for first, place, same in alike(texts)
    )


def _ruling(judged: Judged, share: int) -> tuple[str, dict[str, object]]:
    """The judge's section and its record."""
    answer = judged.draft.answer
    facts = pieces.record(answer)
    name = pieces.name(answer)
    if answer.code:
        return f"The judge gave no verdict, the comparison stands without it. {answer.problem}", facts
    if answer.running:
        return f"[{name} has not judged yet; {pieces.read(answer)} waits for its verdict]", facts
    said = verdict(str(judged.draft.text), [*judged.labels])
    if said is None:
        head = f"## What {name} said instead of a ranking"
        return f"{head}\n\n{pieces.section(judged.draft, share)}\n\n[{pieces.footer(answer)}]", facts
    ranking = [
        {"model": one_line(one.model, 200), "id": one.id, "reason": one_line(rank.reason, _REASON)}
        for rank in said.ranking
        for one in [judged.labels[rank.answer].answer]
    ]
    agree, differ = one_line(said.agree, _REASON), one_line(said.differ, _REASON)
    lines = [f"{place}. {row['model']}: {row['reason']}" for place, row in enumerate(ranking, 1)]
    lines += [f"They agree: {agree}"] if agree else []
    lines += [f"They differ: {differ}"] if differ else []
    head = f"## Ranked by {name}, which was not told whose they are"
    warning = f"[warning: {answer.warning}]" if answer.warning else ""
    text = "\n\n".join(filter(None, [head, warning, "\n".join(lines), f"[{pieces.footer(answer)}]"]))
    return text, facts | {"ranking": ranking, "agree": agree, "differ": differ}
