"""The command line: `openrouter-mcp` is the stdio server, `serve` the HTTP server, `try` a short session to watch,
`doctor` finds what does not work, `config` makes a client start the server; `ask`, `compare`, `free` and `credits` are
tools for a person."""

import argparse
import gc
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial

import anyio

from openrouter_mcp import settings
from openrouter_mcp.cli import logs
from openrouter_mcp.cli.arguments import parser
from openrouter_mcp.errors import OpenRouterMCPError
from openrouter_mcp.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 when a session failed, 2 for a wrong setting or argument, 3
    when there was no answer in time."""
    options = parser().parse_args(arguments)
    try:
        chosen = settings.load()
        logs.to_stderr(chosen.key, options.log_format)
        if chosen.key_problem and not options.sandbox:
            print(f"openrouter-mcp: {chosen.key_problem}", file=sys.stderr)
        return _command(options, chosen)
    except OpenRouterMCPError as error:
        if options.command == "doctor":
            from openrouter_mcp.cli.doctor import misled

            return misled(error.text, as_json=options.json)
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
        return _doctor(options, chosen)
    if options.command == "config":
        from openrouter_mcp.cli.config import config

        return config(chosen, options)
    if options.command is not None:
        from openrouter_mcp.cli.twin import twin

        return anyio.run(partial(twin, chosen, options))
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


def _doctor(options: argparse.Namespace, chosen: Settings) -> int:
    from openrouter_mcp.cli.doctor import doctor

    return doctor(
        chosen,
        sandbox=options.sandbox,
        acknowledge=options.acknowledge,
        as_json=options.json,
        offline=options.offline,
        question=options.question,
    )
