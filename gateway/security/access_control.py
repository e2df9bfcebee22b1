"""Access control: which paths are open, closed or need a key, and how often one may ask."""

from collections.abc import Mapping
from math import ceil

from starlette.exceptions import HTTPException

from gateway.api.errors import RateExceeded, ServiceUnavailable, Unauthorized
from gateway.api.paths import DOCS, METRICS, PROBES, ROOT
from gateway.config.live import LiveSettings
from gateway.console import CONSOLE
from gateway.security.api_keys import Keys
from gateway.security.rate_limit import PIECE_BYTES, RateLimit


class AccessControl:
    """Checks a request before anything else is done with it.

    It needs one of `keys`, or none where `keys` is None. Probes are always open. Neither they nor
    `/metrics` count for a caller's rate.
    """

    def __init__(self, live: LiveSettings, keys: Keys | None) -> None:
        self.keys = keys
        self._live = live
        self._limits: RateLimit | None = None
        self._rate = (0.0, 0)
        self._read_settings()

    def _read_settings(self) -> None:
        """Take new settings; an unchanged rate keeps what callers have used of it."""
        self._settings = settings = self._live.now
        access = (
            (DOCS, settings.docs_access),
            (METRICS, settings.metrics_access),
            (CONSOLE, settings.console_access),
        )
        self._open = PROBES.union({ROOT}, *(paths for paths, who in access if who == "open"))
        self._closed = frozenset[str]().union(*(paths for paths, who in access if who == "closed"))
        rate = (settings.rate_limit_per_s, settings.rate_limit_burst)
        if rate != self._rate:
            self._rate = rate
            self._limits = RateLimit(*rate) if rate[0] else None

    def enter(
        self, path: str, headers: Mapping[bytes, bytes], client: tuple[str, int] | None
    ) -> str:
        """Let a request for `path` in; return the caller that it counts for.

        Raises HTTPException (404) for a closed path, RateExceeded where its caller sent too much,
        Unauthorized without a known key, ServiceUnavailable where the keys can't be read.
        """
        if self._settings is not self._live.now:
            self._read_settings()
        if path in self._closed:
            raise HTTPException(404)
        asked = self.keys is not None and path not in self._open
        holder = self.keys.holder(headers) if asked and self.keys else None
        caller = holder or (client[0] if client else "")
        if path not in PROBES and path not in METRICS:
            self._take(caller)
        if asked and holder is None:
            self._check_readable()
            raise Unauthorized("a valid API key is needed, as X-API-Key or a bearer token")
        return caller

    def charge(self, caller: str, observations: int) -> None:
        """Count the observations of a request beyond the first, which `enter` has counted."""
        if self._limits is not None and observations > 1:
            self._limits.charge(caller, observations - 1)

    def charge_body(self, caller: str, size: int) -> None:
        """Count a body of `size` bytes: each started `PIECE_BYTES` after the first."""
        self.charge(caller, -(-size // PIECE_BYTES))

    def renew(self, caller: str, keyed: bool) -> None:
        """Let a stream of `caller` go on; `keyed` says that it was let in by a key.

        Raises Unauthorized where its key is not known any more, RateExceeded and ServiceUnavailable
        as `enter` does.
        """
        if self._settings is not self._live.now:
            self._read_settings()
        if self.keys is not None and not (keyed and caller in self.keys.digests):
            self._check_readable()
            raise Unauthorized("the API key of this stream is not known any more")
        self._take(caller)

    def _check_readable(self) -> None:
        if self.keys is not None and self.keys.problem:
            raise ServiceUnavailable("the API keys can't be read, so nobody is let in")

    def _take(self, caller: str) -> None:
        wait_s = 0.0 if self._limits is None else self._limits.take(caller)
        if wait_s:
            error = RateExceeded("this caller sends more observations a second than it may")
            error.headers = {"Retry-After": str(max(1, ceil(min(wait_s, 86_400))))}
            raise error
