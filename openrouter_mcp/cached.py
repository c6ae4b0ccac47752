"""The model list on disk, one file for every process of the user: read, kept, and downloaded by one at a time.

Nothing here fails: where the file cannot be used, each process has a list of its own.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import anyio
import anyio.to_thread

from openrouter_mcp import listing, wire
from openrouter_mcp.errors import BadReply, UnusableBook
from openrouter_mcp.ledger.place import private_file
from openrouter_mcp.listing import ALL, USABLE, Listing
from openrouter_mcp.text import mapping, number

LONGEST_TURN_S = 5.0  # then a list downloaded twice is better than a call that waits
_LOOK_AGAIN_S = 0.05
_HEAD_BYTES = 4096


class Cached:
    """The list that `base_url` shows to `key`, in `folder`; without a folder there is none. The key itself is nowhere
    in it: two keys see two lists, so the file is named by a hash of both."""

    def __init__(self, folder: Path | None, base_url: str = "", key: str = "") -> None:
        self._folder = folder
        self._list = hashlib.sha256(f"openrouter-mcp models {base_url} {key}".encode()).hexdigest()[:32]
        self._name = f"models-{self._list}.json"

    async def read(self, after: float, until: float, known: Listing | None = None) -> tuple[Listing, float] | None:
        """The list on disk, if it was asked for `after` that time and not later than `until`, and when that was (epoch
        seconds). `known` is not read again if it is that."""
        return await anyio.to_thread.run_sync(self._read, after, until, known) if self._folder else None

    async def keep(self, found: Listing, at: float) -> None:
        """Keep what was asked for `at` that time. A list without its `body` is the one on disk, found unchanged."""
        if self._folder:
            await anyio.to_thread.run_sync(self._keep, found, at)

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Whoever is in here is alone among the processes, unless another has been in for LONGEST_TURN_S."""
        held: ExitStack | None = None
        if self._folder:
            with anyio.move_on_after(LONGEST_TURN_S):
                while (held := await anyio.to_thread.run_sync(self._lock)) is None:  # noqa: ASYNC110 - no event: processes
                    await anyio.sleep(_LOOK_AGAIN_S)
        try:
            yield
        finally:
            if held:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(held.close)

    # --- in a thread --------------------------------------------------------------------------------------------------

    def _lock(self) -> ExitStack | None:
        """What lets the others in when it is closed, or dropped by who was cancelled meanwhile; None while they are."""
        from filelock import FileLock, Timeout  # only a download need pay for it

        held = ExitStack()
        with suppress(OSError, NotImplementedError, UnusableBook):  # a folder without locks: everybody may go in
            lock = FileLock(self._path(".lock"), mode=0o600, thread_local=False)  # it is given back by another thread
            try:
                lock.acquire(blocking=False)
            except Timeout:
                return None
            held.enter_context(suppress(OSError))
            held.callback(lock.release)
        return held

    def _read(self, after: float, until: float, known: Listing | None) -> tuple[Listing, float] | None:
        with suppress(OSError, UnusableBook, BadReply):
            head, body = self._content()
            at, path, etag = number(head.get("at")), head.get("path"), head.get("etag")
            if head.get("list") != self._list or path not in (USABLE, ALL) or not isinstance(etag, str):
                return None
            if at is None or not after < at <= until:
                return None
            if known and etag and (path, etag) == (known.path, known.etag):
                return known, at
            return listing.read(body, path, etag), at
        return None

    def _keep(self, found: Listing, at: float) -> None:
        with suppress(OSError, UnusableBook, BadReply):
            body = found.body
            if not body:
                head, body = self._content()
                if (head.get("list"), head.get("path"), head.get("etag")) != (self._list, found.path, found.etag):
                    return  # a sibling's, of another version
            head = {"list": self._list, "at": at, "path": found.path, "etag": found.etag}
            self._write(json.dumps(head).encode() + b"\n" + body)

    def _content(self) -> tuple[dict[str, object], bytes]:
        with self._path().open("rb") as file:
            content = file.read(listing.MAX_BYTES + _HEAD_BYTES)
        head, _, body = content.partition(b"\n")
        return mapping(wire.read_json(head)), body

    def _write(self, content: bytes) -> None:
        """All of it or nothing: who reads meanwhile sees the old file."""
        path = self._path()
        handle, new = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
        with ExitStack() as unless_written:
            unless_written.callback(Path(new).unlink, missing_ok=True)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(new).replace(path)
            unless_written.pop_all()

    def _path(self, suffix: str = "") -> Path:
        """Made if need be, and checked to be the user's own."""
        if self._folder is None:
            raise UnusableBook("There is no folder.")
        return private_file(self._folder, self._name + suffix)
