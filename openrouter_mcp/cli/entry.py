"""The entry that makes a client start this server: `uvx`, what to install, and the environment."""

import json
import re
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from urllib.request import url2pathname

from openrouter_mcp.environment import UNWRITABLE
from openrouter_mcp.state import STATE_URL

PROGRAM = "openrouter-mcp"
KEY, KEY_FILE = "OPENROUTER_API_KEY", "OPENROUTER_API_KEY_FILE"
PLACEHOLDER = "sk-or-v1-your-key"
_STRANGER = (
    f"The name {PROGRAM} on the public index belongs to somebody else's package, which would be handed your key. Name "
    "the source: --from FOLDER, a wheel or sdist, or git+https://..."
)
_NAME = r"openrouter[-_.]+mcp\s*(?:\[[^\]]*\])?"
_BARE = re.compile(rf"\s*{_NAME}\s*(?:[=<>!~@;,( ].*)?", re.IGNORECASE | re.DOTALL)
_REFERENCE = re.compile(rf"({_NAME})\s*@\s*(\S+://\S+)", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:git\+(?:https|ssh|file)|https|file)://[\x21-\x7e]+")
_ARCHIVES = (".whl", ".tar.gz", ".zip")


class CannotConfigure(Exception):
    """What was asked cannot be done; the text says why, for the person. `status` is the exit status."""

    status = 1


class WrongArgument(CannotConfigure):
    """The command line itself is wrong."""

    status = 2


def entry(source: str, key: Mapping[str, str], settings: Mapping[str, str], *, sandbox: bool) -> dict[str, Any]:
    """`command`, `args` and `env` of a server installed from `source`.

    `key` is what refers to the key, `settings` what else the server is told; the sandbox needs no key.

    Raises:
        CannotConfigure: when uvx is not found, or something cannot be written into a file.
    """
    if settings.keys() & {STATE_URL, f"{STATE_URL}_FILE"} and "[" not in source:
        source = f"{PROGRAM}[redis] @ {source if '://' in source else Path(source).as_uri()}"
    command, arguments = _uvx(), ["--from", source, PROGRAM, *(["--sandbox"] if sandbox else [])]
    # Clients give a server some ten seconds to start; what is compiled once starts in half of its time.
    env = {**({} if sandbox else key), "UV_COMPILE_BYTECODE": "1", **settings}
    if any(UNWRITABLE.search(each) for each in (command, *arguments, *env.values())):
        raise CannotConfigure("A path of this entry holds a character that no client's file can hold.")
    return {"command": command, "args": arguments, "env": env}


def _uvx() -> str:
    """Its absolute path: clients that are no terminals do not have a terminal's PATH."""
    name = "uvx.exe" if sys.platform == "win32" else "uvx"
    found = shutil.which(name)
    if not found:
        raise CannotConfigure(f"{name} is not on the PATH. Install uv (https://docs.astral.sh/uv/), then try again.")
    return str(Path(found).absolute())


def runs_this(server: object) -> bool:
    """Whether an entry found in a client's file starts this server, from whatever source."""
    if not isinstance(server, dict) or not isinstance(server.get("command"), str):
        return False
    program = re.split(r"[/\\]", server["command"])[-1].lower().removesuffix(".exe")
    if program == PROGRAM:
        return True
    arguments = server["args"] if isinstance(server.get("args"), list) else []
    is_runner = re.fullmatch(r"uvx?|py|python[0-9.]*", program) is not None
    return is_runner and any(each in (PROGRAM, "openrouter_mcp") for each in arguments)


def updated(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`new` with what the user has put into `old`: keys and variables of their own, and the key itself, unless `new`
    names a file for it."""
    had = old["env"] if isinstance(old.get("env"), dict) else {}
    env = {**had, **new["env"]}
    filled_in = isinstance(had.get(KEY), str) and had[KEY] not in ("", PLACEHOLDER) and "$" not in had[KEY]
    if filled_in and KEY_FILE not in new["env"]:
        env[KEY] = had[KEY]
    elif KEY not in new["env"] or KEY_FILE in env:
        env.pop(KEY, None)
    return {**old, **new, "env": env}


def source(given: str | None) -> str:
    """What uvx is to install: what was `given`, else what this very installation was made from.

    Raises:
        CannotConfigure: when it came from an index by name, where the name is not ours.
        WrongArgument: when what was given is that name, or nothing that can be installed.
    """
    if given is not None:
        return checked(given)
    try:
        record = distribution(PROGRAM).read_text("direct_url.json")
    except PackageNotFoundError:
        record = None
    root = Path(__file__).parents[2]
    if record:
        return made_from(json.loads(record))
    if (root / "pyproject.toml").is_file():
        return str(root)
    raise CannotConfigure(f"What this installation was made from is not recorded. {_STRANGER}")


def made_from(record: Mapping[str, Any]) -> str:
    """The source that an installer's record names, a commit where it has one:
    https://packaging.python.org/en/latest/specifications/direct-url-data-structure/

    Raises:
        CannotConfigure: when that source is gone, or cannot be named without a password.
    """
    url = str(record["url"])
    if vcs := record.get("vcs_info"):
        parts = urlsplit(url)
        if parts.scheme != "ssh" and parts.username:  # a token has no place in a client's file
            url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        url = f"{vcs['vcs']}+{url}@{vcs.get('commit_id') or vcs['requested_revision']}"
        folder = record.get("subdirectory")
        url += f"#subdirectory={folder}" if folder else ""
    elif url.startswith("file://"):
        url = url2pathname(urlsplit(url).path)
    try:
        return checked(url)
    except WrongArgument as problem:
        raise CannotConfigure(f"{problem} That is what this installation was made from; give --from another.") from None


def checked(given: str) -> str:
    """`given` if it is an address or a path (made absolute), never a name that an index would be asked for.

    Raises:
        WrongArgument: otherwise.
    """
    if match := _REFERENCE.fullmatch(given.strip()):
        return f"{match[1].strip()} @ {checked(match[2])}"
    if _BARE.fullmatch(given):
        raise WrongArgument(_STRANGER)
    if "://" in given:
        return _checked_address(given)
    try:
        path = Path(given).expanduser().absolute()
        installable = (path / "pyproject.toml").is_file() or (path.is_file() and path.name.endswith(_ARCHIVES))
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, `~` without a home
        installable = False
    if not given.strip() or UNWRITABLE.search(given) or not installable:
        raise WrongArgument(
            f"{given[:200]!a} is no folder with a pyproject.toml, wheel, sdist or git+https:// address."
        )
    return str(path)


def _checked_address(given: str) -> str:
    try:
        parts = urlsplit(given.removeprefix("git+"))
        named = parts.password or (parts.username and parts.scheme != "ssh")
    except ValueError:
        raise WrongArgument("That source is no address.") from None
    if named:
        raise WrongArgument("That source holds a user name or a password, which would stand in a client's file.")
    if not _ADDRESS.fullmatch(given):
        raise WrongArgument(
            "A source's address begins with git+https://, git+ssh://, git+file://, https:// or file://."
        )
    return given
