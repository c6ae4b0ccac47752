"""OpenRouter in small, embedded: an ASGI app for trying the tools without a key, and for tests.

    sandbox = Sandbox()
    client = httpx2.AsyncClient(transport=transport.StreamingTransport(sandbox.app), base_url="http://sandbox/api/v1")

`openrouter_mcp.sandbox.transport` is a submodule of its own: only it needs httpx2.
"""

from openrouter_mcp.sandbox.faults import Fault
from openrouter_mcp.sandbox.server import Received, Sandbox

__all__ = ["Fault", "Received", "Sandbox"]
