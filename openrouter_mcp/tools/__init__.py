"""The public list of tools. `server.py` registers them in this order."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from openrouter_mcp.render import SHAPE_OF_CREDITS, Reply
from openrouter_mcp.tools.account import check_credits
from openrouter_mcp.tools.answers import read_answer
from openrouter_mcp.tools.chat import ask_many, ask_model, compare_models
from openrouter_mcp.tools.models import find_models, list_free_models


@dataclass(frozen=True)
class Tool:
    """A tool function; `spends` when a call uses up allowance or money, `changes` when it is no mere reading either.
    `structure` is the JSON schema of its record, where clients are to give their model that instead of the text."""

    run: Callable[..., Awaitable[Reply]]
    spends: bool
    changes: bool = False
    structure: dict[str, object] | None = None


TOOLS = (
    Tool(ask_model, spends=True),
    Tool(compare_models, spends=True),
    Tool(ask_many, spends=True),
    Tool(read_answer, spends=False, changes=True),
    Tool(list_free_models, spends=False),
    Tool(find_models, spends=False),
    Tool(check_credits, spends=False, structure=SHAPE_OF_CREDITS),
)
