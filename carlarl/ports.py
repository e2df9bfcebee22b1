"""Ports: whether they are free, and who holds them."""

from __future__ import annotations

import socket
from typing import Any

import psutil


class PortTakenError(Exception):
    """A port that somebody else listens on."""


def check_free(host: str, port: int, variable: str) -> None:
    """Raise PortTakenError, naming port and holder, where `host`:`port` can't be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = f"{error.strerror}{_holder(port)}"
            raise PortTakenError(
                f"port {port} ({variable}) can't be used on {host}: {reason}; "
                f"end that process, or set {variable} to another port"
            ) from None


def _holder(port: int) -> str:
    for connection in psutil.net_connections("inet"):
        address: Any = connection.laddr
        if connection.status == psutil.CONN_LISTEN and address.port == port:
            if connection.pid is None:
                return ", by a process of another user"
            return f", by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    return ""
