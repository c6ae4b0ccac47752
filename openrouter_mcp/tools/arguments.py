"""The arguments that tools share: what the SDK hands in, and the fields a model fills."""

from decimal import Decimal
from typing import Annotated

from mcp.server.mcpserver import Context, Resolve
from pydantic import Field, WithJsonSchema

from openrouter_mcp.app import App


def current_app(context: Context[App]) -> App:
    """The process's one App, which `server.build` put into every connection's lifespan."""
    return context.request_context.lifespan_context


CurrentApp = Annotated[App, Resolve(current_app)]
Prompt = Annotated[str, Field(description="The whole task: the model sees nothing else of your conversation.")]
System = Annotated[str, Field(description="System prompt: role, tone, rules.")]
MaxTokens = Annotated[int, Field(ge=1, description="Most tokens to write, reasoning included.")]
# Written as the plain number it is: pydantic's own schema of a Decimal is a union with a pattern.
MaxCost = Annotated[
    Decimal | None,
    Field(ge=0, max_digits=30, description="Most USD this call may cost; only lowers the user's budget. 0: free only."),
    WithJsonSchema({"type": "number", "minimum": 0}),
]
