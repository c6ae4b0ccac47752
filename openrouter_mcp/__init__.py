"""An MCP server that hands work to the models behind OpenRouter, free ones by default."""

__version__ = "0.1.0"
