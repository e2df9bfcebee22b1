"""The determinism certificate: what was measured for each format."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from converters.repository import configs, repository
from converters.repository.repository import RepositoryError

COLUMNS = ("version", "format", "from the trained policy", "repeated", "alone or in a batch")


class Line(NamedTuple):
    """One format of one version: the cells of the table, in the order of COLUMNS.

    Attributes:
        version: `vX.Y.Z`.
        format: as in `--formats`; a GPU's FP16 has a line of its own, like `torchscript fp16`.
        parity: largest difference from the trained policy, in any batch size, and of a policy with
            a memory within a drive.
        repeated: `bit-exact`, or the largest difference between repeats.
        alone: `bit-exact`, or the largest difference of a row alone and in a batch, and where.
    """

    version: str
    format: str
    parity: str
    repeated: str
    alone: str

    @property
    def bit_exact(self) -> bool:
        """Whether a row's action never depends on its batch."""
        return self.alone == "bit-exact"


def read(tree: Path, version: str) -> dict[str, Any]:
    """Return the certificate in the repository; raise RepositoryError if there is none."""
    name = configs.ensemble_name(version)
    parameters = repository.read_config(tree, name).parameters
    try:
        content: dict[str, Any] = json.loads(parameters["certificate"].string_value)
        lines(version, content)
    except (ValueError, KeyError, TypeError) as error:
        raise RepositoryError(
            f"{tree / name}: no readable certificate ({error!r}); "
            f"`carlarl export --version {version}` measures it"
        ) from None
    return content


def lines(version: str, certificate: dict[str, Any]) -> list[Line]:
    """Return one line per format."""
    formats = dict.fromkeys(map(_form, certificate["cells"]))
    found = []
    for form in formats:
        cells = [cell for cell in certificate["cells"] if _form(cell) == form]
        if not any(cell["repeats"] for cell in cells):
            found.append(Line(version, form, *("not measured",) * 3))
            continue
        parity = max(max(cell["max_error"], cell.get("steps_error", 0.0)) for cell in cells)
        found.append(
            Line(version, form, f"{parity:.1e}", _worst(cells, "repeats"), _worst(cells, "alone"))
        )
    return found


def overclaims(claimed: dict[str, Any], measured: dict[str, Any]) -> list[str]:
    """Return what `claimed` promises and `measured`, from this machine, does not keep."""
    found = {(_form(cell), cell["batch"]): cell for cell in measured["cells"]}
    wrong = []
    for cell in claimed["cells"]:
        where = f"{_form(cell)}, batch {cell['batch']}"
        here = found.pop((_form(cell), cell["batch"]), None)
        if here is None:
            wrong.append(f"{where}: not measured here")
            continue
        if not (cell["repeats"] and here["repeats"]):
            continue
        # Above the usual tolerance it has float32's own error, which differs by machine.
        name = "fp16_tolerance" if "precision" in cell else "tolerance"
        if not cell["max_error"] <= claimed[name] <= 2 * measured[name]:
            wrong.append(f"{where}: beyond the tolerance")
        wrong += [
            f"{where}: not {what} bit-exact here"
            for what in ("repeats", "alone")
            if cell[f"{what}_bit_exact"] and not here[f"{what}_bit_exact"]
        ]
    return wrong + [f"{form}, batch {batch}: not in it" for form, batch in found]


def _form(cell: dict[str, Any]) -> str:
    return " ".join(cell[key] for key in ("format", "precision") if key in cell)


def _worst(cells: Sequence[dict[str, Any]], what: str) -> str:
    inexact = [cell for cell in cells if not cell[f"{what}_bit_exact"]]
    if not inexact:
        return "bit-exact"
    error = max(cell[f"{what}_error"] for cell in inexact)
    batches = ", ".join(str(cell["batch"]) for cell in inexact)
    return f"not bit-exact: up to {error:.1e} (batch {batches})"
