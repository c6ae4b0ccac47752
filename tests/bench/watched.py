"""Our server, which writes down for how long its event loop took no turn; it imports nothing that would count as ours.

`python watched.py FILE [ARGUMENT ...]` is `openrouter-mcp` with these arguments.
"""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from openrouter_mcp import cli
from openrouter_mcp.app import App, open_app
from openrouter_mcp.cli import opening
from openrouter_mcp.settings import Settings

_TURN_S = 0.002


@asynccontextmanager
async def _watched(settings: Settings) -> AsyncGenerator[App]:
    """The App, and a task that is to be woken every _TURN_S seconds."""
    noting = asyncio.create_task(_note(Path(sys.argv[1])))
    async with open_app(settings) as app:
        yield app
    noting.cancel()


async def _note(file: Path) -> None:
    """A line each time it was woken late: when (on the clock that all processes share), and how many seconds."""
    with file.open("a", buffering=1) as gaps:
        while True:
            before = time.monotonic()
            await asyncio.sleep(_TURN_S)
            now = time.monotonic()
            if now - before > 2 * _TURN_S:
                gaps.write(f"[{now}, {now - before - _TURN_S}]\n")


def main() -> None:
    """Serve as the arguments say."""
    opening.open_app = _watched  # type: ignore[assignment, attr-defined]
    sys.exit(cli.main(sys.argv[2:]))


if __name__ == "__main__":
    main()
