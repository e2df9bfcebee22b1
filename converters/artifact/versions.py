"""Semantic versions of artifacts, and Triton's integers for them."""

import re

_PATTERN = re.compile(r"v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", re.ASCII)


def triton_version(version: str) -> int:
    """Return Triton's integer for `vMAJOR.MINOR.PATCH`: `MAJOR·1_000_000 + MINOR·1_000 + PATCH`.

    Raises ValueError for anything else, for a minor or patch above 999 (the integers must have the
    order of the versions), and for `v0.0.0` (Triton's versions start at 1).
    """
    match = _PATTERN.fullmatch(version)
    if not match:
        raise ValueError(f"{version!r} is no version like v1.2.3")
    major, minor, patch = map(int, match.groups())
    if minor > 999 or patch > 999 or major > 2_000:
        raise ValueError(f"{version} is out of range: at most v2000.999.999")
    number = major * 1_000_000 + minor * 1_000 + patch
    if number == 0:
        raise ValueError("v0.0.0 is no version that Triton can serve: start at v0.0.1")
    return number
