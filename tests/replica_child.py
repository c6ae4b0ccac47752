"""One of our HTTP servers in a hurry: `python replica_child.py ARGUMENTS` is `openrouter-mcp serve ARGUMENTS`, which
shows life often, and takes another for dead that has shown none for a second."""

import functools
import sys

from openrouter_mcp import cli
from openrouter_mcp.app import open_app
from openrouter_mcp.cli import opening
from openrouter_mcp.ledger.redis import script
from openrouter_mcp.writing import Waits


def main() -> None:
    """Serve until a signal comes."""
    script._FIGURES |= {"DEAD_S": 1.0, "FIRST_INQUIRY_S": 0.5}
    opening.open_app = functools.partial(  # type: ignore[attr-defined]
        open_app, waits=Waits(plain=3.0, with_progress=3.0, heartbeat=0.2, poll=0.05)
    )
    sys.exit(cli.main(["serve", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
