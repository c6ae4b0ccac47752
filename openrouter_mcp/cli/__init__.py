"""The command line: `openrouter-mcp` is the stdio server, `serve` the HTTP server, `try` a short session to watch,
`doctor` shows how the guard stands."""

import argparse
import gc
import logging
import sys
from collections.abc import Sequence
from functools import partial

import anyio
from pydantic import SecretStr

from openrouter_mcp import __version__, settings
from openrouter_mcp.errors import OpenRouterMCPError
from openrouter_mcp.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 when a session failed, 2 for a wrong setting or argument."""
    options = _parser().parse_args(arguments)
    try:
        chosen = settings.load()
        _log_to_stderr(chosen.key)
        if chosen.key_problem and not options.sandbox:
            print(f"openrouter-mcp: {chosen.key_problem}", file=sys.stderr)
        return _command(options, chosen)
    except OpenRouterMCPError as error:
        print(f"openrouter-mcp: {error.text}", file=sys.stderr)
        return 1 if options.command == "try" else 2
    except KeyboardInterrupt:
        return 130


def _command(options: argparse.Namespace, chosen: Settings) -> int:
    # Each command imports what it needs: a stdio server must not pay for uvicorn.
    if options.command == "serve":
        from openrouter_mcp.cli.serve import serve

        transports = (options.transport,) if options.transport else None
        return anyio.run(
            partial(serve, chosen, sandbox=options.sandbox, host=options.host, port=options.port, transports=transports)
        )
    if options.command == "try":
        from openrouter_mcp.cli.trial import trial

        return anyio.run(partial(trial, chosen, sandbox=options.sandbox))
    if options.command == "doctor":
        from openrouter_mcp.cli.doctor import doctor

        return doctor(chosen, sandbox=options.sandbox, acknowledge=options.acknowledge)
    # Clients wait for this server at their own start, some for two of it. Nothing that an import makes is garbage, and
    # looking for it costs 30 ms of 550 (tests/bench).
    gc.disable()
    from openrouter_mcp.cli.stdio import serve_stdio

    gc.freeze()
    gc.enable()
    return anyio.run(partial(serve_stdio, chosen, sandbox=options.sandbox))


def _parser() -> argparse.ArgumentParser:
    sandbox = argparse.ArgumentParser(add_help=False)
    sandbox.add_argument(
        "--sandbox",
        action="store_true",
        default=argparse.SUPPRESS,
        help="answer from an embedded stand-in for OpenRouter: no key, no network, no cost",
    )
    parser = argparse.ArgumentParser(
        prog="openrouter-mcp",
        description="An MCP server for the models behind OpenRouter. Without a command: serve MCP over stdio.",
        parents=[sandbox],
    )
    parser.set_defaults(sandbox=False)
    parser.add_argument("--version", action="version", version=f"openrouter-mcp {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    serve = commands.add_parser("serve", parents=[sandbox], help="serve MCP over HTTP: /mcp and /sse")
    serve.add_argument("--transport", choices=("streamable-http", "sse"), help="serve this one only")
    serve.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    serve.add_argument("--port", type=_port, default=8000, help="0 picks a free one (default: %(default)s)")
    doctor = commands.add_parser("doctor", parents=[sandbox], help="show how the budget and the guard stand")
    doctor.add_argument("--acknowledge", action="store_true", help="open a closed guard again, once you know why")
    commands.add_parser("try", parents=[sandbox], help="watch a short session as an agent would see it")
    return parser


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return int(text)


class _WithoutKey(logging.Formatter):
    """The last door of every log line, tracebacks included: the key does not pass."""

    def __init__(self, key: SecretStr | None) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")
        self._key = key

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return line.replace(self._key.get_secret_value(), "[key]") if self._key else line


def _log_to_stderr(key: SecretStr | None) -> None:
    """Set the root up before the SDK does; stdout belongs to the protocol."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_WithoutKey(key))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
