"""Files from the folders a user named, and from nowhere else. Blocking.

The path comes from a model, and what lies in the folder from anybody: every directory on the way is opened by its own
name inside the one before, no link is followed, and what is checked is the very file that is read.
"""

import os
import stat
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePath

from openrouter_mcp.errors import BadFile
from openrouter_mcp.text import one_line

_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _NO_LINK
_FILE = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _NO_LINK  # a pipe nobody writes to must not hold up the server
_BY_STEPS = os.open in os.supports_dir_fd


def read(path: str, folders: Sequence[Path], secrets: Collection[Path], *, most: int) -> bytes:
    """The content of the file at `path`, `most` bytes of it and one more at the most: absolute, or in the first of
    `folders` that has it. What is one of `secrets`, or lies in one, is refused.

    Raises:
        BadFile: when it may not be read, or cannot.
    """
    wanted = PurePath(path)
    if not wanted.parts or any(part.startswith(".") or "\x00" in part for part in wanted.parts):
        raise BadFile(f"{shown(path)} is refused: no part of a path may begin with a dot.")
    for folder in folders:
        if wanted.is_absolute() and not wanted.is_relative_to(folder):
            continue
        if not folder.is_dir():
            raise BadFile(f"The folder that files may be sent from, {shown(str(folder))}, is not there. Tell the user.")
        if any(_real(folder).is_relative_to(_real(secret)) for secret in secrets):
            raise BadFile(
                f"The folder {shown(str(folder))} is the server's own, and nothing in it is sent. Tell the user."
            )
        try:
            return _read_inside(folder, wanted.relative_to(folder) if wanted.is_absolute() else wanted, secrets, most)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:  # ELOOP is a link, ENOTDIR no folder; a name that no file can have
            why = getattr(error, "strerror", None) or type(error).__name__
            raise BadFile(f"{shown(path)} cannot be read, or is a link: {why}.") from error
    raise BadFile(f"{shown(path)} is not in the folders that files may be sent from, or not there.")


def shown(path: str) -> str:
    """What an agent wrote, as it may be shown."""
    return repr(one_line(path, 100))


def _read_inside(folder: Path, inside: PurePath, secrets: Collection[Path], most: int) -> bytes:
    own = [path for secret in secrets for path in (secret, *_content(secret))]  # by whatever name it is opened
    forbidden = {(found.st_dev, found.st_ino) for found in map(_found, own) if found}
    with ExitStack() as opened:
        handle = None
        for name, flags in _steps(folder, inside):
            handle = os.open(name, flags, dir_fd=handle)
            opened.callback(os.close, handle)
            found = os.fstat(handle)
            if (found.st_dev, found.st_ino) in forbidden:
                raise BadFile(f"{shown(str(inside))} is the server's own and never sent.")
        if handle is None or not stat.S_ISREG(found.st_mode):
            raise BadFile(f"{shown(str(inside))} is no regular file.")
        with open(handle, "rb", closefd=False) as file:
            return file.read(most + 1)


def _steps(folder: Path, inside: PurePath) -> list[tuple[str, int]]:
    """The names to open one in the other, and how. Where the system cannot (Windows), the whole path at once, if no
    part of it is a link."""
    if _BY_STEPS:
        *directories, name = inside.parts or (".",)
        return [(str(folder), _DIRECTORY), *((each, _DIRECTORY) for each in directories), (name, _FILE)]
    real = (folder / inside).resolve(strict=True)
    if real != folder.resolve(strict=True) / inside:
        raise BadFile(f"{shown(str(inside))} is a link, or lies behind one.")
    return [(str(real), _FILE)]


def _real(path: Path) -> PurePath:
    return PurePath(os.path.realpath(path))


def _content(path: Path) -> list[Path]:
    """What lies in a folder; nothing in what is none."""
    try:
        return list(path.iterdir())
    except OSError:
        return []


def _found(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
