"""Every failure raised on purpose. Its text is for the model that called: what happened, then what to do next.

The class says which failure it is, its attributes carry the facts, and `code` opens the text. Nothing here advises
an agent to weaken its user's policy, and nothing here ever holds the API key.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar, Self

from openrouter_mcp.text import duration, one_line


class Outcome(StrEnum):
    """What is known to have happened to one request: the rows of the retry table in `retry.decide`."""

    NEVER_SENT = "never sent"
    BAD_TLS = "certificate not trusted"
    MINUTE_LIMIT = "over the minute's limit"
    DAY_LIMIT = "over the day's limit"
    POOL_LIMIT = "the provider's shared pool is busy"
    IN_FLIGHT = "in-flight budget"
    REFUSED = "refused"
    FAILED = "failed upstream"
    LOST = "reply lost"
    BROKE = "broke after the first token"
    EMPTY = "no content"


class OpenRouterMCPError(Exception):
    """The root of the tree.

    `sent`: a request left the machine before it. `hint_s` is what OpenRouter said about waiting (seconds); `retryable`
    is its word on trying again at all; `alternatives` are ids of free models that could serve instead; `model` and
    `attempts` describe the call, and `allowance` says what it left of the day's free requests.
    """

    code: ClassVar[str] = "internal"
    advice: ClassVar[str] = ""
    outcome: Outcome = Outcome.REFUSED

    def __init__(
        self,
        text: str,
        *,
        outcome: Outcome | None = None,
        hint_s: float | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(text)
        self.text = text
        self.outcome = outcome or type(self).outcome
        self.hint_s = hint_s
        self.retryable = retryable
        self.alternatives: Sequence[str] = ()
        self.sent = False
        self.model = ""
        self.attempts = 0
        self.allowance = ""

    def __str__(self) -> str:
        parts = [f"{self.code}: {self.text}", self.advice]
        if self.hint_s is not None:
            parts.append(f"Try again in {duration(self.hint_s)}.")
        if self.alternatives:
            parts.append(f"Free alternatives: {', '.join(self.alternatives)}.")
        if self.allowance:
            parts.append(f"({self.allowance})")
        return " ".join(part for part in parts if part)

    def twin(self) -> Self:
        """The same failure for another caller, who notes facts of its own on it."""
        twin = type(self).__new__(type(self), *self.args)
        twin.__dict__.update(self.__dict__)
        return twin


class BadSetting(OpenRouterMCPError):
    """The environment or the command line says something we cannot follow; read by a person."""

    code = "bad_setting"


class UnusableBook(OpenRouterMCPError):
    """The shared book must be left alone; a warning for a person, never an answer to an agent."""

    code = "unusable_book"


class EngineAway(UnusableBook):
    """The server that keeps the shared books cannot be used now; it is tried again."""


class InvalidRequest(OpenRouterMCPError):
    """The arguments cannot be sent as they are."""

    code = "invalid_request"


class TooLarge(OpenRouterMCPError):
    """A prompt or a reply is over its limit."""

    code = "too_large"


class NoKey(OpenRouterMCPError):
    """No API key is set."""

    code = "no_key"

    def __init__(self) -> None:
        super().__init__(
            "OPENROUTER_API_KEY is not set, so nothing was sent. Ask the user to set OPENROUTER_API_KEY (or "
            "OPENROUTER_API_KEY_FILE) in this server's environment; keys are made at https://openrouter.ai/settings/keys."
        )


class BadKey(OpenRouterMCPError):
    """The key is malformed, or OpenRouter does not accept it."""

    code = "bad_key"
    advice = "Ask the user to check OPENROUTER_API_KEY; keys are made at https://openrouter.ai/settings/keys."


class UnknownModel(OpenRouterMCPError):
    """No model of that id; `similar` are the nearest real ids, `heir` the one it may have now."""

    code = "unknown_model"

    def __init__(self, model: str, similar: Sequence[str] = (), heir: str = "") -> None:
        now = f" It may be {heir} now." if heir else ""
        guess = f" {'Like it are' if heir else 'Did you mean'} {' or '.join(similar)}{'.' if heir else '?'}"
        super().__init__(
            f"No model {model!r} on OpenRouter that this key may use.{now}{guess if similar else ''} "
            "list_free_models and find_models show the ids."
        )


class FreeEnded(OpenRouterMCPError):
    """OpenRouter no longer serves a free variant; the paid twin it suggests is named as paid, never followed."""

    code = "not_free"
    advice = "Choose another model from list_free_models."


class CannotVerifyPrice(OpenRouterMCPError):
    """The catalogue could not be read, so no price can be checked."""

    code = "cannot_verify_price"
    advice = "Nothing was sent. Try again in a minute."


class MinuteQuota(OpenRouterMCPError):
    """The account's free requests of this minute are used up."""

    code = "minute_quota"
    outcome = Outcome.MINUTE_LIMIT
    advice = "Another free model would meet this limit too."


class DailyQuota(OpenRouterMCPError):
    """The account's free requests of this UTC day are used up."""

    code = "daily_quota"
    outcome = Outcome.DAY_LIMIT


class ModelBusy(OpenRouterMCPError):
    """The provider limits this one model for everybody."""

    code = "model_busy"
    outcome = Outcome.POOL_LIMIT
    advice = "Another model may answer."


class NoCredit(OpenRouterMCPError):
    """The account or the key has nothing left to spend; a negative balance stops free models too."""

    code = "no_credit"
    advice = "Tell the user; check_credits shows what is known."


class Blocked(OpenRouterMCPError):
    """Moderation, a guardrail, a region or a permission."""

    code = "blocked"
    advice = "The same request would be refused again: rephrase it, or ask another model."


class Privacy(OpenRouterMCPError):
    """The data policy in force leaves this model without a provider."""

    code = "privacy"
    advice = "The policy is the user's and stays as it is."

    def __str__(self) -> str:
        comply = ", ".join(self.alternatives) or "none that is free and known"
        twin = self.twin()
        twin.alternatives = ()
        return f"{OpenRouterMCPError.__str__(twin)} Models that comply: {comply}."


class NoProvider(OpenRouterMCPError):
    """The model exists, but no endpoint can serve this request."""

    code = "no_provider"
    advice = "Ask another model; list_free_models shows the ids."


class Network(OpenRouterMCPError):
    """OpenRouter could not be reached, or the connection broke."""

    code = "network"
    outcome = Outcome.LOST


class Timeout(OpenRouterMCPError):
    """Upstream fell silent."""

    code = "timeout"
    outcome = Outcome.LOST
    advice = "Try again later, or ask another model."


class Upstream(OpenRouterMCPError):
    """OpenRouter or the provider behind it failed."""

    code = "upstream"
    outcome = Outcome.FAILED
    advice = "Try again later, or ask another model."


class BadReply(OpenRouterMCPError):
    """What came back is not what OpenRouter sends."""

    code = "bad_reply"
    outcome = Outcome.LOST
    advice = "Ask the user to check OPENROUTER_BASE_URL and any proxy in between."


class EmptyAnswer(OpenRouterMCPError):
    """The model sent no text."""

    code = "empty_answer"
    outcome = Outcome.EMPTY


class BadFile(OpenRouterMCPError):
    """What is to be attached cannot be sent."""

    code = "bad_file"
    advice = "Nothing was sent."


class UnknownAnswer(OpenRouterMCPError):
    """No answer of that id is kept for this caller."""

    code = "unknown_answer"

    def __init__(self, id_: str, away: str = "") -> None:
        """`away`: why what is kept cannot be looked through now."""
        super().__init__(
            f"Answer {one_line(id_, 60)!r} may be kept where it cannot be read now: {one_line(away)}. Nothing is lost "
            "by that; read it again in a minute."
            if away
            else f"No answer {one_line(id_, 60)!r} is kept here: answers stay for a day, the newest 500. read_answer "
            "without an id lists yours; else ask again."
        )
