"""Who may come in over HTTP, as the environment says: `Access`, or one clear complaint."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from openrouter_mcp.callers import Caller, read_callers, require_apart
from openrouter_mcp.errors import BadSetting
from openrouter_mcp.settings import text_or_file

WHOEVER = "http"  # the caller who shows the one token, or none where none is asked for
_TOKEN = "OPENROUTER_MCP_HTTP_TOKEN"  # noqa: S105 - its name
_TOKEN_FILE = "OPENROUTER_MCP_HTTP_TOKEN_FILE"  # noqa: S105 - its name
_CALLERS = "OPENROUTER_MCP_CALLERS"
_HOSTS = "OPENROUTER_MCP_ALLOWED_HOSTS"
_STATE_KEY = "OPENROUTER_MCP_REQUEST_STATE_KEY"
_PRINTABLE = re.compile(r"[\x21-\x7e]{32,}")
# Strict, so that no two parsers read two hosts in one: no userinfo, path, wildcard or scheme.
_HOST = re.compile(
    r"((?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*|\[[0-9a-f:.]{2,45}\])"
    r"(?::([1-9][0-9]{0,4}))?",
    re.ASCII,
)


@dataclass(frozen=True)
class Access:
    """`callers` come in by their tokens; if there are none, whoever reaches the address. `hosts` are further names of
    the server, each as a Host header has it. `own` are files that are never sent. Processes with one `state_key`
    answer each other's questions to the person."""

    callers: tuple[Caller, ...] = ()
    hosts: tuple[str, ...] = ()
    own: tuple[Path, ...] = ()
    state_key: SecretStr | None = None


def load(environ: Mapping[str, str] = os.environ) -> Access:
    """Read `environ`, and the files it names.

    Raises:
        BadSetting: when it cannot be followed; no token is repeated.
    """
    token, path = _token(environ), environ.get(_CALLERS, "").strip()
    callers = [Caller(WHOEVER, hashlib.sha256(token.encode()).digest())] if token else []
    if path:
        if not Path(path).is_absolute():
            raise BadSetting(f"{_CALLERS} must be an absolute path.")
        callers += read_callers(Path(path))
        require_apart(callers)
    own = [_path(text) for text in (path, environ.get(_TOKEN_FILE, "").strip()) if text]
    return Access(tuple(callers), _hosts(environ), tuple(filter(None, own)), _state_key(environ))


def require_guarded(access: Access, host: str) -> None:
    """Raise BadSetting where `host` can be reached from other machines and not all is set that this needs."""
    missing = []
    if not access.callers:
        missing.append(f"{_TOKEN} (32 characters or more) or {_CALLERS} (a file of callers)")
    if not access.hosts:
        missing.append(f"{_HOSTS} (the names clients reach it by)")
    if missing:
        raise BadSetting(
            f"--host {host} can be reached from other machines, and anyone there could use the key. Set "
            f"{' and '.join(missing)}, or serve 127.0.0.1."
        )


def _token(environ: Mapping[str, str]) -> str:
    text, name = text_or_file(environ, _TOKEN)
    return _printable(name, text)


def _state_key(environ: Mapping[str, str]) -> SecretStr | None:
    text = _printable(_STATE_KEY, environ.get(_STATE_KEY, "").strip())
    return SecretStr(text) if text else None


def _printable(name: str, text: str) -> str:
    if text and not _PRINTABLE.fullmatch(text):
        raise BadSetting(
            f"{name} must be 32 printable ASCII characters or more, without spaces, like `openssl rand -hex 32`."
        )
    return text


def _path(text: str) -> Path | None:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # a `~` without a home folder: nothing was read from it
        return None


def _hosts(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The names as Host headers have them: lower case, and without the port that goes without saying."""
    names: list[str] = []
    text = environ.get(_HOSTS, "").strip()
    for entry in text.split(",") if text else ():
        match = _HOST.fullmatch(entry.strip().lower())
        if not match or int(match[2] or 1) > 65535:
            raise BadSetting(f"{_HOSTS}: {entry.strip()[:100]!a} is no name of a host, with a port or without.")
        names += [match[0], *([match[1]] if match[2] in ("80", "443") else [])]
    return tuple(dict.fromkeys(names))
