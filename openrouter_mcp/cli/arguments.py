"""What the command line takes."""

import argparse

from openrouter_mcp import __version__
from openrouter_mcp.cli import logs

_KNOWN = "claude-desktop, claude-code, cursor, vscode, windsurf, codex, gemini-cli or zed"


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line: `command` is None for the stdio server."""
    sandbox, log = _sandbox(), _log()
    whole = argparse.ArgumentParser(
        prog="openrouter-mcp",
        description="An MCP server for the models behind OpenRouter. Without a command: serve MCP over stdio.",
        parents=[sandbox, log],
    )
    whole.set_defaults(sandbox=False, log_format=logs.TEXT)
    whole.add_argument("--version", action="version", version=f"openrouter-mcp {__version__}")
    commands = whole.add_subparsers(dest="command", metavar="command")
    serve = commands.add_parser("serve", parents=[sandbox, log], help="serve MCP over HTTP: /mcp and /sse")
    serve.add_argument("--transport", choices=("streamable-http", "sse"), help="serve this one only")
    serve.add_argument(
        "--host", default="127.0.0.1", help="the address (default: %(default)s); others than loopback need tokens"
    )
    serve.add_argument("--port", type=_port, default=8000, help="0 picks a free one (default: %(default)s)")
    _add_doctor(commands.add_parser("doctor", parents=[sandbox], help="find out what works and what does not"))
    _add_config(
        commands.add_parser("config", parents=[sandbox], help="the entry that makes a client start this server")
    )
    commands.add_parser("try", parents=[sandbox], help="watch a short session as an agent would see it")
    _add_ask(commands.add_parser("ask", parents=[sandbox], help="ask a model, as ask_model does"))
    _add_compare(commands.add_parser("compare", parents=[sandbox], help="ask several models the same thing"))
    _add_free(commands.add_parser("free", parents=[sandbox], help="the models that are free right now"))
    _add_json(commands.add_parser("credits", parents=[sandbox], help="what is left of allowance, budget and balance"))
    return whole


def _sandbox() -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(
        "--sandbox",
        action="store_true",
        default=argparse.SUPPRESS,
        help="answer from an embedded stand-in for OpenRouter: no key, no network, no cost",
    )
    return parent


def _log() -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument(
        "--log-format",
        choices=logs.FORMATS,
        default=argparse.SUPPRESS,
        help="of the log on stderr, a line for each call; none: warnings only (default: text)",
    )
    return parent


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(log_format=logs.QUIET)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--acknowledge", action="store_true", help="open a closed guard again, once you know why")
    form.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--offline", action="store_true", help="send nothing")
    parser.add_argument(
        "--no-question", dest="question", action="store_false", help="ask no model, which uses a free request"
    )


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("client", metavar="CLIENT", help=_KNOWN)
    deed = parser.add_mutually_exclusive_group()
    deed.add_argument("--write", action="store_true", help="put the entry where the client looks for it")
    deed.add_argument("--remove", action="store_true", help="take the entry out again")
    parser.add_argument("--from", dest="source", metavar="SOURCE", help="a folder, wheel, sdist or git+https address")
    parser.add_argument("--name", default="openrouter", help="what the client calls this server (default: %(default)s)")


def _add_ask(parser: argparse.ArgumentParser) -> None:
    _add_question(parser)
    parser.add_argument("--model", metavar="ID", help="default: the best free ones right now")
    parser.add_argument("--continue", dest="continue_from", metavar="ID", help="go on from that answer")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    _add_question(parser)
    parser.add_argument(
        "--model", dest="models", metavar="ID", action="append", help="one of 2 to 8; default: three free ones"
    )
    parser.add_argument("--judge", metavar="ID", help="a model that ranks the answers blind")


def _add_question(parser: argparse.ArgumentParser) -> None:
    _add_json(parser)
    parser.add_argument("prompt", metavar="PROMPT", help="the whole task; - reads it from stdin")
    parser.add_argument("--system", metavar="TEXT", help="system prompt: role, tone, rules")
    parser.add_argument("--max-tokens", type=_count, metavar="N", help="most tokens to write, reasoning included")
    parser.add_argument(
        "--attach",
        metavar="PATH",
        action="append",
        help="a file in OPENROUTER_MCP_FILES_DIR, or the https address of a picture or a PDF; may be repeated",
    )


def _add_free(parser: argparse.ArgumentParser) -> None:
    _add_json(parser)
    parser.add_argument("--search", metavar="WORDS", help="words in the id or name")
    parser.add_argument("--task", help="code, reasoning, writing, translation, vision, long or fast")
    parser.add_argument("--needs", metavar="ABILITY", action="append", help="tools, json, vision ...; may be repeated")
    parser.add_argument("--limit", type=_count, metavar="N", help="most rows")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(log_format=logs.NONE)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return int(text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) < 10**9:
        raise argparse.ArgumentTypeError("it is a number from 1 on")
    return int(text)
