"""The rare fields of a request, each with its range, and what OpenRouter is sent for them. No I/O.

The ranges: https://openrouter.ai/docs/api-reference/parameters and .../guides/routing/provider-selection.
"""

import difflib
import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from openrouter_mcp.complaints import complaint
from openrouter_mcp.errors import InvalidRequest
from openrouter_mcp.text import one_line

_MOST_BIASES = 300
_MOST_TOOLS = 128
_MOST_COMPLAINTS = 3
_MOST_READ = 100  # of what is wrong
_DEEPEST = 64  # a schema of tools; serializers and providers give up at some depth
Json = dict[str, Any]
Names = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=100)], ...], Field(min_length=1, max_length=30)]
Quantization = Literal[
    "int4", "int8", "fp4", "mxfp4", "nvfp4", "fp6", "fp8", "mxfp8", "fp16", "bf16", "fp32", "unknown"
]  # fmt: skip
Usd = Annotated[Decimal, Field(ge=0, allow_inf_nan=False, max_digits=20)]


def _plain_json(schema: Json) -> Json:
    """`schema`, if it can be written as JSON that anybody can read."""
    level: list[object] = [schema]
    for _ in range(_DEEPEST):
        lists = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [part for parts in lists for part in parts]
    if level:
        raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
    try:
        json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError("it is not plain JSON") from None
    return schema


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MaxPrice(_Strict):
    """Dearer endpoints are refused. USD per million tokens in or out, per request."""

    prompt: Usd | None = Field(None, description="USD per million tokens in; only lowers what the budget allows")
    completion: Usd | None = Field(None, description="USD per million tokens out")
    request: Usd | None = Field(None, description="USD per request")


class Provider(_Strict):
    """Which of a model's providers may serve, and which is asked first."""

    order: Names | None = Field(None, description="provider slugs to try first, in this order")
    only: Names | None = Field(None, description="no others")
    ignore: Names | None = Field(None, description="never these")
    allow_fallbacks: bool | None = Field(None, description="false: if the first fails, no other is tried")
    require_parameters: bool | None = Field(None, description="true: only providers that heed every option sent")
    data_collection: Literal["allow", "deny"] | None = Field(
        None, description="deny: only providers that neither keep nor train on prompts"
    )
    zdr: bool | None = Field(None, description="true: only providers that retain nothing")
    quantizations: Annotated[tuple[Quantization, ...], Field(min_length=1)] | None = Field(
        None, description="only these precisions"
    )
    sort: Literal["price", "throughput", "latency", "exacto"] | None = Field(
        None, description="which provider first: cheapest, fastest, quickest to begin, best at tools"
    )
    preferred_min_throughput: Annotated[float, Field(gt=0)] | None = Field(None, description="tokens per second")
    preferred_max_latency: Annotated[float, Field(gt=0)] | None = Field(None, description="seconds to the first token")
    max_price: MaxPrice | None = Field(None, description="refuse dearer providers")


class Function(_Strict):
    """A function the model may call; nothing here runs it."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: Annotated[Json, AfterValidator(_plain_json)] | None = None
    strict: bool | None = None


class FunctionTool(_Strict):
    """The one kind of tool that may be offered: the others run at OpenRouter, and cost."""

    type: Literal["function"]
    function: Function


class NamedFunction(_Strict):
    """A function by its name."""

    name: Annotated[str, Field(min_length=1, max_length=64)]


class NamedTool(_Strict):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class ToolResult(_Strict):
    """What a call of the last answer came to."""

    tool_call_id: Annotated[str, Field(min_length=1, max_length=200)]
    content: str


Effort = Literal["max", "xhigh", "high", "medium", "low", "minimal", "none"]
Share = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class Options(_Strict):
    """How a model is to answer, beyond the question. What is None is left to the model."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="0 is steady, 2 is wild")
    top_p: Share | None = Field(None, description="choose among the likeliest tokens of this total probability")
    top_k: Annotated[int, Field(ge=0)] | None = Field(None, description="choose among so many tokens; 0: all")
    min_p: Share | None = Field(None, description="least probability, as a share of the likeliest token's")
    top_a: Share | None = Field(None, description="the same by the square of the likeliest token's")
    frequency_penalty: Penalty | None = Field(None, description="against tokens by how often they came")
    presence_penalty: Penalty | None = Field(None, description="against tokens that came at all")
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = Field(
        None, description="against those of the prompt"
    )
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = Field(
        None, description="the same seed, the same answer, where the provider can"
    )
    stop: Annotated[
        Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1, max_length=4)] | None,
        BeforeValidator(lambda stop: (stop,) if isinstance(stop, str) else stop),
    ] = Field(None, description="text that ends the answer, or up to four")
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^[0-9]{1,10}$")], Annotated[float, Field(ge=-100, le=100)]],
            Field(max_length=_MOST_BIASES),
        ]
        | None
    ) = Field(None, description="token number to bias")
    logprobs: bool | None = Field(None, description="true: each token's log-probability, in the record")
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(
        None, description="with logprobs: of so many others"
    )
    reasoning_effort: Effort | None = Field(None, description="how long a model that can reason does so")
    show_reasoning: bool = Field(default=False, description="true: the reasoning stands before the answer")
    verbosity: Literal["low", "medium", "high"] | None = Field(None, description="how wordy the answer is")
    fallbacks: Annotated[tuple[str, ...], Field(max_length=2)] = Field(
        (), description="up to two ids to try where the model fails before its first word"
    )
    provider: Provider | None = Field(None, description="which of the model's providers may serve")
    compress: bool | None = Field(None, description="true: cut the middle out of a prompt that is too long")
    web_search: Annotated[int, Field(ge=1, le=10)] | None = Field(
        None, description="search the web first, so many results; costs money, also with a free model"
    )
    cache: Literal["5m", "1h"] | None = Field(None, description="keep the prompt in the provider's cache so long")
    session: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None, description="requests of one name go to one provider"
    )
    tools: Annotated[tuple[FunctionTool, ...], Field(min_length=1, max_length=_MOST_TOOLS)] | None = Field(
        None, description="functions the model may call, as OpenAI writes them; its calls are returned, never run here"
    )
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = Field(
        None, description="whether, or which, a tool must be called"
    )
    tool_results: Annotated[tuple[ToolResult, ...], Field(min_length=1)] | None = Field(
        None, description="with continue_from: what the calls of that answer came to"
    )

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        return {name: one for name, one in value.items() if one is not None} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _together(self) -> "Options":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.tool_choice is not None and not self.tools:
            raise ValueError("tool_choice needs tools")
        names = [tool.function.name for tool in self.tools or ()]
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError(f"tool_choice names none of the tools: {one_line(', '.join(names), 200)}")
        return self

    @property
    def texts(self) -> list[str]:
        """What of it a model reads."""
        tools = [json.dumps(tool.model_dump(exclude_none=True)) for tool in self.tools or ()]
        return tools + [result.content for result in self.tool_results or ()]

    @property
    def needs(self) -> frozenset[str]:
        """What a model must be able to do for it, as the catalogue's `supported_parameters` names it."""
        reasons = self.reasoning_effort not in (None, "none")
        return frozenset(["tools"] * bool(self.tools or self.tool_results) + ["reasoning"] * reasons)

    @property
    def privacy(self) -> "Options":
        """What it demands of providers for privacy, and nothing else: for others who are shown the same."""
        said = self.provider or Provider.model_validate({})
        demands: Json = {"data_collection": "deny"} if said.data_collection == "deny" else {}
        demands |= {"zdr": True} if said.zdr else {}
        return Options.model_validate({"provider": demands}) if demands else NONE


NONE = Options.model_validate({})
# Not sent under their own names.
_SENT_OTHERWISE = {"reasoning_effort", "show_reasoning", "fallbacks", "provider", "compress", "web_search", "cache",
                   "session", "tool_results"}  # fmt: skip


def read(value: Json) -> Options:
    """The options an agent wrote.

    Raises:
        InvalidRequest: when one is unknown, of another type, or outside its range.
    """
    try:
        return Options.model_validate(value)
    except ValidationError as error:
        raise InvalidRequest(" ".join(islice(_complaints(error), _MOST_COMPLAINTS))) from error


def fields(options: Options) -> Json:
    """The fields of the request's body that say so, but for `provider`, `plugins` and `models`."""
    said = options.model_dump(mode="json", exclude=_SENT_OTHERWISE, exclude_none=True)
    if options.reasoning_effort is not None:
        said["reasoning"] = {"effort": options.reasoning_effort}
    if options.cache:
        said["cache_control"] = {"type": "ephemeral", "ttl": options.cache}
    if options.session:
        said["session_id"] = options.session
    return said


def provider(options: Options, max_price: Mapping[str, str], privacy: Mapping[str, object]) -> Json:
    """The `provider` of the body: what the options say, within `max_price` and no looser than `privacy`."""
    said: Json = options.provider.model_dump(mode="json", exclude_none=True) if options.provider else {}
    theirs = {name: f"{Decimal(limit):f}" for name, limit in said.pop("max_price", {}).items()}
    limits = {name: min(limit, theirs.get(name, limit), key=Decimal) for name, limit in max_price.items()}
    return {**said, **privacy, "max_price": limits}


def plugins(options: Options) -> list[Json]:
    """The `plugins` of the body. An account may switch the paid ones on for every request: they are off unless asked
    for."""
    search: Json = {"id": "web", "enabled": False}
    if options.web_search:
        search = {"id": "web", "enabled": True, "engine": "exa", "max_results": options.web_search}
    compression = [] if options.compress is None else [{"id": "context-compression", "enabled": options.compress}]
    return [search, {"id": "fusion", "enabled": False}, *compression]


def _complaints(error: ValidationError) -> Iterator[str]:
    each = [(_place(one["loc"]), one) for one in error.errors()[:_MOST_READ]]
    places, listed = [place for place, _ in each], False
    for number, (place, one) in enumerate(each):
        inside = any(other != place and other[: len(place)] == place for other in places)
        if inside or place in places[:number]:
            continue  # it only follows from another, or says it of another form
        if one["type"] == "extra_forbidden":
            known = list(_KINDS[tuple(part for part in place[:-1] if not part.isdigit())].model_fields)
            near = difflib.get_close_matches(place[-1][:60], known, n=1)
            meant = f" Did you mean {near[0]}?" if near else "" if listed else f" Known are {', '.join(known)}."
            listed = listed or not near  # once will do
            yield f"Unknown option {one_line('.'.join(place), 60)!r}.{meant}"
        else:
            yield complaint((one_line(".".join(["options", *place]), 80),), one["type"], one)


def _place(loc: tuple[int | str, ...]) -> tuple[str, ...]:
    """Where it is, without pydantic's words for the form it was read as, and for a key."""
    parts = [str(part) for part in loc]
    return tuple(part for at, part in enumerate(parts) if part != "[key]" and (at != 1 or parts[0] != "tool_choice"))


_KINDS: dict[tuple[str, ...], type[BaseModel]] = {
    (): Options,
    ("provider",): Provider,
    ("provider", "max_price"): MaxPrice,
    ("tools",): FunctionTool,
    ("tools", "function"): Function,
    ("tool_choice",): NamedTool,
    ("tool_choice", "function"): NamedFunction,
    ("tool_results",): ToolResult,
}
