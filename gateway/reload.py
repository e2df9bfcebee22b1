"""The settings in force, which follow the configuration file and the file of API keys."""

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gateway.config.settings import Settings, SettingsError, is_live, read_settings
from gateway.security.api_keys import Keys

POLL_S = 0.5
"""Seconds between looks; a change counts when two looks in a row have seen the same."""

log = logging.getLogger(__name__)

_Seen = list[tuple[int, int, int, int] | None]


def read_keys(settings: Settings) -> Keys | None:
    """Read the file of API keys, where the settings name one."""
    return Keys.read(settings.api_keys_file) if settings.api_keys_file else None


class Configuration:
    """Rereads the files when they change or SIGHUP comes, and applies what may change.

    A configuration file that can't be used changes nothing. A file of keys that can't be read lets
    nobody in; one with a mistake in it leaves the keys as they were, and lets nobody in where there
    were none. Both are logged and read again at each look until they can be used. Changed settings
    that need a restart are named in the log.
    """

    def __init__(
        self,
        settings: Settings,
        keys: Keys | None,
        apply: Callable[[Settings, Keys | None], None],
    ) -> None:
        """Start with what was read already; call `apply` with what is in force from then on."""
        self._settings = settings
        self._keys = keys
        self._apply = apply
        self._taken = self._seen = self._look()
        self._asked = False
        self._problems: list[str] = []

    def start(self) -> None:
        """Listen to SIGHUP, and read the file again: a later worker has its parent's settings."""
        if self._settings.config_file is not None:
            with suppress(ValueError):  # not in the main thread, which tests may do
                signal.signal(signal.SIGHUP, self._ask)
        self._taken = self._look()
        self._reread()

    async def follow(self) -> None:
        """Look for changes, for ever."""
        while True:
            await asyncio.sleep(POLL_S)
            self.check()

    def check(self) -> None:
        """Look once."""
        seen = self._look()
        settled, self._seen = seen == self._seen, seen
        if self._asked or (settled and (self._problems or seen != self._taken)):
            self._asked = False
            self._taken = seen
            self._reread()

    def _ask(self, *_: object) -> None:
        self._asked = True

    def _look(self) -> _Seen:
        """Return what identifies each file; links are followed, as Kubernetes moves them."""
        return [_identity(p) for p in (self._settings.config_file, self._settings.api_keys_file)]

    def _reread(self) -> None:
        old = new = self._settings
        problems = []
        try:
            if old.config_file is not None:
                new = read_settings(config_file=old.config_file, profile=old.profile)
        except SettingsError as error:
            problems.append(f"{'; '.join(str(error).splitlines())}; all stays as it was")
        keys = read_keys(new)
        if keys is not None and keys.problem:
            known = self._keys if keys.read_at_all and self._keys and self._keys.digests else None
            effect = "nobody is let in" if known is None else "the keys stay as they were"
            problems.append(f"{keys.problem}; {effect}")
            keys = known or keys
        for problem in problems:
            if problem not in self._problems:
                log.error("%s", problem)
        self._problems = problems
        changed = [name for name, value in new if value != getattr(old, name)]
        live = {name: getattr(new, name) for name in changed if is_live(name)}
        if fixed := [name for name in changed if name not in live]:
            log.warning(
                "%s: what can't change while the gateway serves stays until a restart: %s",
                new.config_file,
                ", ".join(fixed),
            )
        if not live and keys == self._keys:
            return
        what = [f"{name}={_shown(value)}" for name, value in live.items()]
        count = len(keys.digests) if keys else 0
        log.warning("now in force: %s", ", ".join([*what, f"{count} API keys"]))
        self._settings, self._keys = old.model_copy(update=live), keys
        self._apply(self._settings, keys)


def _identity(path: Path | None) -> tuple[int, int, int, int] | None:
    """Return what every change changes: also of rights, or by a copy that keeps the file's time."""
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return found and (found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns)


def _shown(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
