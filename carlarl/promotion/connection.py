"""The Triton that runs on a repository: find it, and wait for it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from carlarl.promotion.promote import Progress, PromotionError
from carlarl.promotion.triton_control import TritonControl
from carlarl.serving import running
from gateway.config.settings import Settings

PATIENCE_S = 60.0
"""How long a service that runs may take until its Triton answers."""


@contextmanager
def running_triton(
    settings: Settings,
    progress: Progress = lambda step: None,
    patience_s: float = PATIENCE_S,
) -> Iterator[TritonControl]:
    """Return the server to promote on: at TRITON_URL, or that of the service on the repository.

    Waits up to `patience_s` while such a service starts. Raises PromotionError if no server
    answers, or if several services run on the repository.
    """
    deadline = time.monotonic() + patience_s
    while True:
        found = running.services(settings)
        if len({one.triton for one in found}) > 1:
            urls = ", ".join(one.triton for one in found)
            raise PromotionError(f"connect: several services run on it: name one of {urls}")
        url, port = settings.triton_endpoint, settings.triton_grpc_port
        for one in found:
            url, port = one.triton, one.grpc_port
        with TritonControl(url, settings.triton_token, port) as control:
            if control.answers():
                control.pinned = next((one.pinned for one in found), settings.model_version)
                yield control
                return
        if not found or time.monotonic() > deadline:
            raise PromotionError(
                f"connect: no Triton answers at {url}; nothing was changed. Start `carlarl serve`, "
                "set TRITON_URL, or change the repository alone with --offline"
            )
        progress(f"wait for {url}")
        time.sleep(0.2)
