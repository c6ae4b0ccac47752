"""The guard's own refusals, of the one tree of `errors`: for money, by the user's lists, by the person.

Each says which model, what it can cost, which limit stood in the way and what is left of it, and none how to loosen it.
"""

from collections.abc import Sequence
from decimal import Decimal

from openrouter_mcp.errors import OpenRouterMCPError, Outcome
from openrouter_mcp.text import usd


class NotFree(OpenRouterMCPError):
    """The guard's refusal where nothing may be spent: `reason` says why the model could cost money, `limit` what keeps
    it from being spent, `instead` names free models, `without` what to leave out."""

    code = "not_free"

    def __init__(self, model: str, reason: str, limit: str, instead: Sequence[str] = (), *, without: str = "") -> None:
        advice = f"Ask without {without}." if without else "list_free_models shows what is free."
        if instead:
            advice = f"Use {' or '.join(instead)}."
        super().__init__(f"{model!r} {reason}. {limit[:1].upper()}{limit[1:]}, so nothing was sent. {advice}")


class NoBound(OpenRouterMCPError):
    """What the model could cost has no bound, so that no budget bears it; `instead` names models that have one."""

    code = "cannot_verify_price"

    def __init__(self, model: str, reason: str, instead: Sequence[str] = ()) -> None:
        super().__init__(
            f"{model!r} {reason}, so its price has no bound, no budget can hold it, and nothing was sent."
            + (f" Name a model, such as {' or '.join(instead)}." if instead else " Name a model with a price.")
        )


class NotAllowed(OpenRouterMCPError):
    """The user's lists of models exclude this one; `instead` names some that they do not."""

    code = "not_allowed"

    def __init__(self, model: str, instead: Sequence[str] = ()) -> None:
        super().__init__(
            f"This server's user decided which models may be asked, and {model!r} is not one of them. Nothing was sent."
            + (f" Use {' or '.join(instead)}." if instead else " list_free_models shows which are.")
        )


class Unable(OpenRouterMCPError):
    """The model does not do what the request needs; `instead` names some that do."""

    code = "invalid_request"

    def __init__(self, model: str, lacking: Sequence[str], instead: Sequence[str] = ()) -> None:
        super().__init__(
            f"{model!r} cannot {' or '.join(lacking)}. Nothing was sent."
            + (f" {' and '.join(instead)} can." if instead else " No model that may be asked can.")
        )


class OverBudget(OpenRouterMCPError):
    """The worst case does not fit the limit that is named."""

    code = "over_budget"


class CannotReserve(OpenRouterMCPError):
    """Nothing says what was spent today, so nothing that costs may be sent."""

    code = "cannot_reserve"

    def __init__(self) -> None:
        super().__init__(
            "The shared book cannot be used or was replaced, so what was spent today is not known and nothing that "
            "costs money is sent. Free models can be asked. Tell the user; this server's log says more."
        )


class BooksAway(CannotReserve):
    """The engine that keeps the shared books cannot be used now, since a time of day, and why."""

    def __init__(self, why: str, since: str) -> None:
        OpenRouterMCPError.__init__(
            self,
            f"The books that this server shares with others cannot be used since {since} ({why}), so nothing was sent. "
            "They are tried again every second; once they are back, the same call works. Tell the user if it lasts.",
        )


class Declined(OpenRouterMCPError):
    """The person was to be asked, and did not say yes."""

    code = "declined"


class GuardClosed(OpenRouterMCPError):
    """Something cost what it should not have; only a person may go on."""

    code = "guard_closed"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The guard against surprise bills is closed, and nothing is sent: {reason}. Tell the user. Only they can "
            "open it again; this server's log says how."
        )


class MayHaveBeenBilled(OpenRouterMCPError):
    """A request that costs was sent, and its reply was lost."""

    code = "may_have_been_billed"
    outcome = Outcome.LOST

    def __init__(self, failure: OpenRouterMCPError, held: Decimal, generation: str) -> None:
        which = f"generation {generation}" if generation else "no generation id came"
        super().__init__(
            f"The request was sent and its reply was lost ({failure.code}: {failure.text.rstrip('.')}). Up to "
            f"{usd(held)} may have been billed for it ({which}) and stays reserved until OpenRouter tells. Asking "
            "again would cost again: decide whether it is worth that."
        )
        self.sent = True
