"""Results as text a model reads at a glance, each with its record for programs."""

from openrouter_mcp.render.account import credits  # noqa: A004 - OpenRouter's noun
from openrouter_mcp.render.answers import answer, answers, error
from openrouter_mcp.render.batch import batch
from openrouter_mcp.render.comparison import comparison
from openrouter_mcp.render.models import free_models
from openrouter_mcp.render.options import options
from openrouter_mcp.render.reply import Reply

__all__ = ["Reply", "answer", "answers", "batch", "comparison", "credits", "error", "free_models", "options"]
