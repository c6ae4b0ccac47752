"""Which model suits: ranks catalogue entries, best first. Pure."""

from collections.abc import Container, Iterable, Mapping

from openrouter_mcp.chat import ChatRequest
from openrouter_mcp.pricing import is_free
from openrouter_mcp.records import MODEL_ID, Model
from openrouter_mcp.text import number, tokens

_IN_WORDS = {
    "tools": "call tools",
    "reasoning": "reason (reasoning_effort)",
    "response_format": "write JSON on demand",
    "structured_outputs": "keep to a schema",
    "image": "read pictures",
    "audio": "listen",
}


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


def free_for(request: ChatRequest, models: Iterable[Model], avoid: Container[str] = ()) -> list[Model]:
    """The free models that can read `request` and answer it, best first, no two of one family; where there are any,
    those that may write as much as it wants."""
    need = tokens(*request.texts) + request.max_tokens
    able = [model for model in free_ranked(models, avoid) if can(model, request)]
    readers = [model for model in able if (model.context_length or need) >= need]
    most = request.max_tokens
    writers = [model for model in readers if (model.top_provider.max_completion_tokens or most) >= most]
    return different_families(writers or readers)


def can(model: Model, request: ChatRequest) -> bool:
    """Whether `model` does all that the request needs."""
    return not lacking(model, request)


def lacking(model: Model, request: ChatRequest) -> list[str]:
    """What the request needs and `model` does not do, in words."""
    unread = request.kinds - {*model.architecture.input_modalities}
    lacks = [_IN_WORDS[need] for need in request.needs - {*model.supported_parameters}]
    return sorted([*lacks, *(_IN_WORDS[kind] for kind in unread)])


def different_families(models: Iterable[Model]) -> list[Model]:
    """The first of `models` by each author."""
    best: dict[str, Model] = {}
    for model in models:
        best.setdefault(model.family, model)
    return list(best.values())


def _can_be_asked(model: Model) -> bool:
    return is_free(model) and MODEL_ID.fullmatch(model.id) is not None


def _converses(model: Model) -> bool:
    return "text" in model.architecture.input_modalities and "text" in model.architecture.output_modalities


def _intelligence(model: Model) -> float:
    analysis = (model.benchmarks or {}).get("artificial_analysis")
    return number(analysis.get("intelligence_index") if isinstance(analysis, Mapping) else None) or 0.0
