"""Real proxies in front of a server, in the foreground, as root or as a user."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
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
    {upstream}
    server {{
        listen 127.0.0.1:{port};
        location / {{ {location} }}
    }}
}}
"""
_PASS = """
proxy_pass http://gateway;
proxy_http_version 1.1;
proxy_set_header Connection "";
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
listen gateways
    bind 127.0.0.1:{port}
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
def _running(name: str, arguments: str, config: str, ready: str, **places: str) -> Iterator[str]:
    path = program(name)
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config").write_text(config.format(port=port, **places))
        command = [path, *arguments.split(), "config"]
        with server(command, lambda: answers(url + ready), os.environ, Path(folder)):
            yield url


def _nginx(upstream: str, location: str, ready: str) -> AbstractContextManager[str]:
    user = "user root;" if os.geteuid() == 0 else ""  # else its worker could not use the folder
    places = {"user": user, "upstream": upstream, "location": location}
    return _running("nginx", "-p . -e stderr -c", _NGINX, ready, **places)


def nginx(upstream_url: str, ready: str = "/readyz") -> AbstractContextManager[str]:
    """Run nginx in front of `upstream_url`, to which it keeps its connections; gives its URL.

    It writes the usual forwarding headers. The block begins once `ready` answers 200 through it,
    and raises MissingError or processes.StartError.
    """
    upstream = f"upstream gateway {{ server {urlsplit(upstream_url).netloc}; keepalive 32; }}"
    return _nginx(upstream, _PASS, ready)


def haproxy(upstream_url: str, ready: str = "/readyz") -> AbstractContextManager[str]:
    """Run HAProxy as `nginx` runs nginx; its callers share the kept connections."""
    upstream = urlsplit(upstream_url).netloc
    return _running("haproxy", "-db -f", _HAPROXY, ready, upstream=upstream)


def constant_answer(body: str) -> AbstractContextManager[str]:
    """Run an nginx that answers everything with this JSON; raises as `nginx` does."""
    return _nginx("", f"default_type application/json; return 200 '{body}';", "/")
