"""Real proxies in front of a gateway, in the foreground, as root or as a user."""

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
    upstream gateway {{ server {upstream}; keepalive 32; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://gateway;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
}}
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
PROXIES = {"nginx": (_NGINX, "-p . -e stderr -c config"), "haproxy": (_HAPROXY, "-db -f config")}
"""Program → its configuration, and its arguments."""


class MissingError(LoadError):
    """A program or a package is not there; the text says which, and how to get it."""


def program(name: str) -> str:
    """Return the path of a program; raises MissingError."""
    # Debian has servers in /usr/sbin, which is not on a user's PATH.
    if path := shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin"):
        return path
    raise MissingError(f"{name} is missing: apt-get install {name}")


@contextmanager
def proxy(name: str, upstream_url: str) -> Iterator[str]:
    """Run one of PROXIES in front of `upstream_url` until the block ends; gives its URL.

    It keeps its connections to the server, and writes the usual forwarding headers. The block
    begins once `/readyz` answers 200 through it. Raises MissingError or processes.StartError.
    """
    text, arguments = PROXIES[name]
    command = [program(name), *arguments.split()]
    (port,) = free_ports(1)
    user = "user root;" if os.geteuid() == 0 else ""  # else its worker could not use the folder
    with tempfile.TemporaryDirectory() as folder:
        config = text.format(port=port, upstream=urlsplit(upstream_url).netloc, user=user)
        (Path(folder) / "config").write_text(config)
        url = f"http://127.0.0.1:{port}"
        with server(command, lambda: answers(f"{url}/readyz"), os.environ, Path(folder)):
            yield url
