"""Connections of the HTTP server: who is silent on one keeps it from nobody else for long."""

import asyncio
import importlib
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_LONGEST_HEAD_S = 10.0  # uvicorn itself would wait for ever


class Impatient(H11Protocol):
    """Ends a connection on which no whole head of a request comes in time: the first, or the next that was begun."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """From now on a head is due."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Whole heads are answered by uvicorn; a part of one is waited for."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._stop_waiting()
        elif self._head is None and getattr(before, "response_complete", True):
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is due any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head = self.loop.call_later(_LONGEST_HEAD_S, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._head:
            self._head.cancel()
            self._head = None


def allow_many() -> None:
    """Let this process hold as many connections as the system allows it; on Windows it may already."""
    try:
        resource: Any = importlib.import_module("resource")
    except ImportError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
