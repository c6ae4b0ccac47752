"""Which model suits: ranks catalogue entries, best first. Pure."""

from collections.abc import Container, Iterable, Mapping

from openrouter_mcp.pricing import is_free
from openrouter_mcp.records import MODEL_ID, Model
from openrouter_mcp.text import number


def free_ranked(models: Iterable[Model], avoid: Container[str] = ()) -> list[Model]:
    """The free models that read and write text, best first, without those in `avoid`."""
    return ranked(model for model in models if _can_be_asked(model) and model.id not in avoid)


def ranked(models: Iterable[Model]) -> list[Model]:
    """Those that read and write text, best first: by OpenRouter's published intelligence index, then the context, then
    the newest. Ids rotate weekly, so none is known here."""
    return sorted(
        filter(_converses, models),
        key=lambda model: (-_intelligence(model), -(model.context_length or 0), -model.created, model.id),
    )


def able(models: Iterable[Model], *, prompt_tokens: int, max_tokens: int) -> list[Model]:
    """Those of `models` that can read the prompt; and of these, if there are any, those that may write as much."""
    readers = [model for model in models if (model.context_length or prompt_tokens) >= prompt_tokens]
    writers = [model for model in readers if (model.top_provider.max_completion_tokens or max_tokens) >= max_tokens]
    return writers or readers


def different_families(models: Iterable[Model], count: int) -> list[Model]:
    """The first `count` of `models`, no two by one author."""
    best: dict[str, Model] = {}
    for model in models:
        best.setdefault(model.family, model)
    return list(best.values())[:count]


def _can_be_asked(model: Model) -> bool:
    return is_free(model) and MODEL_ID.fullmatch(model.id) is not None


def _converses(model: Model) -> bool:
    return "text" in model.architecture.input_modalities and "text" in model.architecture.output_modalities


def _intelligence(model: Model) -> float:
    analysis = (model.benchmarks or {}).get("artificial_analysis")
    return number(analysis.get("intelligence_index") if isinstance(analysis, Mapping) else None) or 0.0
