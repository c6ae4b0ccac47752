"""Which model suits: ranks catalogue entries for a task, best first. Pure."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum

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
_GOES_SOON_DAYS = 3
_ENOUGH_CALLS = 2  # fewer failures say nothing of a model


class Task(StrEnum):
    """What a model is wanted for."""

    ANY = ""
    CODE = "code"
    REASONING = "reasoning"
    WRITING = "writing"
    TRANSLATION = "translation"
    VISION = "vision"
    LONG = "long"
    FAST = "fast"


@dataclass(frozen=True)
class Aim:
    """A task; of a translation, the language if it is known."""

    task: Task = Task.ANY
    language: str = ""


@dataclass(frozen=True)
class Health:
    """How our own calls to a model went lately: how many, how many failed, tokens a second."""

    asked: int = 0
    failed: int = 0
    tokens_per_s: float | None = None

    @property
    def is_poor(self) -> bool:
        """Whether half of the calls failed, and more than one."""
        return self.failed >= _ENOUGH_CALLS and 2 * self.failed >= self.asked


@dataclass(frozen=True)
class Seen:
    """What is known of the models besides the catalogue: those left alone for a while, with the seconds, how calls went
    lately, and which day it is (UTC)."""

    cooling: Mapping[str, float] = field(default_factory=dict)
    health: Mapping[str, Health] = field(default_factory=dict)
    today: date | None = None


NOTHING = Seen()
_UNASKED = Health()
ANYTHING = Aim()


def ranked(models: Iterable[Model], aim: Aim = ANYTHING, seen: Seen = NOTHING) -> list[Model]:
    """Those that read and write text, and pictures where the task is to look, best first: those that can be relied on,
    then by OpenRouter's published index for the task, or what else it takes, then the context, then the newest. Ids
    rotate weekly, so none is known here."""
    able = (model for model in models if _converses(model) and (aim.task is not Task.VISION or _looks(model)))
    return sorted(
        able,
        key=lambda model: (
            _doubts(model, seen),
            *(-merit for merit in _merits(model, aim, seen)),
            -(model.context_length or 0),
            -model.created,
            model.id,
        ),
    )


def free_ranked(
    models: Iterable[Model], avoid: Container[str] = (), aim: Aim = ANYTHING, seen: Seen = NOTHING
) -> list[Model]:
    """The free models that read and write text, best first, without those in `avoid`."""
    return ranked((model for model in models if _can_be_asked(model) and model.id not in avoid), aim, seen)


def free_for(
    request: ChatRequest, models: Iterable[Model], avoid: Container[str] = (), seen: Seen = NOTHING
) -> list[Model]:
    """The free models that can read `request` and answer it, best first, no two of one family; where there are any,
    those that may write as much as it wants."""
    need = tokens(*request.texts) + request.max_tokens
    able = [model for model in free_ranked(models, avoid, seen=seen) if can(model, request)]
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


def strength(model: Model, task: Task) -> float | None:
    """OpenRouter's published index for the task: that of coding for code, else that of intelligence. None where there
    is none: https://openrouter.ai/docs/guides/overview/models."""
    analysis = (model.benchmarks or {}).get("artificial_analysis")
    index = "coding_index" if task is Task.CODE else "intelligence_index"
    return number(analysis.get(index) if isinstance(analysis, Mapping) else None)


def days_left(model: Model, seen: Seen) -> int | None:
    """Days until the model may be taken away, negative when it may be gone; None when nothing is announced."""
    if seen.today is None or not model.expiration_date:
        return None
    try:
        return (date.fromisoformat(model.expiration_date[:10]) - seen.today).days
    except ValueError:
        return None


def why_first(model: Model, aim: Aim, seen: Seen) -> str:
    """In a few words, why `model` stands before those after it."""
    index, speed = strength(model, aim.task), seen.health.get(model.id, _UNASKED).tokens_per_s
    measured = "" if index is None else f"{'coding' if aim.task is Task.CODE else 'intelligence'} index {index:g}"
    reasons = {
        Task.REASONING: "it reasons" if "reasoning" in model.supported_parameters else "",
        Task.TRANSLATION: f"its description names {aim.language}" if _names(model, aim.language) else "",
        Task.LONG: f"it reads {model.context_length:,} tokens" if model.context_length else "",
        Task.FAST: f"{speed:.0f} tokens a second here lately" if speed else "no speed was seen yet",
    }
    return "; ".join(filter(None, [reasons.get(aim.task, ""), measured])) or "no published index tells them apart"


def _merits(model: Model, aim: Aim, seen: Seen) -> tuple[float, ...]:
    """What the order goes by, the weightiest first."""
    general = strength(model, Task.ANY) or 0.0
    match aim.task:
        case Task.CODE:
            return (strength(model, Task.CODE) or 0.0, general)
        case Task.REASONING:
            return (float("reasoning" in model.supported_parameters), general)
        case Task.TRANSLATION:
            return (float(_names(model, aim.language)), general)
        case Task.LONG:
            return (model.context_length or 0, general)
        case Task.FAST:
            return (seen.health.get(model.id, _UNASKED).tokens_per_s or 0.0, general)
    return (general,)


def _doubts(model: Model, seen: Seen) -> int:
    """How little it can be relied on right now: 0 for a model with nothing against it."""
    days = days_left(model, seen)
    if days is not None and days < 0:
        return 3
    if model.id in seen.cooling:
        return 2
    goes_soon = days is not None and days < _GOES_SOON_DAYS
    return int(goes_soon or seen.health.get(model.id, _UNASKED).is_poor)


def _names(model: Model, language: str) -> bool:
    """Whether the model's own description names the language."""
    return bool(language) and language.casefold() in f"{model.name} {model.description}".casefold()


def _can_be_asked(model: Model) -> bool:
    return is_free(model) and not model.alias_target and MODEL_ID.fullmatch(model.id) is not None


def _converses(model: Model) -> bool:
    return "text" in model.architecture.input_modalities and "text" in model.architecture.output_modalities


def _looks(model: Model) -> bool:
    return "image" in model.architecture.input_modalities
