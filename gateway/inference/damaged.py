"""The versions that `carlarl serve` leaves out, since their files are damaged."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

FOLDER = "CARLARL_SERVICE"
"""Variable of the processes of `carlarl serve`: its folder."""
_FILE = "damaged.json"


def tell(folder: Path, damaged: Mapping[str, str]) -> None:
    """Write which versions are damaged, and why, into the folder of the service."""
    new = folder / f"{_FILE}.new"
    new.write_text(json.dumps(damaged))
    new.replace(folder / _FILE)


def told() -> dict[str, str]:
    """Return the damaged versions and why; none where no `carlarl serve` runs this process."""
    with suppress(OSError, ValueError):
        found: dict[str, str] = json.loads(Path(os.environ.get(FOLDER, ""), _FILE).read_bytes())
        return found
    return {}
