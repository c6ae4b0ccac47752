"""The environment, read once, as frozen `Settings` or one clear complaint. Nothing else reads the environment."""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from pydantic import SecretStr

from openrouter_mcp.errors import BadSetting

BASE_URL = "https://openrouter.ai/api/v1"
OPENROUTER_HOSTS = frozenset({"openrouter.ai", "eu.openrouter.ai", "us.openrouter.ai"})
LOOPBACK = frozenset({"127.0.0.1", "[::1]", "localhost"})
# Strict, so that no two parsers can read two hosts in one URL: no userinfo, query, fragment, escape or backslash.
_URL = re.compile(r"(https?)://([a-z0-9.-]+|\[::1\])(:[0-9]{1,5})?((?:/[A-Za-z0-9._~-]+)*)/?")
_ASCII = re.compile(r"[\x20-\x7e]+")
_KEY_FILE_BYTES = 1024


@dataclass(frozen=True)
class Settings:
    """What the user decided. `key_problem` says why the key given cannot be used; then `key` is None. The books lie in
    `state_dir`; None keeps them in this process's memory."""

    key: SecretStr | None = None
    key_problem: str = ""
    base_url: str = BASE_URL
    app_url: str = ""
    state_dir: Path | None = None


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from `environ`. A bad key is kept as `key_problem`, so that the server can still start and
    say so to the agent.

    Raises:
        BadSetting: when any other variable cannot be followed.
    """
    key, problem = _key(environ)
    return Settings(
        key=key,
        key_problem=problem,
        base_url=_base_url(environ),
        app_url=_app_url(environ),
        state_dir=_state_dir(environ),
    )


def child_environment() -> dict[str, str]:
    """The whole environment, for a server started as a child: the MCP client would pass on only a part of it."""
    return dict(os.environ)


def _key(environ: Mapping[str, str]) -> tuple[SecretStr | None, str]:
    name, text = "OPENROUTER_API_KEY", environ.get("OPENROUTER_API_KEY", "").strip()
    path = environ.get("OPENROUTER_API_KEY_FILE", "").strip()
    if not text and path:
        name = "OPENROUTER_API_KEY_FILE"
        try:
            text = _read_key_file(Path(path).expanduser())
        except (OSError, RuntimeError) as error:  # RuntimeError: a `~` without a home folder
            return None, f"{name} cannot be read: {type(error).__name__}."
        if not text:
            return None, f"{name} names a file that is empty, too long for a key, or no regular file."
    if not text:
        return None, ""
    if re.fullmatch(r"[\x21-\x7e]+", text):
        return SecretStr(text), ""
    tail = f" and ends in {text[-4:]!a}" if len(text) >= 20 else ""
    return None, (
        f"{name} holds a space, a line break or a character that is not printable ASCII: it has {len(text)} "
        f"characters{tail}. Set it to the key alone, without quotes."
    )


def _read_key_file(path: Path) -> str:
    """The key in the file; empty when it cannot be one. A pipe nobody writes to must not hold up the start."""
    with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return ""
        content = file.read(_KEY_FILE_BYTES + 1)
    return content.decode("utf-8-sig", "replace").strip() if len(content) <= _KEY_FILE_BYTES else ""


def _base_url(environ: Mapping[str, str]) -> str:
    text = environ.get("OPENROUTER_BASE_URL", "").strip() or BASE_URL
    match = _URL.fullmatch(text)
    if not match or (match[3] and not 1 <= int(match[3][1:]) <= 65535):
        raise BadSetting(f"OPENROUTER_BASE_URL is not a plain http(s) address with a path; the default is {BASE_URL}.")
    scheme, host, port, _ = match.groups()
    if scheme == "http":
        if host not in LOOPBACK:
            raise BadSetting(f"OPENROUTER_BASE_URL names {host} over http; only a loopback host may go without https.")
    elif (host not in OPENROUTER_HOSTS or port not in (None, ":443")) and not _allowed(environ):
        raise BadSetting(
            f"OPENROUTER_BASE_URL names {host}{port or ''}, which is not OpenRouter and would be sent the key. If that "
            "is meant, set OPENROUTER_MCP_ALLOW_CUSTOM_BASE_URL=1."
        )
    return text.rstrip("/")


def _allowed(environ: Mapping[str, str]) -> bool:
    text = environ.get("OPENROUTER_MCP_ALLOW_CUSTOM_BASE_URL", "").strip()
    if text not in ("", "0", "1"):
        raise BadSetting("OPENROUTER_MCP_ALLOW_CUSTOM_BASE_URL must be 1 or 0.")
    return text == "1"


def _state_dir(environ: Mapping[str, str]) -> Path:
    text = environ.get("OPENROUTER_MCP_STATE_DIR", "").strip()
    if text and not Path(text).is_absolute():  # relative to what? Every client starts the server somewhere else
        raise BadSetting("OPENROUTER_MCP_STATE_DIR must be an absolute path.")
    return Path(text) if text else platformdirs.user_state_path("openrouter-mcp", appauthor=False)


def _app_url(environ: Mapping[str, str]) -> str:
    text = environ.get("OPENROUTER_MCP_APP_URL", "").strip()
    if text and not _ASCII.fullmatch(text):
        raise BadSetting("OPENROUTER_MCP_APP_URL must be printable ASCII: it is sent as an HTTP header.")
    return text
