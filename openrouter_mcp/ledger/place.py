"""Where the book lies: a file of the user's own that nobody else could have planted."""

import os
import stat
from pathlib import Path

from openrouter_mcp.errors import UnusableBook


def private_file(folder: Path, name: str) -> Path:
    """`folder/name`, made if need be (folder 0700, file 0600), checked to be a regular file that is the user's own.

    Raises:
        UnusableBook: when it is a link, no regular file, or somebody else's.
        OSError: when it cannot be made or opened.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_owner(folder.stat(), folder)
    path = folder / name
    if path.is_symlink():
        raise UnusableBook(f"{path} is a link")
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    handle = os.open(path, flags, 0o600)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise UnusableBook(f"{path} is no regular file")
        _check_owner(found, path)
    finally:
        os.close(handle)
    return path


def _check_owner(found: os.stat_result, path: Path) -> None:
    """On Windows, where there is no such owner, the user's folder is trusted as it is."""
    if not hasattr(os, "geteuid"):
        return
    if found.st_uid != os.geteuid():
        raise UnusableBook(f"{path} belongs to another user")
    if found.st_mode & 0o022:
        raise UnusableBook(f"{path} can be written by others")
