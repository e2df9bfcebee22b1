"""The real Triton alone, with models of a repository."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from carlarl.serving.cleanup import own_folder
from carlarl.serving.triton_server import TritonServer
from tests.stack import free_ports


@contextmanager
def running_triton(repository: Path, models: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Serve models until the block ends; give the ports for HTTP and gRPC."""
    http, grpc, metrics = free_ports(3)
    with own_folder() as folder:
        server = TritonServer(folder, repository, models, http=http, grpc=grpc, metrics=metrics)
        try:
            _wait_ready(server, f"http://127.0.0.1:{http}/v2/health/ready")
            yield http, grpc
        finally:
            server.stop()


def _wait_ready(server: TritonServer, url: str) -> None:
    deadline = time.monotonic() + 120
    while server.exit_code() is None and time.monotonic() < deadline:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError(server.log_tail())
