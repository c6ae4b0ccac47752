"""The command line: `openrouter-mcp` is the stdio server, `serve` the HTTP server, `try` a short session to watch,
`doctor` shows how the guard stands."""

import argparse
import gc
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial

import anyio

from openrouter_mcp import __version__, settings
from openrouter_mcp.cli import logs
from openrouter_mcp.errors import OpenRouterMCPError
from openrouter_mcp.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 when a session failed, 2 for a wrong setting or argument."""
    options = _parser().parse_args(arguments)
    try:
        chosen = settings.load()
        logs.to_stderr(chosen.key, options.log_format)
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
        with _no_garbage():
            from openrouter_mcp import access
            from openrouter_mcp.cli.serve import serve
        transports = (options.transport,) if options.transport else None
        address = {"host": options.host, "port": options.port}
        return anyio.run(
            partial(serve, chosen, sandbox=options.sandbox, **address, transports=transports, access=access.load())
        )
    if options.command == "try":
        from openrouter_mcp.cli.trial import trial

        return anyio.run(partial(trial, chosen, sandbox=options.sandbox))
    if options.command == "doctor":
        from openrouter_mcp.cli.doctor import doctor

        return doctor(chosen, sandbox=options.sandbox, acknowledge=options.acknowledge)
    with _no_garbage():
        from openrouter_mcp.cli.stdio import serve_stdio
    return anyio.run(partial(serve_stdio, chosen, sandbox=options.sandbox))


@contextmanager
def _no_garbage() -> Generator[None]:
    """Nothing that an import makes is garbage. To look for it costs 30 ms of the 550 of a start, for which clients
    wait, some for two; and some 100 ms now and then while calls wait (tests/bench)."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def _parser() -> argparse.ArgumentParser:
    sandbox = argparse.ArgumentParser(add_help=False)
    sandbox.add_argument(
        "--sandbox",
        action="store_true",
        default=argparse.SUPPRESS,
        help="answer from an embedded stand-in for OpenRouter: no key, no network, no cost",
    )
    log = argparse.ArgumentParser(add_help=False)
    log.add_argument(
        "--log-format",
        choices=logs.FORMATS,
        default=argparse.SUPPRESS,
        help="of the log on stderr, a line for each call; none: warnings only (default: text)",
    )
    parser = argparse.ArgumentParser(
        prog="openrouter-mcp",
        description="An MCP server for the models behind OpenRouter. Without a command: serve MCP over stdio.",
        parents=[sandbox, log],
    )
    parser.set_defaults(sandbox=False, log_format=logs.TEXT)
    parser.add_argument("--version", action="version", version=f"openrouter-mcp {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    serve = commands.add_parser("serve", parents=[sandbox, log], help="serve MCP over HTTP: /mcp and /sse")
    serve.add_argument("--transport", choices=("streamable-http", "sse"), help="serve this one only")
    serve.add_argument(
        "--host", default="127.0.0.1", help="the address (default: %(default)s); others than loopback need tokens"
    )
    serve.add_argument("--port", type=_port, default=8000, help="0 picks a free one (default: %(default)s)")
    doctor = commands.add_parser("doctor", parents=[sandbox], help="show how the budget and the guard stand")
    doctor.add_argument("--acknowledge", action="store_true", help="open a closed guard again, once you know why")
    commands.add_parser("try", parents=[sandbox], help="watch a short session as an agent would see it")
    return parser


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return int(text)
