"""Only pages that the playground itself serves may use it. Any other page in the browser could send it jobs
and, under a host name that resolves to this machine (DNS rebinding), read its answers.
"""
from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
READS = ("GET", "HEAD", "OPTIONS")


class OwnPagesOnly:
    """ASGI middleware: answers 403 to a request for a host name that is not served, and to one that is more
    than a read from a page of another origin, which cannot see the answer to a read.

    host: the address to listen on. If it stands for all of the machine's addresses, every name is served.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], host: str):
        self.app, self.names = app, None if _is_any(host) else LOCAL | {host.lower()}

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope.get("headers", ())}
        if scope["type"] != "http" or self.takes(scope["method"], headers):
            await self.app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 403, "headers": []})
        await send({"type": "http.response.body", "body": b"Use the address that textinv play prints."})

    def takes(self, method: str, headers: Mapping[bytes, str]) -> bool:
        """True if a request with these headers comes from a page served here. headers: lowercase names."""
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        try:
            name, source = urlsplit(f"//{host}").hostname, urlsplit(origin or "").netloc
        except ValueError:                  # brackets without an address in them
            return False
        return ((self.names is None or name in self.names)
                and (origin is None or method in READS or source.lower() == host.lower()))


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
