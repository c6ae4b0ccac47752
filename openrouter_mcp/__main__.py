"""`python -m openrouter_mcp` is `openrouter-mcp`."""

import sys

from openrouter_mcp.cli import main

if __name__ == "__main__":
    sys.exit(main())
