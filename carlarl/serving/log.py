"""What `carlarl serve` prints: text for people, or JSON lines like the gateway's."""

import contextlib
import logging
import logging.config
import os
from collections.abc import Callable
from dataclasses import dataclass

from gateway.config.settings import Settings
from gateway.observability import log_config as logs

_log = logging.getLogger("carlarl.serve")


@dataclass(frozen=True)
class Voice:
    """Functions that print news, a warning, and the reason why serving ended."""

    say: Callable[[str], None]
    warn: Callable[[str], None]
    fail: Callable[[str], None]


def voice(settings: Settings) -> Voice:
    """Return the voice for `LOG_FORMAT`. JSON goes to standard error, like the gateway's."""
    if settings.log_format == "text":
        return Voice(_printed(1), _printed(1), lambda text: _printed(2)(f"carlarl: {text}"))
    logging.config.dictConfig(logs.configuration(settings))
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every probe
    return Voice(*map(_logged, (logging.INFO, logging.WARNING, logging.ERROR)))


def _printed(file: int) -> Callable[[str], None]:
    def tell(text: str) -> None:
        """Print at once. A full disk or a closed pipe there is no reason to end the service."""
        with contextlib.suppress(OSError):
            os.write(file, f"{text}\n".encode())

    return tell


def _logged(level: int) -> Callable[[str], None]:
    def tell(text: str) -> None:
        """Log the first line; the lines after it are its details."""
        first, _, details = text.partition("\n")
        _log.log(level, "%s", first, extra={"details": details} if details else None)

    return tell
