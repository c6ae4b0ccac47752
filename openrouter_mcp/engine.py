"""A Redis or Valkey server that keeps the books of many hosts. Blocking; call it off the event loop.

While it is away, nothing waits for it: what is asked of it fails at once, until `try_again` finds it back.
"""

import logging
import re
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, cast
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.retry import Retry

from openrouter_mcp.errors import EngineAway
from openrouter_mcp.text import one_line

PREFIX = "{openrouter-mcp}:"  # in braces: all names on one node of a cluster
_LONGEST_S = 2.0  # for a connection, and for any answer
_PAUSE_S = 10.0
_FRESH_S = 30.0
_OLDEST = (6, 2)
_AWAY = "they cannot be used"
_SAMPLE = 1000  # names
_COMMAND = re.compile("run the '([^' ]+)' command")
_STEPPED_S = 0.5  # a clock that moved by more than another was set
_WRITES = "redis.call('SET', KEYS[1] .. 'alive', 1, 'EX', 60)"
logger = logging.getLogger(__name__)


class Engine:
    """The server at `url` (redis:// or rediss://, which may hold a password and is shown nowhere). Its own clock is
    everybody's, unless `own_time` is false: then the moments count of whoever asks. A process that `is_spared` goes on
    alone, with a few free requests, while it is away. `clock` gives epoch seconds, `steady` seconds that nobody
    sets."""

    def __init__(
        self,
        url: str,
        *,
        own_time: bool = True,
        is_spared: bool = False,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = redis.Redis.from_url(
            url,
            decode_responses=True,
            encoding_errors="replace",
            socket_connect_timeout=_LONGEST_S,
            socket_timeout=_LONGEST_S,
            retry=Retry(NoBackoff(), 0),  # what may have been carried out is not asked for twice
            protocol=2,
        )
        self._clock = clock
        self._steady = steady
        self._scripts: dict[str, Script] = {}
        self._ahead_s = 0.0  # of our clock
        self._is_known = False
        self._known_at = 0.0
        self._steadily = 0.0  # the same by a clock that nobody sets
        self.own_time = own_time
        self.is_spared = is_spared
        self.name = _shown(url)
        self._left_at = self._pause_s = 0.0
        self.told: list[str] = []  # what the user should know, said once
        self.away = ""  # why
        self.away_since = 0.0
        self.back_since = 0.0  # by the clock that counts

    def now(self) -> float:
        """Epoch seconds by the clock that counts, as nearly as we know it."""
        return self._clock() + self._ahead_s

    def run(self, script: str, *arguments: str | float) -> Any:  # noqa: ANN401 - whatever the script says
        """What the Lua `script` says, which runs whole or not at all. KEYS[1] is the prefix of our names.

        Raises:
            EngineAway: when it cannot be run, or nobody knows whether it was.
            UnusableBook: when it says that the book cannot be used.
        """
        if self.away:
            raise EngineAway(self.away)
        try:
            if not self._is_known:
                self._get_to_know()
            return self._ask(script, *arguments)
        except (redis.RedisError, OSError, EngineAway) as error:
            raise self._leave(error) from error

    def try_again(self) -> bool:
        """Whether it can be used; look, if that was not found out lately: its clock and ours drift apart."""
        is_fresh = not self.away and self._is_known and self._is_lately(self._known_at, _FRESH_S) and not self._is_set()
        if not is_fresh and not self._is_lately(self._left_at, self._pause_s):
            try:
                self._get_to_know()
            except (redis.RedisError, OSError, EngineAway) as error:
                self._leave(error)
            else:
                if self.away:
                    logger.warning("The books at %s can be used again.", self.name)
                    self.back_since = self.now()
                self.away = ""
                self.told = [told for told in self.told if not told.startswith(_AWAY)]
        return not self.away

    def refuse(self, why: str) -> EngineAway:
        """What it holds cannot be used: leave it for a while."""
        return self._leave(EngineAway(why), pause_s=_PAUSE_S)

    def _is_lately(self, moment: float, seconds: float) -> bool:
        return 0.0 <= self._clock() - moment < seconds  # not so where the clock was set back

    def _is_set(self) -> bool:
        """Whether our clock was, since we compared it with the engine's."""
        return abs(self._clock() - self._known_at - (self._steady() - self._steadily)) > _STEPPED_S

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _leave(self, error: Exception, *, pause_s: float = 0.0) -> EngineAway:
        why = error.text if isinstance(error, EngineAway) else _why(error)
        if not self.away:
            self._tell(f"{_AWAY}: {why}. They are tried again every second")
            self.away_since = self._clock()
        # What a script meets may be there still when all else is well again: that is not found out every second.
        pause_s = _PAUSE_S if isinstance(error, redis.ResponseError) else pause_s
        self._left_at, self._pause_s = self._clock(), pause_s
        self.away, self._is_known = why, False
        return EngineAway(why)

    def _ask(self, script: str, *arguments: str | float) -> Any:  # noqa: ANN401 - whatever the script says
        if script not in self._scripts:
            self._scripts[script] = self._client.register_script(script)
        return self._scripts[script](keys=[PREFIX], args=list(arguments))

    def _tell(self, what: str) -> None:
        if what not in self.told:
            self.told.append(what)
            logger.warning("The books at %s: %s.", self.name, what)

    def _get_to_know(self) -> None:
        """Look at what it is, and whether it takes what we write; say what the user should know."""
        seconds, microseconds = self._client.time()
        self._ahead_s = seconds + microseconds / 1e6 - self._clock() if self.own_time else 0.0
        said: dict[str, Any] = {}
        with suppress(redis.ResponseError):  # not for this user, or renamed: then it is taken as it is
            said = self._client.info()
        version = str(said.get("redis_version", ""))
        if version and tuple(map(int, re.findall("[0-9]+", version)[:2])) < _OLDEST:
            raise EngineAway(f"it is version {version}, and 6.2 is the oldest that will do")
        if said.get("role") in ("slave", "replica"):
            raise EngineAway("it is a read-only replica")
        self._ask(_WRITES)
        for doubt in self._doubts(said):
            self._tell(doubt)
        self._is_known, self._known_at, self._steadily = True, self._clock(), self._steady()

    def _doubts(self, said: dict[str, Any]) -> Generator[str]:
        policy = str(said.get("maxmemory_policy", "noeviction"))
        if said.get("maxmemory") and policy != "noeviction":
            yield (
                f"it forgets what it likes when its memory is full (maxmemory-policy {policy}), and the books with it: "
                "set noeviction"
            )
        names: list[str] = []
        with suppress(redis.ResponseError):  # as above
            _, names = cast("tuple[int, list[str]]", self._client.scan(count=_SAMPLE))
        if any(not name.startswith(PREFIX) for name in names):
            yield (
                "its database holds what is not openrouter-mcp's: whoever puts that there can read the answers and "
                "change the books. Give it a database and a user of its own"
            )


def _shown(url: str) -> str:
    """Where it is, without the user or the password."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or 6379}{parts.path}"


def _why(error: Exception) -> str:
    """A failure in words that hold nothing of the URL."""
    match error:
        case redis.exceptions.NoPermissionError() if found := _COMMAND.search(str(error)):
            return f"it does not let this user run {found[1]}"
        case redis.AuthenticationError() | redis.exceptions.AuthorizationError() | redis.exceptions.NoPermissionError():
            return "it refuses the user or the password, or does not let them do this"
        case redis.ReadOnlyError():
            return "it is a read-only replica"
        case redis.exceptions.OutOfMemoryError():
            return "its memory is full"
        case redis.TimeoutError():
            return f"it did not answer in {_LONGEST_S:.0f} s"
        case redis.ConnectionError() | OSError() if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return "its certificate is not trusted here; a private one can be named in SSL_CERT_FILE"
        case redis.ConnectionError() | OSError():
            return "it cannot be reached" if "closed" not in str(error) else "it closed the connection"
        case redis.ResponseError() if "WRONGTYPE" in str(error):
            return f"something that is not openrouter-mcp's lies under its names ({PREFIX}*)"
    said, *_ = str(error).split(", with args beginning")  # which can be the password, or a prompt
    return one_line(f"{type(error).__name__}: {said}", 200)
