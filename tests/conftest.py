"""Fixtures, and the canary: the API key may appear in no output of the whole suite."""

import os

import pytest
from engine import either_book, engine_url, place, running_engine, where
from hypothesis import Phase, settings
from support import CANARY

from openrouter_mcp.sandbox import Sandbox

__all__ = ["either_book", "engine_url", "place", "running_engine", "where"]
_leaks: list[str] = []

# A person's run looks for new cases each time; what decides whether a change lands must not be a matter of luck.
settings.register_profile("ci", derandomize=True, max_examples=50)
# A change of the code that a test notices needs no smallest example, and no test may take long over it.
settings.register_profile(
    "mutate", derandomize=True, max_examples=50, deadline=None, phases=[Phase.explicit, Phase.generate]
)
if os.environ.get("CI"):
    settings.load_profile("ci")

# What starts servers as processes, foreign clients among them, tries thousands of cases, or waits for many answers.
_SLOW = {
    "access", "afterwards", "archives", "attaching", "both_books", "callers_budgets", "cancelling", "catalog_processes",
    "catalog_shared", "choice", "cli", "config", "conformance", "connections", "consent_shared", "doctor", "door",
    "faults", "fuzz_targets", "hanging_up", "http", "inspector", "judge", "layers", "ledger", "ledger_processes",
    "many", "many_left", "many_money", "many_processes", "many_resumed", "measures", "observing", "options", "package",
    "readme", "redis_book", "replicas", "schema", "settling", "shares", "soak", "spending_processes", "stdio", "sums",
    "team", "twin", "typescript", "waiting",
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what takes long, for who wants an answer soon."""
    for item in items:
        if item.path.stem.removeprefix("test_") in _SLOW:
            item.add_marker("slow")


@pytest.fixture
def sandbox() -> Sandbox:
    """OpenRouter in small, with a fresh account."""
    return Sandbox()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Look for the key in what the test and everything under it printed and logged, and in its traceback."""
    shown = [content for _, content in report.sections] + [report.longreprtext]
    if any(CANARY in text for text in shown):
        _leaks.append(f"{report.nodeid} ({report.when})")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A leak anywhere fails the whole run."""
    if _leaks:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say where."""
    for leak in _leaks:
        terminalreporter.write_line(f"The API key was shown by {leak}", red=True)
