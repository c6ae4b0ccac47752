"""Opens the App a command works with, over OpenRouter or the embedded sandbox, and ends the process in time."""

import os
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from pydantic import SecretStr

from openrouter_mcp.app import App, open_app
from openrouter_mcp.settings import Settings

# Nothing of the user's reaches the sandbox, and nothing of the sandbox's could reach OpenRouter.
SANDBOX = Settings(key=SecretStr("sk-or-v1-sandbox"), base_url="http://localhost/api/v1")


@asynccontextmanager
async def opened(settings: Settings, *, sandbox: bool) -> AsyncGenerator[App]:
    """The App for `settings`, or for the embedded sandbox."""
    if not sandbox:
        async with open_app(settings) as app:
            yield app
        return
    from openrouter_mcp.sandbox import Sandbox  # only then: a server for OpenRouter need not load it
    from openrouter_mcp.sandbox.transport import StreamingTransport

    async with open_app(SANDBOX, transport=StreamingTransport(Sandbox().app)) as app:
        yield app


def leave_within(seconds: float, status: int) -> None:
    """End the process with `status` after `seconds`, if it has not ended in good order: a thread that reads, that
    writes to a client which no longer reads, or that waits for a book a sibling holds, cannot be cancelled."""
    impatience = threading.Timer(seconds, leave, [status])
    impatience.daemon = True
    impatience.start()


def leave(status: int) -> None:
    """End the process at once."""
    sys.stderr.flush()
    os._exit(status)
