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

PROXIES = {
    "nginx": ("nginx.conf", "-p . -e stderr -c config"),
    "haproxy": ("haproxy.cfg", "-db -f config"),
}
"""Program → its configuration beside this module, and its arguments."""


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
    file, arguments = PROXIES[name]
    command = [program(name), *arguments.split()]
    (port,), upstream = free_ports(1), urlsplit(upstream_url).netloc
    user = "user root;" if os.geteuid() == 0 else ""  # else its worker could not use the folder
    with tempfile.TemporaryDirectory() as folder:
        config = Path(__file__).with_name(file).read_text()
        for what, value in {"port": port, "upstream": upstream, "user": user}.items():
            config = config.replace(f"@{what}@", str(value))
        (Path(folder) / "config").write_text(config)
        url = f"http://127.0.0.1:{port}"
        with server(command, lambda: answers(f"{url}/readyz"), os.environ, Path(folder)):
            yield url
