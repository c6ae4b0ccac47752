"""The facts of calls as numbers for Prometheus: https://prometheus.io/docs/instrumenting/exposition_formats. Needs the
extra `metrics`. Labels are few: tools are ours, callers are named in a file, models are left out.
"""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from openrouter_mcp.observing import Facts, answers
from openrouter_mcp.text import number
from openrouter_mcp.tools import TOOLS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.1, 0.5, 1, 2, 5, 10, 20, 55, 180)
_MOST_COUNTED = 10_000
_TOOLS = {tool.run.__name__ for tool in TOOLS}


class Metrics:
    """What was counted since the start."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._calls = self._counter("calls", "Calls of tools by what came of them.", "caller", "tool", "code")
        self._refused = self._counter("refused", "Requests answered with an HTTP error.", "status")
        self._tokens = self._counter("tokens", "Tokens of answers, each answer counted once.", "caller", "direction")
        self._cost = self._counter("cost_usd", "Cost of answers in USD, each answer counted once.", "caller")
        self._seconds = Histogram(
            "openrouter_mcp_call_seconds", "How long calls of tools took.", ["tool"],
            registry=self._registry, buckets=_SECONDS,
        )  # fmt: skip
        self._counted: dict[str, None] = {}  # answers, the latest: one that is read again is not paid for again

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"openrouter_mcp_{name}", what, labels, registry=self._registry)

    def call(self, facts: Facts, record: Mapping[str, object]) -> None:
        """Count a call, and the answers in its record that are done."""
        tool = facts.tool if facts.tool in _TOOLS else "unknown"
        self._calls.labels(facts.caller, tool, facts.code).inc()
        self._seconds.labels(tool).observe(facts.seconds)
        for row in answers(record):
            if row.get("status") == "running" or not self._is_new(row):
                continue
            for name, direction in (("prompt_tokens", "in"), ("completion_tokens", "out")):
                self._tokens.labels(facts.caller, direction).inc(number(row.get(name)) or 0)
            self._cost.labels(facts.caller).inc(number(row.get("cost_usd")) or 0)

    def refused(self, status: int) -> None:
        """Count a request that was answered with an HTTP error."""
        self._refused.labels(str(status)).inc()

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)

    def _is_new(self, row: Mapping[str, object]) -> bool:
        id_ = row.get("id")
        if not isinstance(id_, str) or id_ in self._counted:
            return False
        self._counted[id_] = None
        if len(self._counted) > _MOST_COUNTED:
            del self._counted[next(iter(self._counted))]
        return True
