"""State tokens: a policy's memory in a caller's hands, which it can give back but not change."""

import hmac
import logging
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from gateway.api.errors import StateMismatch
from gateway.config.fields import SECRET

TAG_BYTES = 32
TOKEN_BYTES = 160
"""More than the bytes of a token beside the state: its tag, a version and a digest."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Memory:
    """What the tokens of one request say.

    `version` and `digest` are of the policy that gave them, None where all rows start an episode;
    `states` has the state of each row, None where an episode starts.
    """

    version: str | None
    digest: str | None
    states: list[bytes | None]


class StateTokens:
    """Makes and reads tokens: base64url of an HMAC-SHA256, version, digest and state."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Take the secrets: the first one signs, all are accepted."""
        self._keys = [key.encode() for key in keys]

    def sign(self, version: str, digest: str, state: bytes) -> str:
        """Return the token of a state of the policy `version`, whose artifact has this digest."""
        named = f"{version} {digest}"
        filled = -(TAG_BYTES + len(named) + 1 + len(state)) % 3  # no bit of the text is unused
        content = b"".join((named.encode(), b" " * filled, b"\n", state))
        tag = hmac.digest(self._keys[0], content, "sha256")
        return _write(tag + content)[1:-1].translate(_URL).decode()

    def read(self, tokens: Sequence[str | None], version: str | None, field: str) -> Memory:
        """Read the tokens of a request that names `version`; `field` names each.

        Raises StateMismatch for one that was changed, and where they are of other versions.
        """
        policies: set[tuple[str, str]] = set()
        states: list[bytes | None] = []
        for index, token in enumerate(tokens):
            if token is None:
                states.append(None)
                continue
            own, digest, state = self._opened(
                token, field if field == "state" else f"{field}.{index}"
            )
            policies.add((own, digest))
            states.append(state)
        if not policies:
            return Memory(None, None, states)
        if len(policies) > 1:
            raise StateMismatch("states: they are of several policies: send a request for each")
        ((own, digest),) = policies
        if version not in (None, own):
            raise elsewhere(own, version)
        return Memory(own, digest, states)

    def _opened(self, token: str, where: str) -> tuple[str, str, bytes]:
        try:
            # Twice as fast as `binascii`, and as strict.
            data = _read(token.translate(_PLAIN))
        except (ValueError, msgspec.MsgspecError):
            data = b""
        tag, content = data[:TAG_BYTES], data[TAG_BYTES:]
        good = [hmac.compare_digest(tag, hmac.digest(key, content, "sha256")) for key in self._keys]
        if not any(good):
            raise StateMismatch(
                f"{where} is no token of this service: send it as it came, or start an episode "
                "without it"
            )
        head, _, state = content.partition(b"\n")
        version, digest = head.decode().split()
        return version, digest, state


def elsewhere(own: str, version: str | None) -> StateMismatch:
    """Say that a memory is of the version `own`, and not of the one that is asked for."""
    return StateMismatch(f"the memory is of {own}, and {version} is asked for: start an episode")


def gone(version: str) -> StateMismatch:
    """Say that no policy can go on with a memory of `version`."""
    return StateMismatch(f"the memory is of {version}, which is not served: start an episode")


_read, _write = partial(msgspec.convert, type=bytes), msgspec.json.Encoder().encode
_URL, _PLAIN = bytes.maketrans(b"+/", b"-_"), str.maketrans("-_+/=", "+/!!!")


def kept_secret() -> str:
    """Return the secret of this user's services, which is made once and kept.

    It is in `carlarl/state_secret` of `XDG_STATE_HOME`, which is `~/.local/state` by default. Where
    no file can be written, it is a new one, and a warning is logged.
    """
    try:
        home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        path = home / "carlarl" / "state_secret"
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = secrets.token_hex(32)
        made = path.with_name(f".{path.name}.{drawn[:8]}")
        try:
            with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(drawn)
            os.link(made, path)  # whole, or not at all
        except FileExistsError:
            pass
        finally:
            made.unlink(missing_ok=True)
        kept = path.read_text(errors="replace").strip()
        if not SECRET.fullmatch(kept):  # an empty one would let everybody sign
            raise RuntimeError(f"{path} holds none: delete it")
        return kept
    except (OSError, RuntimeError) as error:  # RuntimeError: also where there is no home
        log.warning(
            "no secret for state tokens can be kept (%s), so that these end with this process: "
            "set STATE_SECRET",
            error,
        )
        return secrets.token_hex(32)
