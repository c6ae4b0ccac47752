"""Models as a table."""

from collections.abc import Sequence

from openrouter_mcp.records import Model
from openrouter_mcp.render.reply import Reply, table
from openrouter_mcp.text import one_line

_ABILITIES = (("tools", "tools"), ("json", "structured_outputs"), ("reasoning", "reasoning"))


def free_models(models: Sequence[Model], *, matching: int, free: int) -> Reply:
    """A table of the free models, best first; `matching` of `free` fit the search, `models` are those shown."""
    if not models:
        return Reply(f"No free model matches; {free} are free right now. Leave out `search` to see them.", {"rows": []})
    lines = [["id", "context", "abilities", "until"], *(_model_row(model) for model in models)]
    narrow = "" if len(models) == matching else f" {matching - len(models)} more: raise `limit` or narrow by `search`."
    note = f"{len(models)} of {free} free models, best first; $0 per token.{narrow}"
    rows = [{"model": model.id, "context_length": model.context_length} for model in models]
    return Reply(f"{note}\n\n{table(lines)}", {"rows": rows})


def _model_row(model: Model) -> list[str]:
    abilities = [kind for kind in model.architecture.input_modalities if kind != "text"]
    abilities += [name for name, parameter in _ABILITIES if parameter in model.supported_parameters]
    context = f"{model.context_length // 1000}k" if model.context_length else "-"
    return [model.id, context, one_line(" ".join(abilities), 60) or "-", one_line(model.expiration_date, 10) or "-"]
