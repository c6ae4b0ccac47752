"""Our stdio server in a hurry: `python many_child.py LIMIT WINDOW LEASE` allows LIMIT free requests in WINDOW seconds,
takes a batch for left after LEASE seconds without a sign of life, and gives and looks for such signs often.
"""

import functools
import sys

from openrouter_mcp import cli
from openrouter_mcp.app import open_app
from openrouter_mcp.cli import opening
from openrouter_mcp.ledger.sqlite import batches
from openrouter_mcp.writing import Waits


def main() -> None:
    """Serve over stdio until stdin ends."""
    limit, window, lease = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    vars(batches)["LEASE_S"] = lease
    opening.open_app = functools.partial(  # type: ignore[attr-defined]
        open_app, per_minute=limit, window=window, waits=Waits(heartbeat=0.1, poll=0.05)
    )
    sys.exit(cli.main([]))


if __name__ == "__main__":
    main()
