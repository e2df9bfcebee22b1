"""Real proxies in front of a server, in the foreground, as root or as a user."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from perf.load.generator import LoadError
from perf.load.processes import answers, free_ports, server

_NGINX = """
daemon off;
{user}
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    client_max_body_size 0;
    map $http_upgrade $connection_to_upstream {{
        default upgrade;
        "" "";
    }}
    {upstream}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            {location}
        }}
    }}
}}
"""

_UPSTREAM = "upstream gateway {{ server {}; keepalive 32; }}"

_PASS = """
            proxy_pass http://gateway;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_to_upstream;
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
"""

_HAPROXY = """
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    option forwardfor
    http-reuse always
frontend callers
    bind 127.0.0.1:{port}
    default_backend gateways
backend gateways
    server gateway {upstream}
"""


class MissingError(LoadError):
    """A program or a package is not there; the text says which, and how to get it."""


def program(*names: str) -> str:
    """Give the path of the first of these programs that is there; raises MissingError."""
    for name in names:
        # Debian has servers in /usr/sbin, which is not on a user's PATH.
        if path := shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin"):
            return path
    raise MissingError(f"{names[0]} is missing: apt-get install {names[0]}")


@contextmanager
def nginx(upstream_url: str, ready: str = "/readyz") -> Iterator[str]:
    """Run nginx in front of `upstream_url`, to which it keeps its connections; gives its URL.

    It writes the usual forwarding headers, and passes upgrades on, as a proxy before `/stream`
    does. The block begins once `ready` answers 200 through it. Raises MissingError or
    processes.StartError.
    """
    with _nginx(_UPSTREAM.format(urlsplit(upstream_url).netloc), _PASS, ready) as url:
        yield url


@contextmanager
def constant_answer(body: str) -> Iterator[str]:
    """Run an nginx that answers everything with this JSON; gives its URL.

    Raises MissingError or processes.StartError.
    """
    location = f"default_type application/json;\n            return 200 '{body}';"
    with _nginx("", location, "/") as url:
        yield url


@contextmanager
def _nginx(upstream: str, location: str, ready: str) -> Iterator[str]:
    path = program("nginx")
    (port,) = free_ports(1)
    user = "user root;" if os.geteuid() == 0 else ""  # else its worker could not use the folder
    with tempfile.TemporaryDirectory() as folder:
        text = _NGINX.format(user=user, upstream=upstream, port=port, location=location)
        (Path(folder) / "nginx.conf").write_text(text)
        command = [path, "-p", folder, "-e", "stderr", "-c", "nginx.conf"]
        url = f"http://127.0.0.1:{port}"
        with server(command, lambda: answers(url + ready), os.environ):
            yield url


@contextmanager
def haproxy(upstream_url: str, ready: str = "/readyz") -> Iterator[str]:
    """Run HAProxy in front of `upstream_url`, to which it keeps its connections; gives its URL.

    Callers share the kept connections. The block begins once `ready` answers 200 through it. Raises
    MissingError or processes.StartError.
    """
    path = program("haproxy")
    (port,) = free_ports(1)
    with tempfile.NamedTemporaryFile("w", suffix=".cfg") as file:
        file.write(_HAPROXY.format(port=port, upstream=urlsplit(upstream_url).netloc))
        file.flush()
        url = f"http://127.0.0.1:{port}"
        command = [path, "-db", "-f", file.name]
        with server(command, lambda: answers(url + ready), os.environ):
            yield url
