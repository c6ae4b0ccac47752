"""Which engine keeps the books of several hosts, as the environment says."""

import re
from collections.abc import Mapping
from decimal import Decimal
from importlib.util import find_spec

from pydantic import SecretStr

from openrouter_mcp.errors import BadSetting

STATE_URL = "OPENROUTER_MCP_STATE_URL"
_FALLBACK = "OPENROUTER_MCP_STATE_FALLBACK"
_SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}
# Strict, so that the library cannot read another host in it, or an option that turns TLS's checks off.
_STRICT = re.compile(
    r"(?P<scheme>[a-z]+)(?P<rest>://([A-Za-z0-9._~%!$&'()*+,;=-]*(:[A-Za-z0-9._~%!$&'()*+,;=-]*)?@)?"
    r"([A-Za-z0-9._-]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?(/[0-9]{0,4})?)"
)


def state_url(text: str, name: str = STATE_URL) -> SecretStr | None:
    """The URL of the engine, as its library wants it, when `text` is what `name` says; None when that is nothing: the
    books are in a folder.

    Raises:
        BadSetting: when it cannot be followed; never with the URL, which may hold a password.
    """
    if not text:
        return None
    found = _STRICT.fullmatch(text)
    if not found or found["scheme"] not in _SCHEMES or int(found["port"] or 1) not in range(1, 65536):
        raise BadSetting(
            f"{name} must be redis://, rediss:// (with TLS) or valkey://, then [USER:PASSWORD@]HOST[:PORT][/DATABASE] "
            "and nothing else; other characters of a password are written as %XX."
        )
    if not find_spec("redis"):
        raise BadSetting(f"{name} needs the extra `redis`: start openrouter-mcp as openrouter-mcp[redis].")
    return SecretStr(f"{_SCHEMES[found['scheme']]}{found['rest']}")


def goes_on_alone(environ: Mapping[str, str], budget: Decimal) -> bool:
    """Whether a server whose engine is away goes on with a few free requests of its own.

    Raises:
        BadSetting: when it may spend money, which nobody would count.
    """
    text = environ.get(_FALLBACK, "").strip()
    if text not in ("", "local"):
        raise BadSetting(f"{_FALLBACK} must be local, or not be set.")
    if text and budget:
        raise BadSetting(f"{_FALLBACK}=local is for a budget of the day of $0 only.")
    return bool(text)
