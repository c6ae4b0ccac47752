"""What results about answers are made of."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from openrouter_mcp.pages import PAGE
from openrouter_mcp.plans import Kept, State
from openrouter_mcp.schemas import bare
from openrouter_mcp.text import clean, duration, encodable, one_line, usd
from openrouter_mcp.transcript import Answer, Draft

_BATCH_STATUS = {State.OPEN: "running", State.DONE: "complete", State.STOPPED: "cancelled"}
HEAD = ["model", "outcome", "seconds", "tokens", "tokens/s", "cost", "id"]


def parsed(answer: Answer, pages: Sequence[str]) -> dict[str, object]:
    """The value of an answer that follows its schema, if it has one and is not longer than a page."""
    follows = answer.checked and not answer.invalid and not answer.running
    if not follows or len(pages) != 1:
        return {}
    value = json.loads(bare(pages[0]))
    return {"parsed": json.loads(encodable(json.dumps(value, ensure_ascii=False)))}  # halves of characters are no text


def record(answer: Answer) -> dict[str, object]:
    """The stable names of design section 7; costs are decimal strings in USD."""
    facts: dict[str, object] = {
        "id": answer.id,
        "status": answer.status,
        "model": one_line(answer.model, 200),
        "attempts": answer.attempts,
    }
    if answer.code:
        return facts | {"code": answer.code, "retry_after_s": answer.retry_after_s}
    facts |= {
        "provider": answer.provider,
        "generation_id": answer.generation_id,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.usage.prompt_tokens,
        "completion_tokens": answer.usage.completion_tokens,
        "reasoning_tokens": answer.usage.reasoning_tokens,
        "cost_usd": None if answer.cost is None else f"{answer.cost:f}",
        "seconds": round(answer.seconds, 3),
    }
    rare = {
        "warning": answer.warning,
        "refused": answer.refused,
        "tool_calls": [asdict(call) for call in answer.calls],
        "citations": [{"url": url, "title": title} for url, title in answer.citations],
        "logprobs": answer.logprobs,
    }
    if answer.checked:
        facts |= {"valid": not answer.invalid} | ({"invalid": answer.invalid} if answer.invalid else {})
    age = {} if answer.age_s is None else {"age_s": round(answer.age_s)}
    return facts | age | {name: value for name, value in rare.items() if value}


def read(answer: Answer, *, page: int = 1) -> str:
    """The call that reads it."""
    which = f", page={page}" if page > 1 else ""
    return f'read_answer(id="{answer.id}"{which})'


def marks(answer: Answer) -> list[str]:
    """What is to be known before the text is read."""
    return [
        f"[warning: {answer.warning}]" if answer.warning else "",
        f"[NOT VALID for the schema: {answer.invalid}]" if answer.invalid else "",
    ]


def reasoning(answer: Answer, most: int = PAGE) -> str:
    """What the model thought before it answered, where that is wanted."""
    said = answer.reasoning.strip()
    return f"[reasoning]\n{said[:most]}\n[end of the reasoning]" if said else ""


def around(answer: Answer) -> list[str]:
    """What comes with a text: a refusal's mark, the pages it cites, the tools it wants called."""
    cited = [f"[{place}] {title or url}: {url}" for place, (url, title) in enumerate(answer.citations, 1)]
    calls = [
        f"{one_line(call.name, 64)}({_on_one_line(call.arguments)}), id {one_line(call.id, 200)}"
        for call in answer.calls
    ]
    carry_on = (
        "[the model wants these tools called. Nothing was run: call them if you see fit, and go on with "
        f'ask_model(continue_from="{answer.id}", options={{"tools": ..., "tool_results": [{{"tool_call_id": ..., '
        '"content": ...}]})]'
    )
    return [
        "[the model refused]" if answer.refused else "",
        "\n".join(["Sources:", *cited]) if cited else "",
        "\n".join(["Tool calls:", *calls, carry_on]) if calls and not answer.running else "",
    ]


def _on_one_line(arguments: str) -> str:
    """JSON means the same without its line breaks; what is too long for a page stands in the record."""
    line = " ".join(clean(arguments[: PAGE + 1]).splitlines())
    return line if len(line) <= PAGE else f"{line[:PAGE]}... cut here, the record has all"


def section(draft: Draft, share: int) -> str:
    """One answer of several: at most `share` characters of it."""
    answer, pages = draft.answer, list(draft.text)
    text = pages[0] if pages else ""  # a share is less than a page, but a page may be less than a share
    is_cut = len(text) > share or len(pages) > 1
    if answer.code:
        return answer.problem
    parts = [
        *marks(answer),
        reasoning(answer, share // 2),
        text[:share].rstrip(),
        f"[cut here; {read(answer)} has all {draft.text.size} characters]" if is_cut else "",
        *around(answer),
        f"[incomplete: {answer.problem}]" if answer.problem else "",
        f"[note: {answer.note}]" if answer.note else "",
        f"[still writing; {read(answer)} waits for more]" if answer.running else "",
    ]
    return "\n\n".join(filter(None, parts))


def footer(answer: Answer) -> str:
    """Who answered, what it took, what is left, and the id."""
    usage = answer.usage
    reasoning = f" ({usage.reasoning_tokens} of them reasoning)" if usage.reasoning_tokens else ""
    parts = [
        name(answer) + (f" via {one_line(answer.provider, 60)}" if answer.provider else ""),
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


def name(answer: Answer) -> str:
    """The model that answered; where another was asked for, both."""
    if answer.models and answer.served not in ("", *answer.models):
        return f"{one_line(answer.served, 100)} (asked as {answer.models[0]})"
    return one_line(answer.model, 100)


def row(answer: Answer) -> list[str]:
    """One line of a table under `HEAD`."""
    if answer.code:
        return [name(answer), answer.code, "-", "-", "-", "-", answer.id or "-"]
    if answer.running:
        return [name(answer), "still writing", "-", "-", "-", "-", answer.id]
    tokens = answer.usage.completion_tokens
    speed = f"{tokens / answer.seconds:.0f}" if answer.seconds else "-"
    spent = "unknown" if answer.cost is None else usd(answer.cost)
    return [name(answer), answer.status, f"{answer.seconds:.1f}", str(tokens), speed, spent, answer.id]


def batch_count(kept: Kept) -> str:
    """How many of a batch's prompts are answered, and how many are not for some reason."""
    rows = [kept.settled.get(kept.plan.first(place)) for place in range(len(kept.plan.prompts))]
    answered, failures = sum(map(_is_answered, rows)), sum(bool(row and row.code) for row in rows)
    return f"{answered} of {len(rows)} answered" + (f", {failures} failed" if failures else "")


def _is_answered(row: Answer | None) -> bool:
    return row is not None and not row.code and not row.cancelled


def batch_record(kept: Kept) -> dict[str, object]:
    """A batch in a list, by the stable names."""
    rows = [kept.settled.get(kept.plan.first(place)) for place in range(len(kept.plan.prompts))]
    return {
        "id": kept.plan.id,
        "status": _BATCH_STATUS[kept.state],
        "model": kept.plan.request.model,
        "prompts": len(rows),
        "answered": sum(map(_is_answered, rows)),
        "failed": sum(bool(row and row.code) for row in rows),
    }


def batch_line(kept: Kept, age_s: float) -> list[str]:
    """A batch in a table of answers."""
    model = kept.plan.request.model or "free models"
    return [kept.plan.id, model, f"{_BATCH_STATUS[kept.state]}, {batch_count(kept)}", duration(age_s), kept.first_words]
