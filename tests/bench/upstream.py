# ruff: noqa: T201 - the port is this program's one answer
"""Serves the sandbox on a free loopback port, with delays and without limits; prints the port; ends when stdin does.

`python upstream.py MS [MODEL=MS ...] [--models COUNT] [--long MODEL]`: milliseconds before the first token, for all
models and for single ones; how many models there are besides the sandbox's; and the model that says 2 MB at once.
"""

import json
import socket
import sys
from decimal import Decimal
from threading import Thread

import uvicorn

from openrouter_mcp.sandbox import Fault, Sandbox
from openrouter_mcp.sandbox.models import Row, model

_PLENTY = 1_000_000
_LONG = 2_000_000  # bytes
_PIECE = "A word is said, and then another one.\n" * 5


def main() -> None:
    """Serve until stdin ends: it does so too when the one who started this is gone."""
    sandbox = Sandbox()
    sandbox.account.per_minute = sandbox.account.per_day = _PLENTY
    sandbox.account.bought = Decimal(_PLENTY)
    sandbox.delay_s = float(sys.argv[1]) / 1000
    arguments = sys.argv[2:]
    if "--long" in arguments:
        model = arguments.pop()
        arguments.pop()
        sandbox.fail(Fault(body=_long(), headers={"content-type": "text/event-stream"}), times=None, model=model)
    if "--models" in arguments:
        count = int(arguments.pop())
        arguments.pop()
        sandbox.catalog += [_model(number) for number in range(count)]
    for argument in arguments:
        model, _, delay_ms = argument.rpartition("=")
        sandbox.delays[model] = float(delay_ms) / 1000
    # asyncio sets TCP_NODELAY only on sockets that name their protocol; on others a kept connection waits 40 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(256)
        # Longer than a measurement lasts: a bare server does not get over a kept connection that ends just now.
        config = uvicorn.Config(sandbox.app, lifespan="off", log_level="warning", access_log=False)
        config.timeout_keep_alive = 600
        server = uvicorn.Server(config)
        Thread(target=_stop_at_end_of_stdin, args=(server,), daemon=True).start()
        print(listener.getsockname()[1], flush=True)
        server.run(sockets=[listener])


def _long() -> bytes:
    """A stream of 2 MB of text, in pieces as a fast model sends them."""
    event = f"data: {json.dumps({'choices': [{'delta': {'content': _PIECE}}]})}\n\n".encode()
    last = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    return event * (_LONG // len(_PIECE)) + last


def _model(number: int) -> Row:
    """One of many: some free, some that reason, no two alike."""
    name = f"vendor-{number % 100}/{('large', 'coder', 'vision', 'small')[number % 4]}-{number}"
    scores = (number % 600 / 10, number % 500 / 10, number % 400 / 10)
    if number % 10:
        return model(name, f"0.00000{number + 1}", f"0.00000{number + 9}", can="tools schema think", scores=scores)
    return model(f"{name}:free", "0", "0", can="tools", reads="text image", scores=scores)


def _stop_at_end_of_stdin(server: uvicorn.Server) -> None:
    sys.stdin.buffer.read()
    server.should_exit = True


if __name__ == "__main__":
    main()
