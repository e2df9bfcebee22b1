"""nginx and HAProxy in front of a gateway, each as a child process on a free port."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.gateway.processes import ROOT, free_port, status, until
from tests.observability.prometheus import left_out

UNPACKED = ROOT / ".proxies" / "usr"
"""Where `make test` puts the programs where they are not installed."""
PLACES = (UNPACKED / "sbin", UNPACKED / "bin", Path("/usr/sbin"))
PROXIES = ("nginx", "haproxy")

NGINX = """
{user}
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    keepalive_requests 1000000;
    upstream gateway {{
        server {gateway};
        keepalive 1;
        keepalive_requests 1000000;
    }}
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://gateway;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_request_buffering {buffering};
            proxy_next_upstream off;
        }}
    }}
}}
"""
"""As nginx's own page on WebSocket has it, with kept connections to the gateway."""

HAPROXY = """
global
    maxconn 512
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    timeout http-keep-alive 30s
    retries 0
frontend callers
    bind 127.0.0.1:{port}
    default_backend gateways
backend gateways
    http-reuse always
    http-request set-header Upgrade foo if METH_POST {{ req.hdr(Connection) -m sub -i upgrade }}
    server gateway {gateway} pool-max-conn 1
"""
"""It takes the header Upgrade from a request with a body, and leaves Connection: Upgrade as it is.
The rule stands for those of operators that set Upgrade themselves."""


def program(name: str) -> str:
    """The path of a program; empty where it is missing."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(map(str, PLACES))) or ""


def needs(*names: str) -> pytest.MarkDecorator:
    """Mark a test that needs these programs: it fails without them where `CI` is set."""
    missing = [name for name in names if not program(name)]
    reason = f"apt-get install {' '.join(missing)}"
    return pytest.mark.skipif(left_out(os.environ, there=not missing), reason=reason)


@contextmanager
def proxy(name: str, gateway_url: str, *, buffering: bool = True) -> Iterator[str]:
    """Run nginx or HAProxy in front of a gateway until the block ends, and give its URL.

    It keeps one connection to the gateway that all callers share. With `buffering` nginx reads a
    body to its end before it sends it on.
    """
    assert program(name), f"apt-get install {name}"
    port = free_port()
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
        path = Path(folder) / f"{name}.conf"
        text = NGINX if name == "nginx" else HAPROXY
        path.write_text(
            text.format(
                folder=folder,
                port=port,
                gateway=gateway_url.removeprefix("http://"),
                buffering="on" if buffering else "off",
                user="user root;" if os.geteuid() == 0 else "",
            )
        )
        of_nginx = ["-e", "stderr", "-p", folder, "-c", str(path)]
        options = of_nginx if name == "nginx" else ["-db", "-f", str(path)]
        process = subprocess.Popen([program(name), *options], env=_environment(name))
        try:
            url = f"http://127.0.0.1:{port}"
            until(lambda: status(url + "/livez") == 200 or process.poll() is not None)
            assert process.poll() is None, f"{name} ended by itself"
            yield url
        finally:
            process.terminate()
            process.wait(20)


def _environment(name: str) -> dict[str, str]:
    """Let a program that was unpacked find the libraries that were unpacked with it."""
    unpacked = program(name).startswith(str(UNPACKED))
    folders = [str(path) for path in sorted((UNPACKED / "lib").glob("*-linux-gnu*"))]
    return os.environ | ({"LD_LIBRARY_PATH": os.pathsep.join(folders)} if unpacked else {})
