"""Run the gateway: open its socket, set up its log, start its workers."""

import logging
import os
import resource
import signal
import socket
import ssl
import sys
import tempfile
from contextlib import nullcontext, suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from types import FrameType

import uvicorn
from pydantic import SecretStr
from uvicorn.supervisors import Multiprocess

from gateway.app import create_app
from gateway.config.settings import Settings, SettingsError
from gateway.http.connection import HttpConnection
from gateway.http.places import allowed_connections
from gateway.observability import log_config as logs
from gateway.observability import otlp
from gateway.observability.workers import MULTIPROCESS_DIR
from gateway.security.state_tokens import kept_secret

METRICS_BYTES = 1 << 16
"""Largest size of one worker's file of metrics, with the new one beside it."""
ACCEPTED_AT_ONCE = 16
"""Listening sockets, all duplicates of one: the event loop accepts one connection from each in a
turn. With a single socket, new connections waited for seconds beside a thousand busy ones."""

log = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Serve until a signal ends it.

    Raises SettingsError where the address cannot be listened on or a file cannot be used.
    """
    otlp.check()
    headers = [("x-content-type-options", "nosniff")]
    if settings.ssl_certfile is not None:
        _check_certificate(settings)
        headers.append(("strict-transport-security", "max-age=31536000"))
    listener = _listen(settings.host, settings.port)
    if not settings.state_keys:  # the same for all workers, and wherever settings are read again
        os.environ["STATE_SECRET"] = secret = kept_secret()
        settings = settings.model_copy(update={"state_secret": SecretStr(secret)})
    if settings.config_file is not None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the application listens to it
    config = uvicorn.Config(
        partial(create_app, settings),
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        loop="gateway.http.event_loop:Loop",
        http=HttpConnection,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        log_config=logs.configuration(settings),
        access_log=False,
        server_header=False,
        headers=headers,
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
    )
    log.info(
        "listening on %s://%s:%d, Triton at %s",
        "http" if settings.ssl_certfile is None else "https",
        f"[{settings.host}]" if ":" in settings.host else settings.host,
        settings.port,
        settings.triton_endpoint,
    )
    if settings.host == "::":
        log.info("HOST=:: is for IPv6 alone; 0.0.0.0 is for IPv4")
    address = ip_address(listener.getsockname()[0].partition("%")[0])
    if settings.api_keys_file is None and not address.is_loopback:
        log.warning(
            "HOST=%s lets other machines in and no API key is asked for: set API_KEYS_FILE "
            "(`carlarl keys new` makes a key), or listen on 127.0.0.1",
            settings.host,
        )
    _allow_files(settings.max_connections)
    sockets = [listener, *(listener.dup() for _ in range(ACCEPTED_AT_ONCE - 1))]
    if settings.workers == 1:
        # uvicorn raises again the signal that ended it, when all is done.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=sockets)
        return
    given = os.environ.get(MULTIPROCESS_DIR)
    with nullcontext(given) if given else tempfile.TemporaryDirectory() as folder:
        # The workers are fresh interpreters; this is how their metrics find each other.
        os.environ[MULTIPROCESS_DIR] = folder
        _check_room(Path(folder), settings.workers)
        _Workers(config, sockets, rereads=settings.config_file is not None).run()


class _Workers(Multiprocess):
    """uvicorn's supervisor of workers, which passes signals on at once.

    uvicorn itself looks for signals twice a second, and keeps the listening sockets open until all
    workers have ended: then nobody accepts a new connection, and it is reset. `rereads` says that
    workers reread their configuration on SIGHUP.
    """

    def __init__(
        self, config: uvicorn.Config, sockets: list[socket.socket], *, rereads: bool
    ) -> None:
        super().__init__(config, sockets)
        self._rereads = rereads
        self._told: set[int] = set()
        signal.signal(signal.SIGTERM, self._stop)

    def terminate_all(self) -> None:
        """End the workers that got no SIGTERM yet."""
        for process in self.processes:
            if process.pid not in self._told:
                process.terminate()

    def handle_hup(self) -> None:
        """Make every worker reread its configuration; without a file, replace the workers."""
        if self._rereads:
            self._send(signal.SIGHUP)
        else:
            super().handle_hup()

    def _stop(self, number: int, _: FrameType | None) -> None:
        self.signal_queue.append(number)
        self._told |= self._send(signal.SIGTERM)
        for one in self.sockets:
            one.close()

    def _send(self, number: signal.Signals) -> set[int]:
        """Send a signal to all workers; return their process ids."""
        alive = {one.pid for one in self.processes if one.pid and one.process.is_alive()}
        for pid in alive:
            os.kill(pid, number)
        return alive


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.getaddrinfo(host, port)
        return socket.create_server((host, port), family=family, backlog=2048)
    except socket.gaierror as error:
        raise SettingsError(f"HOST={host}: no such host ({error.strerror})") from error
    except OSError as error:
        reason = error.strerror or error
        raise SettingsError(
            f"PORT={port}: {host}:{port} cannot be listened on ({reason}); choose a free port"
        ) from error


def _check_certificate(settings: Settings) -> None:
    """Raise SettingsError unless the certificate chain and its key can be used."""
    certificate, key = str(settings.ssl_certfile), str(settings.ssl_keyfile)
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, password="")  # else it would ask for one
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"SSL_CERTFILE={certificate}, SSL_KEYFILE={key}: must be a certificate chain and its "
            f"key, unencrypted, in PEM ({error.strerror if isinstance(error, OSError) else error})"
        ) from None


def _check_room(folder: Path, workers: int) -> None:
    """Raise SettingsError if the folder has no room for the workers' files of metrics."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, workers * METRICS_BYTES)
    except OSError as error:
        raise SettingsError(
            f"{MULTIPROCESS_DIR}={folder}: must have room for the metrics of {workers} workers, "
            f"{workers * METRICS_BYTES >> 10} kB ({error.strerror})"
        ) from None


def _allow_files(connections: int) -> None:
    """Raise this process's limit of open files; warn if it is too low for `connections`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    allowed = allowed_connections(connections)
    if allowed < connections:
        log.warning(
            "MAX_CONNECTIONS=%d is lowered to %d, as this process may open %d files only; "
            "raise `ulimit -n`",
            connections,
            allowed,
            hard,
        )
