"""Fixtures, and the canary: the API key may appear in no output of the whole suite."""

import pytest
from support import CANARY

from openrouter_mcp.sandbox import Sandbox

_leaks: list[str] = []


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
