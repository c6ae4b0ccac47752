"""What a person's commands need of the environment: for the entry of a client, and to be shown. Never a secret."""

import os
import re
from collections.abc import Mapping

from openrouter_mcp.text import one_line

KEY = "OPENROUTER_API_KEY"
# Every setting there is, and what else decides how OpenRouter is reached.
KNOWN = frozenset(
    {
        *(KEY, "OPENROUTER_API_KEY_FILE", "OPENROUTER_BASE_URL"),
        *(
            f"OPENROUTER_MCP_{name}"
            for name in (
                *("ALLOW_CUSTOM_BASE_URL", "ALLOWED_HOSTS", "APP_URL", "CACHE_DIR", "CACHE_SECONDS", "CALLERS"),
                *("CALL_BUDGET_USD", "CONFIRM_ABOVE_USD", "DAILY_BUDGET_USD", "DEFAULT_MODEL", "FILES_DIR"),
                *("HTTP_TOKEN", "HTTP_TOKEN_FILE", "KEEP_ANSWERS", "MODELS", "MODELS_DENY", "PRIVACY"),
                *("REQUEST_STATE_KEY", "STATE_DIR", "STATE_FALLBACK", "STATE_URL", "STATE_URL_FILE"),
                *("WAIT_SECONDS", "WAIT_SECONDS_WITH_PROGRESS"),
            )
        ),
        *("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR"),
    }
)
UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # what no client's file should have to hold
# What else the user decided; never what a stranger could use.
_SHARED = re.compile(r"OPENROUTER_(MCP_[A-Z0-9_]+|BASE_URL)", re.ASCII)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH")
_PASSWORD = re.compile(r"//[^/]*@")  # in an address
_LONG = 20  # characters of a secret that stays one when its last four are shown
# Where a user's programs keep their files.
_FOLDERS = ("HOME", "USERPROFILE", "APPDATA", "XDG_CONFIG_HOME", "CLAUDE_CONFIG_DIR", "CODEX_HOME")


def shared(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The settings that a client's entry for this server may hold in clear: all that are set but the key, tokens and
    addresses with a password."""
    key = environ.get("OPENROUTER_API_KEY", "").strip()
    return {
        name: value
        for name, value in sorted(environ.items())
        if _SHARED.fullmatch(name) and not _SECRET.search(name) and value.strip() and not UNWRITABLE.search(value)
        if not _PASSWORD.search(value) and not (key and key in value)
    }


def withheld(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The settings that such an entry goes without, because they hold a password."""
    return [name for name, value in sorted(environ.items()) if _SHARED.fullmatch(name) and _PASSWORD.search(value)]


def folders(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that say where a user's programs keep their files, as far as they are set."""
    return {name: environ[name] for name in _FOLDERS if environ.get(name, "").strip()}


def given(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Whatever is set that could be meant for this server, for its user to read: secrets are masked."""
    key = environ.get(KEY, "").strip()
    names = [name for name in sorted(environ) if name in KNOWN or name.startswith("OPENROUTER_MCP_")]
    return {name: _masked(name, environ[name].strip(), key) for name in names if environ[name].strip()}


def wants_colour(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a terminal is to be sent colours: https://no-color.org."""
    is_able = environ.get("TERM", "") not in ("", "dumb") or "WT_SESSION" in environ
    return is_able and not environ.get("NO_COLOR")


def _masked(name: str, value: str, key: str) -> str:
    if _SECRET.search(name) and not name.endswith("_FILE"):
        return f"[hidden], ends in {value[-4:]!a}" if len(value) >= _LONG else "[hidden]"
    shown = value.replace(key, "[key]") if key else value
    return one_line(_PASSWORD.sub("//[hidden]@", shown))
