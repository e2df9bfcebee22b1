"""API keys: the known ones, and the one that a request has."""

import hashlib
import hmac
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MAX_BYTES = 1 << 20
"""The largest file of keys: it is read while requests wait."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_OF_EMPTY_KEY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Keys:
    """The known keys, as hex SHA-256 digests in lower case.

    `problem` says why the file can't be used; then no key is known. `read_at_all` is false if
    the file could not be read; if it is true, the content is wrong.
    """

    digests: tuple[str, ...] = ()
    problem: str = ""
    read_at_all: bool = True

    @classmethod
    def read(cls, path: Path) -> "Keys":
        """Read a file with one hex SHA-256 a line; `#` starts a comment."""
        try:
            found = path.stat()
            if stat.S_ISFIFO(found.st_mode) or found.st_size > MAX_BYTES:
                what = f"a file of at most {MAX_BYTES} bytes"
                return cls(problem=f"API_KEYS_FILE={path}: it must be {what}", read_at_all=False)
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            problem = f"API_KEYS_FILE={path}: it can't be read ({error.strerror})"
            return cls(problem=problem, read_at_all=False)
        except UnicodeDecodeError:
            return cls(problem=f"API_KEYS_FILE={path}: it must be text in UTF-8")
        digests = []
        for number, line in enumerate(lines, 1):
            digest = line.partition("#")[0].strip().lower()
            if digest == _OF_EMPTY_KEY or (digest and not _DIGEST.fullmatch(digest)):
                what = "of a key in hex" + (", not of nothing" if digest == _OF_EMPTY_KEY else "")
                return cls(
                    problem=f"API_KEYS_FILE={path}: line {number} must be the SHA-256 {what}"
                )
            if digest:
                digests.append(digest)
        if not digests:
            return cls(problem=f"API_KEYS_FILE={path}: it must hold the SHA-256 of a key")
        return cls(tuple(digests))

    def holder(self, headers: Mapping[bytes, bytes]) -> str | None:
        """Return the digest of the known key in `X-API-Key` or the bearer token, else None."""
        key = headers.get(b"x-api-key")
        if key is None:
            scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
            key = token.strip() if scheme.lower() == b"bearer" else b""
        if not key:
            return None
        presented = hashlib.sha256(key).hexdigest()
        # Every digest is compared, so that the time taken says nothing about which one fits.
        found = [one for one in self.digests if hmac.compare_digest(presented, one)]
        return found[0] if found else None
