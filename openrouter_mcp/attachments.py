"""What an agent attaches, as parts of a message: files of the user's folder by what is in them, and addresses of
pictures and PDFs, which are passed on and never fetched here. Blocking.
"""

import base64
import re
from collections.abc import Sequence
from pathlib import PurePath

from openrouter_mcp.callers import Caller
from openrouter_mcp.chat import Part
from openrouter_mcp.errors import BadFile
from openrouter_mcp.files import read, shown
from openrouter_mcp.settings import Settings
from openrouter_mcp.text import one_line

_MB = 1024 * 1024
_MOST_TEXT, _MOST_OTHER, _MOST_IN_ALL = 2 * _MB, 20 * _MB, 40 * _MB
_LONGEST_URL = 2000
_LONGEST_NAME = 255
# A name with a dot, its last part of letters: no number of a machine, no `localhost`.
_URL = re.compile(
    r"https://(?P<host>(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63})"
    r"/(?P<path>[!-~]*)\.(?P<suffix>png|jpg|jpeg|webp|gif|pdf)",
    re.ASCII | re.IGNORECASE,
)
_NEAR = (".local", ".internal", ".localhost", ".lan", ".arpa")
_NOT_IN_PATH = frozenset('?#\\@"<>')
_SUFFIXES = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".gif"), "image"),
    **dict.fromkeys((".wav", ".mp3"), "audio"),
    ".pdf": "file",
}
_IN_WORDS = {"image": "picture", "audio": "sound", "file": "PDF"}
_PICTURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF87a": "gif", b"GIF89a": "gif"}
_OVER_HTTP = "You have no folder to send files from; https addresses of pictures and PDFs can be attached."
_NO_FOLDER = (
    "There is no folder that files may be sent from. Tell the user that OPENROUTER_MCP_FILES_DIR names one; https "
    "addresses of pictures and PDFs can be attached without."
)


def load(attach: Sequence[str], settings: Settings, caller: Caller) -> tuple[Part, ...]:
    """Each path or address as a part of the message, files from the folders of `caller`.

    Raises:
        BadFile: for the first that cannot be sent, and when they are too much together.
    """
    parts: list[Part] = []
    for each in attach:
        parts.append(_linked(each) if "://" in each else _read(each, settings, caller))
        if sum(part.size for part in parts) > _MOST_IN_ALL:
            raise BadFile(f"The files have over {_MOST_IN_ALL // _MB} MB together. Attach fewer at a time.")
    return tuple(parts)


def _linked(url: str) -> Part:
    match = _URL.fullmatch(url) if len(url) <= _LONGEST_URL else None
    if not match or match["host"].lower().endswith(_NEAR) or _NOT_IN_PATH & {*match["path"]}:
        raise BadFile(
            f"{shown(url)} is no public https address of a picture or a PDF, ending in .png, .jpg, .webp, .gif or .pdf."
        )
    name = url.rpartition("/")[2]
    if match["suffix"].lower() == "pdf":
        return Part("file", name, {"type": "file", "file": {"filename": name, "file_data": url}})
    return Part("image", name, {"type": "image_url", "image_url": {"url": url}})


def _read(path: str, settings: Settings, caller: Caller) -> Part:
    if not caller.files:
        raise BadFile(_OVER_HTTP if caller.name else _NO_FOLDER)
    secrets = [found for found in (settings.key_file, settings.state_dir, settings.cache_dir, *settings.own) if found]
    content = read(path, caller.files, secrets, most=_MOST_OTHER)
    name = _named(path)
    kind, form = _kind(content)
    meant = _SUFFIXES.get(PurePath(name).suffix.lower(), kind)
    if not content:
        raise BadFile(f"{shown(path)} is empty.")
    if kind != meant:
        raise BadFile(f"{shown(path)} is called a {_IN_WORDS.get(meant, meant)}, but its content is none.")
    if len(content) > (_MOST_TEXT if kind == "text" else _MOST_OTHER):
        raise BadFile(f"{shown(path)} is over {(_MOST_TEXT if kind == 'text' else _MOST_OTHER) // _MB} MB.")
    return _part(name, kind, form, content, path)


def _named(path: str) -> str:
    """The file's name on one line: who may write into the folder must not write the lines around a file."""
    return one_line(PurePath(path).name, _LONGEST_NAME) or "unnamed"


def _kind(content: bytes) -> tuple[str, str]:
    """What the content is, by its first bytes: `image`, `audio`, `file` (a PDF) or `text`; and in which form."""
    start = content[:12]
    for mark, form in _PICTURES.items():
        if start.startswith(mark):
            return "image", form
    if start.startswith(b"RIFF") and start[8:] in (b"WEBP", b"WAVE"):
        return ("image", "webp") if start[8:] == b"WEBP" else ("audio", "wav")
    if re.match(rb"ID3[\x02-\x04]", start) or (len(start) > 1 and start[0] == 0xFF and start[1] & 0xE6 == 0xE2):
        return "audio", "mp3"
    head = content[:1024]  # a PDF may begin later than it should, and a text may speak of one
    if head.lstrip(b"\xef\xbb\xbf\r\n ").startswith(b"%PDF-") or (b"%PDF-" in head and b"%%EOF" in content[-1024:]):
        return "file", "pdf"
    return "text", ""


def _part(name: str, kind: str, form: str, content: bytes, path: str) -> Part:
    if kind == "text":
        text = _fenced(name, _decoded(content, path))
        return Part("text", name, {"type": "text", "text": text}, text, len(content))
    data = base64.b64encode(content).decode()
    as_read: dict[str, dict[str, object]] = {
        "audio": {"type": "input_audio", "input_audio": {"data": data, "format": form}},
        "image": {"type": "image_url", "image_url": {"url": f"data:image/{form};base64,{data}"}},
        "file": {"type": "file", "file": {"filename": name, "file_data": f"data:application/pdf;base64,{data}"}},
    }
    return Part(kind, name, as_read[kind], size=len(content))


def _decoded(content: bytes, path: str) -> str:
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise BadFile(
            f"{shown(path)} is neither text in UTF-8 nor a picture, PDF or sound that can be sent. Convert it first."
        ) from error
    if "\x00" in text:
        raise BadFile(f"{shown(path)} holds zero bytes, so it is no text; nor is it a picture, PDF or sound.")
    return text


def _fenced(name: str, text: str) -> str:
    """Named, between marks that the text itself does not hold."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return f"File {name}:\n{fence}\n{text.rstrip()}\n{fence}"
