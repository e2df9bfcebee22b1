"""TLS: the certificate."""

import ssl


def check(certfile: str, keyfile: str) -> None:
    """Try the certificate chain and its key, which must not be encrypted.

    Raises OSError, which ssl.SSLError is, or ValueError where they can't be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certfile, keyfile, password="")  # else it would ask
