"""Answers as text: whole, in pages, side by side, in a list."""

from collections.abc import Sequence

from openrouter_mcp.answers import Listed, View
from openrouter_mcp.errors import OpenRouterMCPError
from openrouter_mcp.likeness import alike
from openrouter_mcp.pages import PAGE
from openrouter_mcp.render.reply import Reply, table
from openrouter_mcp.text import duration, one_line, usd
from openrouter_mcp.transcript import Answer, Draft


def error(failure: OpenRouterMCPError) -> Reply:
    """What went wrong, and what to do."""
    record: dict[str, object] = {"status": "error", "code": failure.code, "retry_after_s": failure.hint_s}
    record |= {"attempts": failure.attempts} | ({"model": failure.model} if failure.model else {})
    return Reply(str(failure), record, is_error=True)


def answer(view: View) -> Reply:
    """A warning if there is one, the text, a mark where it is not whole, a footer line, and how to read on."""
    answer = view.answer
    facts = _record(answer) | {"page": view.page, "pages": view.pages}
    if answer.code:
        left = f" ({answer.allowance})" if answer.allowance else ""
        return Reply(answer.problem + left, facts, is_error=True)
    first, last = view.page == 1, view.page == view.pages
    parts = [
        f"[warning: {answer.warning}]" if answer.warning and first else "",
        view.text,
        f"[incomplete: {answer.problem}]" if answer.problem and (first or last) else "",
        f"[note: {answer.note}]" if answer.note and first else "",
        _still_writing(view) if answer.running else f"[{_footer(answer)}]" if first else "",
        "" if last else f"[page {view.page} of {view.pages}; {_read(answer, page=view.page + 1)} has the next]",
    ]
    return Reply("\n\n".join(filter(None, parts)), facts)


def answers(listed: Sequence[Listed]) -> Reply:
    """The newest answers, a line each."""
    if not listed:
        return Reply("No answers are kept: nothing was asked in the last day.", {"rows": []})
    rows = [
        [one.entry.answer.id, _name(one.entry.answer) or "-", _state(one), duration(one.age_s), one.entry.first_words]
        for one in listed
    ]
    text = table([["id", "model", "state", "age", "question"], *rows])
    return Reply(
        f"Your newest answers; read_answer(id=...) reads one.\n\n{text}",
        {"rows": [_record(one.entry.answer) for one in listed]},
    )


def comparison(drafts: Sequence[Draft]) -> Reply:
    """A table, then the answers under the models' names, each cut to its share of a page. An error only when no row
    has text or may yet have one."""
    rows = [draft.answer for draft in drafts]
    lines = [["model", "outcome", "seconds", "tokens", "tokens/s", "cost", "id"], *(_row(row) for row in rows)]
    share = PAGE // len(rows)
    sections = [f"## {_name(draft.answer)}\n\n{_section(draft, share)}" for draft in drafts]
    text = "\n\n".join([table(lines), *_likeness(drafts), *sections])
    if allowances := [row.allowance for row in rows if row.allowance]:
        text += f"\n\n[{allowances[-1]}]"
    records = [_record(row) for row in rows]
    if not all(row.code for row in rows):
        status = "running" if any(row.running for row in rows) else "complete"
        return Reply(text, {"status": status, "rows": records})
    codes = {row.code for row in rows}
    code = codes.pop() if len(codes) == 1 else "upstream"
    head = f"{code}: None of the {len(rows)} models answered; each says why below."
    return Reply(f"{head}\n\n{text}", {"status": "error", "code": code, "rows": records}, is_error=True)


# --- pieces ---------------------------------------------------------------------------------------------------------


def _record(row: Answer) -> dict[str, object]:
    """The stable names of design section 7; costs are decimal strings in USD."""
    facts: dict[str, object] = {
        "id": row.id,
        "status": row.status,
        "model": one_line(row.model, 200),
        "attempts": row.attempts,
    }
    if row.code:
        return facts | {"code": row.code, "retry_after_s": row.retry_after_s}
    return facts | {
        "provider": row.provider,
        "generation_id": row.generation_id,
        "finish_reason": row.finish_reason,
        "prompt_tokens": row.usage.prompt_tokens,
        "completion_tokens": row.usage.completion_tokens,
        "reasoning_tokens": row.usage.reasoning_tokens,
        "cost_usd": None if row.cost is None else f"{row.cost:f}",
        "seconds": round(row.seconds, 3),
        **({"warning": row.warning} if row.warning else {}),
    }


def _state(one: Listed) -> str:
    status = one.entry.answer.status
    return f"{status} in another process" if one.elsewhere and one.entry.answer.running else status


def _still_writing(view: View) -> str:
    answer = view.answer
    if view.elsewhere:
        return f"[still writing, in another process of this server; {_read(answer)} waits for more]"
    return f"[still writing: {view.doing}; {_read(answer)} waits for more]"


def _read(answer: Answer, *, page: int = 1) -> str:
    which = f", page={page}" if page > 1 else ""
    return f'read_answer(id="{answer.id}"{which})'


def _section(draft: Draft, share: int) -> str:
    """One answer of several: at most `share` characters of it."""
    answer, pages = draft.answer, list(draft.text)
    text = pages[0] if pages else ""  # a share is less than a page, but a page may be less than a share
    is_cut = len(text) > share or len(pages) > 1
    if answer.code:
        return answer.problem
    parts = [
        f"[warning: {answer.warning}]" if answer.warning else "",
        text[:share].rstrip(),
        f"[cut here; {_read(answer)} has all {draft.text.size} characters]" if is_cut else "",
        f"[incomplete: {answer.problem}]" if answer.problem else "",
        f"[still writing; {_read(answer)} waits for more]" if answer.running else "",
    ]
    return "\n\n".join(filter(None, parts))


def _likeness(drafts: Sequence[Draft]) -> list[str]:
    """Which answers say the same; of long ones, their first pages."""
    texts = ["" if draft.answer.running else next(iter(draft.text), "") for draft in drafts]
    names = [_name(draft.answer) for draft in drafts]
    lines = [
        f"{names[place]} says {'' if same else 'nearly '}word for word what {names[first]} does."
        for first, place, same in alike(texts)
    ]
    return ["\n".join(lines)] if lines else []


def _footer(answer: Answer) -> str:
    usage = answer.usage
    reasoning = f" ({usage.reasoning_tokens} of them reasoning)" if usage.reasoning_tokens else ""
    parts = [
        _name(answer) + (f" via {one_line(answer.provider, 60)}" if answer.provider else ""),
        f"{usage.prompt_tokens} in + {usage.completion_tokens} out tokens{reasoning}",
        f"{answer.seconds:.1f} s",
        _cost(answer),
    ]
    if answer.attempts > 1:
        parts.append(f"{answer.attempts} requests")
    if answer.allowance:
        parts.append(answer.allowance)
    return f"{', '.join(parts)}; id {answer.id}"


def _cost(answer: Answer) -> str:
    if answer.cost is not None:
        return usd(answer.cost)
    held = f", {usd(answer.held)} stays reserved until OpenRouter tells" if answer.held else ""
    return f"cost unknown{held}"


def _name(row: Answer) -> str:
    """The model that answered; where another was asked for, both."""
    if row.models and row.served not in ("", *row.models):
        return f"{one_line(row.served, 100)} (asked as {row.models[0]})"
    return one_line(row.model, 100)


def _row(row: Answer) -> list[str]:
    if row.code:
        return [_name(row), row.code, "-", "-", "-", "-", row.id or "-"]
    cost = "unknown" if row.cost is None else usd(row.cost)
    if row.running:
        return [_name(row), "still writing", "-", "-", "-", "-", row.id]
    tokens = row.usage.completion_tokens
    speed = f"{tokens / row.seconds:.0f}" if row.seconds else "-"
    return [_name(row), row.status, f"{row.seconds:.1f}", str(tokens), speed, cost, row.id]
