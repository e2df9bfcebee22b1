"""Ports: whether they are free, and which process holds them."""

import errno
import socket
from typing import Any

import psutil

from carlarl.errors import CommandError


class PortTakenError(CommandError):
    """The gateway or Triton can't listen on an address."""


def check_free(host: str, port: int, variable: str) -> None:
    """Raise PortTakenError if nothing can listen on `host`:`port`.

    The text names the port and the process that holds it, or the host if that is the reason.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except socket.gaierror as error:
            raise PortTakenError(f"HOST={host}: no such host ({error.strerror})") from None
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise PortTakenError(f"HOST={host}: no address of this machine") from None
            holder = _holder(port)
            end_it = "end that process, or " if holder else ""
            raise PortTakenError(
                f"port {port} ({variable}) can't be used on {host}: {error.strerror}{holder}; "
                f"{end_it}set {variable} to another port"
            ) from None


def _holder(port: int) -> str:
    for connection in psutil.net_connections("inet"):
        address: Any = connection.laddr
        if connection.status == psutil.CONN_LISTEN and address.port == port:
            if connection.pid is None:
                return ", by a process of another user"
            return f", by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    return ""
