"""What `doctor` finds without opening or sending anything: Python, versions, settings."""

import difflib
import os
import platform
import sqlite3
import stat
from importlib.metadata import version

from mcp_types.version import KNOWN_PROTOCOL_VERSIONS

from openrouter_mcp import __version__, environment
from openrouter_mcp.cli.report import Finding, ok, problem, warning
from openrouter_mcp.environment import KEY
from openrouter_mcp.settings import Settings

_KEY_FILE = f"{KEY}_FILE"


def installed() -> list[Finding]:
    """Python and the versions that matter."""
    where = f"{platform.python_implementation()} {platform.python_version()} on {platform.system()}"
    ours = f"openrouter-mcp {__version__}, mcp {version('mcp')}, MCP revisions {', '.join(KNOWN_PROTOCOL_VERSIONS)}"
    return [ok("python", f"{where}, SQLite {sqlite3.sqlite_version}"), ok("versions", ours)]


def decided(settings: Settings) -> list[Finding]:
    """Each setting that is set, where it comes from, and what is wrong with it."""
    given = environment.given()
    findings = [_setting(name, value, given) for name, value in given.items()]
    if settings.key_file and not given.get(KEY):
        findings += _key_file(settings)
    if settings.key_problem:
        findings.append(problem("settings", settings.key_problem))
    return findings or [ok("settings", "none is set: the defaults hold")]


def _setting(name: str, value: str, given: dict[str, str]) -> Finding:
    if name not in environment.KNOWN:
        near = difflib.get_close_matches(name, environment.KNOWN, n=1)
        guess = f" Did you mean {near[0]}?" if near else ""
        return warning("settings", f"{name} is set, and no setting has that name, so it does nothing.{guess}")
    if name == _KEY_FILE and KEY in given:
        return warning("settings", f"{name} = {value} is not read: {KEY} is set, and goes first.")
    source = "the key is read from this file" if name == _KEY_FILE else "environment variable"
    return ok("settings", f"{name} = {value} ({source})")


def _key_file(settings: Settings) -> list[Finding]:
    """Whether others can read the key."""
    try:
        mode = settings.key_file.stat().st_mode if settings.key_file else 0
    except OSError:
        return []  # `key_problem` says so
    if os.name == "nt" or not mode & (stat.S_IRWXG | stat.S_IRWXO):
        return []
    return [warning("settings", f"Other users can read the key in {settings.key_file}. Take that away: chmod 600.")]
