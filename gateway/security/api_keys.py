"""API keys: which are known, and whose a request's is."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from pathlib import Path

from gateway.config.settings import SettingsError

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Keys:
    """The keys that are known, by their SHA-256."""

    def __init__(self, digests: tuple[str, ...]) -> None:
        """Take hex SHA-256 digests, in lower case."""
        self.digests = digests

    @classmethod
    def read(cls, path: Path) -> "Keys":
        """Read a file with one hex SHA-256 a line, `#` starting a comment.

        Raises SettingsError where it cannot be read, holds something else or holds nothing.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"API_KEYS_FILE={path}: must be a file that can be read ({error})"
            ) from error
        digests = []
        for number, line in enumerate(lines, 1):
            digest = line.partition("#")[0].strip().lower()
            if digest and not _DIGEST.fullmatch(digest):
                raise SettingsError(
                    f"API_KEYS_FILE={path}: line {number} must be the SHA-256 of a key in hex"
                )
            if digest:
                digests.append(digest)
        if not digests:
            raise SettingsError(f"API_KEYS_FILE={path}: must hold at least one key's SHA-256")
        return cls(tuple(digests))

    def holder(self, headers: Mapping[bytes, bytes]) -> str | None:
        """Return the digest of the known key in `X-API-Key` or the bearer token, else None."""
        key = headers.get(b"x-api-key")
        if key is None:
            scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
            key = token.strip() if scheme.lower() == b"bearer" else b""
        presented = hashlib.sha256(key).hexdigest()
        # Every digest is compared, so that the time taken says nothing about which one fits.
        found = [one for one in self.digests if hmac.compare_digest(presented, one)]
        return found[0] if found else None
