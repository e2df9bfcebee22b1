"""TLS: the certificate, and an event loop whose handshakes must come in time."""

import ssl
from typing import Any

import uvloop

HANDSHAKE_S = 5.0
"""How long a TLS handshake may take."""


class Loop(uvloop.Loop):
    """uvicorn's event loop; uvicorn itself sets no time for handshakes, for which it is 60 s."""

    async def create_server(self, *arguments: Any, **options: Any) -> Any:
        """Listen as the loop does."""
        if options.get("ssl") is not None:
            options["ssl_handshake_timeout"] = HANDSHAKE_S
            options["ssl_shutdown_timeout"] = HANDSHAKE_S  # for the peer's part of the end
        return await super().create_server(*arguments, **options)


def check(certfile: str, keyfile: str) -> None:
    """Try the certificate chain and its key, which must not be encrypted.

    Raises OSError, which ssl.SSLError is, or ValueError where they can't be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certfile, keyfile, password="")  # else it would ask
