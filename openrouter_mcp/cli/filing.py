"""A client's file: read once, replaced in one step, with what it said before kept beside it."""

import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from openrouter_mcp.cli.entry import CannotConfigure

_CHANGED = "changed while it was being read: nothing was written. Close the client, then try again."


@dataclass(frozen=True)
class Found:
    """What was read: `content` and `status` are None where there is no file. A link is followed: `target` is the file
    it names, and the link stays."""

    path: Path
    target: Path
    content: bytes | None
    status: os.stat_result | None

    @property
    def stamp(self) -> tuple[object, ...]:
        """What tells it from anything else that may stand in its place."""
        seen = (self.status.st_ino, self.status.st_mtime_ns, self.status.st_mode) if self.status else ()
        return (self.target, self.content, *seen)


def read(path: Path) -> Found:
    """The file at `path`, which need not be there.

    Raises:
        CannotConfigure: when it cannot be read, or is no regular file.
    """
    try:
        target = path.resolve()
        try:
            status = target.stat()
        except FileNotFoundError:
            return Found(path, target, None, None)
        if not stat.S_ISREG(status.st_mode):
            raise CannotConfigure(f"{path} is no regular file: nothing was changed.")
        return Found(path, target, target.read_bytes(), status)
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
        raise CannotConfigure(f"{path} cannot be read ({reason(error)}): nothing was changed.") from None


def replace(found: Found, content: bytes) -> Path | None:
    """Put `content` in the place of what was found, in one step and with the same permissions. Returns the copy of the
    old file, None where there was none.

    Raises:
        CannotConfigure: when it cannot be written, or is no longer what was found; the old file then stands untouched.
    """
    refuse_read_only(found)
    try:
        found.target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _written(found, content)
        try:
            return _swapped(found, temporary)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise CannotConfigure(f"{found.path} cannot be written ({reason(error)}): nothing was changed.") from None


def _swapped(found: Found, temporary: Path) -> Path | None:
    """`temporary` in the place of what was found; the copy of the old file, which goes again if that fails."""
    copy, is_done = backup(found), False
    try:
        if read(found.path).stamp != found.stamp:  # as late as can be: some clients write their files all the time
            raise CannotConfigure(f"{found.path} {_CHANGED}")
        temporary.replace(found.target)
        is_done = True
    finally:
        if copy and not is_done:
            copy.unlink(missing_ok=True)
    return copy


def refuse_read_only(found: Found) -> None:
    """Raises:
    CannotConfigure: where the file is marked so; its folder would let it be replaced all the same."""
    if found.status and not (found.status.st_mode & 0o222 and os.access(found.target, os.W_OK)):
        raise CannotConfigure(f"{found.path} is read-only: nothing was changed.")


def backup(found: Found) -> Path | None:
    """A copy of what was found, beside it, under a name that nothing has yet; None where nothing was found.

    Raises:
        OSError: when it cannot be made.
    """
    if found.content is None or found.status is None:
        return None
    number = 0
    while True:
        copy = found.target.with_name(f"{found.target.name}.bak{number or ''}")
        try:
            descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        except FileExistsError:
            number += 1
            continue
        with os.fdopen(descriptor, "wb") as file:
            file.write(found.content)
        copy.chmod(stat.S_IMODE(found.status.st_mode))
        return copy


def _written(found: Found, content: bytes) -> Path:
    """A new file beside the target, whole on the disk, with the target's owner and permissions."""
    descriptor, name = tempfile.mkstemp(dir=found.target.parent, prefix=f".{found.target.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if found.status:
            made = temporary.stat()
            if (made.st_uid, made.st_gid) != (found.status.st_uid, found.status.st_gid):
                os.chown(temporary, found.status.st_uid, found.status.st_gid)
            temporary.chmod(stat.S_IMODE(found.status.st_mode))
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def reason(error: OSError | RuntimeError) -> str:
    """The system's word for it, without the path."""
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
