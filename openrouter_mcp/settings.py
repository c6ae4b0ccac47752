"""The environment, read once, as frozen `Settings` or one clear complaint. Nothing else reads the environment."""

import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import platformdirs
from pydantic import SecretStr

from openrouter_mcp.errors import BadSetting
from openrouter_mcp.policy import Policy, Privacy
from openrouter_mcp.records import MODEL_ID
from openrouter_mcp.state import STATE_URL, goes_on_alone, state_url

BASE_URL = "https://openrouter.ai/api/v1"
OPENROUTER_HOSTS = frozenset({"openrouter.ai", "eu.openrouter.ai", "us.openrouter.ai"})
LOOPBACK = frozenset({"127.0.0.1", "[::1]", "localhost"})
# Strict, so that no two parsers can read two hosts in one URL: no userinfo, query, fragment, escape or backslash.
_URL = re.compile(r"(https?)://([a-z0-9.-]+|\[::1\])(:[0-9]{1,5})?((?:/[A-Za-z0-9._~-]+)*)/?")
_ASCII = re.compile(r"[\x20-\x7e]+")
_SECRET_BYTES = 1024
_US = "openrouter-mcp"
_CUSTOM = "OPENROUTER_MCP_ALLOW_CUSTOM_BASE_URL"
_LONGEST_WAIT_S = 600
_A_DAY_S = 86_400  # longer no answer is kept
AMOUNT = re.compile(r"[0-9]{1,7}(\.[0-9]{1,9})?", re.ASCII)  # no sign, exponent or word: money is not guessed at


@dataclass(frozen=True)
class Settings:
    """What the user decided. `key_problem` says why the key given cannot be used; then `key` is None. The books lie in
    `state_dir`, and the answers if they are kept; None keeps both in this process's memory, and so it does with the
    list of models in `cache_dir`. With a `state_url` both lie on that engine, and while it is away this process
    `goes_on_alone` or not at all. A tool waits so many seconds for an answer, longer for a client that is shown
    progress. `caller` is whom the answers are for where the transport names nobody. For `repeat_s` seconds an answer
    serves the same question again. Files may be sent from the folders `files`, never `key_file` or what is in `own`.
    TLS looks for certificates in `certificates`, if any."""

    key: SecretStr | None = None
    key_problem: str = ""
    base_url: str = BASE_URL
    app_url: str = ""
    state_dir: Path | None = None
    cache_dir: Path | None = None
    keep_answers: bool = True
    caller: str = ""
    wait_s: float = 55.0
    wait_with_progress_s: float = 180.0
    repeat_s: float = 0.0
    files: tuple[Path, ...] = ()
    key_file: Path | None = None
    own: tuple[Path, ...] = ()
    certificates: tuple[Path, ...] = ()
    policy: Policy = Policy()  # noqa: RUF009 - frozen
    state_url: SecretStr | None = None
    goes_on_alone: bool = False


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from `environ`. A bad key is kept as `key_problem`, so that the server can still start and
    say so to the agent.

    Raises:
        BadSetting: when any other variable cannot be followed.
    """
    key, problem = _key(environ)
    policy = _policy(environ)
    return Settings(
        key=key,
        key_problem=problem,
        base_url=_base_url(environ),
        app_url=_app_url(environ),
        state_dir=_folder(environ, "OPENROUTER_MCP_STATE_DIR") or platformdirs.user_state_path(_US, appauthor=False),
        cache_dir=_folder(environ, "OPENROUTER_MCP_CACHE_DIR") or platformdirs.user_cache_path(_US, appauthor=False),
        keep_answers=_switch(environ, "OPENROUTER_MCP_KEEP_ANSWERS", default=True),
        wait_s=_seconds(environ, "OPENROUTER_MCP_WAIT_SECONDS", 55),
        wait_with_progress_s=_seconds(environ, "OPENROUTER_MCP_WAIT_SECONDS_WITH_PROGRESS", 180),
        repeat_s=_seconds(environ, "OPENROUTER_MCP_CACHE_SECONDS", 0, most=_A_DAY_S),
        files=_files(environ),
        key_file=_key_file(environ),
        own=tuple(Path(path).expanduser() for path in [environ.get(f"{STATE_URL}_FILE", "").strip()] if path),
        certificates=tuple(Path(each) for each in environ.get("SSL_CERT_DIR", "").split(os.pathsep) if each.strip()),
        policy=policy,
        state_url=state_url(*text_or_file(environ, STATE_URL)),
        goes_on_alone=goes_on_alone(environ, policy.daily_budget),
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
            text = read_secret(Path(path).expanduser())
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


def read_secret(path: Path) -> str:
    """The secret in the file; empty when it cannot be one. A pipe nobody writes to must not hold up the start.

    Raises:
        OSError: when it cannot be read.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return ""
        content = file.read(_SECRET_BYTES + 1)
    return content.decode("utf-8-sig", "replace").strip() if len(content) <= _SECRET_BYTES else ""


def text_or_file(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """The secret that the variable `name` holds, else that of the file which `name`_FILE names; and which of them had
    it.

    Raises:
        BadSetting: when the file cannot be read, or holds none.
    """
    text, by_file = environ.get(name, "").strip(), f"{name}_FILE"
    path = environ.get(by_file, "").strip()
    if text or not path:
        return text, name
    try:
        text = read_secret(Path(path).expanduser())
    except (OSError, RuntimeError) as error:  # RuntimeError: a `~` without a home folder
        raise BadSetting(f"{by_file} cannot be read: {type(error).__name__}.") from error
    if not text:
        raise BadSetting(f"{by_file} names a file that is empty, too long for a secret, or no regular file.")
    return text, by_file


def _base_url(environ: Mapping[str, str]) -> str:
    text = environ.get("OPENROUTER_BASE_URL", "").strip() or BASE_URL
    match = _URL.fullmatch(text)
    if not match or (match[3] and not 1 <= int(match[3][1:]) <= 65535):
        raise BadSetting(f"OPENROUTER_BASE_URL is not a plain http(s) address with a path; the default is {BASE_URL}.")
    scheme, host, port, _ = match.groups()
    if scheme == "http":
        if host not in LOOPBACK:
            raise BadSetting(f"OPENROUTER_BASE_URL names {host} over http; only a loopback host may go without https.")
    elif (host not in OPENROUTER_HOSTS or port not in (None, ":443")) and not _switch(environ, _CUSTOM):
        raise BadSetting(
            f"OPENROUTER_BASE_URL names {host}{port or ''}, which is not OpenRouter and would be sent the key. If that "
            "is meant, set OPENROUTER_MCP_ALLOW_CUSTOM_BASE_URL=1."
        )
    return text.rstrip("/")


def _switch(environ: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    text = environ.get(name, "").strip()
    if text not in ("", "0", "1"):
        raise BadSetting(f"{name} must be 1 or 0.")
    return text == "1" if text else default


def _seconds(environ: Mapping[str, str], name: str, default: int, *, most: int = _LONGEST_WAIT_S) -> float:
    """A whole number; nothing only where that is the default."""
    text, least = environ.get(name, "").strip() or str(default), min(1, default)
    if not re.fullmatch(r"[0-9]{1,5}", text, re.ASCII) or not least <= int(text) <= most:
        raise BadSetting(f"{name} must be a whole number of seconds from {least} to {most}.")
    return float(text)


def _folder(environ: Mapping[str, str], name: str) -> Path | None:
    text = environ.get(name, "").strip()
    if text and not Path(text).is_absolute():  # relative to what? Every client starts the server somewhere else
        raise BadSetting(f"{name} must be an absolute path.")
    return Path(text) if text else None


def _files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    name = "OPENROUTER_MCP_FILES_DIR"
    return folders(name, [each for each in environ.get(name, "").split(os.pathsep) if each.strip()])


def folders(name: str, texts: Sequence[str]) -> tuple[Path, ...]:
    """The folders that files may be sent from, as the setting `name` has them.

    Raises:
        BadSetting: for one that is not absolute, or is the whole disk.
    """
    found = tuple(Path(text) for text in texts)
    for folder in found:
        if not folder.is_absolute() or ".." in folder.parts or folder == Path(folder.anchor):
            raise BadSetting(f"{name} must name absolute folders, no whole disk: {str(folder)!a}.")
    return found


def _key_file(environ: Mapping[str, str]) -> Path | None:
    """The file as the key is read from it."""
    path = environ.get("OPENROUTER_API_KEY_FILE", "").strip()
    try:
        return Path(path).expanduser() if path else None
    except RuntimeError:  # a `~` without a home folder: no key was read from it
        return None


def _policy(environ: Mapping[str, str]) -> Policy:
    daily = _usd(environ, "OPENROUTER_MCP_DAILY_BUDGET_USD") or Decimal(0)
    call = _usd(environ, "OPENROUTER_MCP_CALL_BUDGET_USD")
    default_model = environ.get("OPENROUTER_MCP_DEFAULT_MODEL", "").strip()
    policy = Policy(
        daily_budget=daily,
        call_budget=daily / 10 if call is None else min(call, daily),
        confirm_above=_usd(environ, "OPENROUTER_MCP_CONFIRM_ABOVE_USD"),
        allowed=_models(environ, "OPENROUTER_MCP_MODELS"),
        denied=_models(environ, "OPENROUTER_MCP_MODELS_DENY"),
        default_model=default_model,
        privacy=_privacy(environ),
    )
    if default_model and not MODEL_ID.fullmatch(default_model):
        raise BadSetting("OPENROUTER_MCP_DEFAULT_MODEL must be one model's id, like acme/tiny:free.")
    if default_model and not policy.admits(default_model):
        raise BadSetting(f"OPENROUTER_MCP_DEFAULT_MODEL names {default_model}, which the lists of models exclude.")
    if default_model != policy.without_money().default_model and not daily:
        raise BadSetting(
            f"OPENROUTER_MCP_DEFAULT_MODEL names {default_model}, which is not free, and the budget of the day is $0."
        )
    return policy


def _privacy(environ: Mapping[str, str]) -> Privacy:
    text = environ.get("OPENROUTER_MCP_PRIVACY", "").strip()
    if text and text not in [*Privacy]:
        raise BadSetting(f"OPENROUTER_MCP_PRIVACY must be {', '.join(Privacy)}.")
    return Privacy(text) if text else Privacy.ANY


def _usd(environ: Mapping[str, str], name: str) -> Decimal | None:
    """A plain amount; None when there is none."""
    text = environ.get(name, "").strip()
    if not text:
        return None
    if not AMOUNT.fullmatch(text):
        raise BadSetting(f"{name} must be a plain amount of US dollars, like 5 or 0.50.")
    return Decimal(text)


def _models(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    entries = tuple(entry.strip() for entry in environ.get(name, "").split(",") if entry.strip())
    if environ.get(name, "").strip() and not entries:
        raise BadSetting(f"{name} names no model.")
    for entry in entries:
        if not MODEL_ID.fullmatch(f"{entry}any" if entry.endswith("/") else entry):
            raise BadSetting(
                f"{name}: {entry[:100]!r} is neither a model's id, like acme/tiny, nor a vendor, like acme/."
            )
    return entries


def _app_url(environ: Mapping[str, str]) -> str:
    text = environ.get("OPENROUTER_MCP_APP_URL", "").strip()
    if text and not _ASCII.fullmatch(text):
        raise BadSetting("OPENROUTER_MCP_APP_URL must be printable ASCII: it is sent as an HTTP header.")
    return text
