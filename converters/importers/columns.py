"""The names of the columns that a scaler was fitted on, held against the observation's."""

import re
from collections.abc import Callable
from pathlib import Path

from converters.artifact import pickles, preprocessor
from converters.artifact.card import ArtifactError
from policy_spec.signature import Signature
from triton_backend.preprocessing import Preprocessing

_NUMBER = re.compile(r"(.*?)[\W_]*(\d+)\W*")


def check(path: Path, content: bytes, signature: Signature, tell: Callable[[str], None]) -> None:
    """Tell the user the columns that the scaler in a pickle names, if it names some.

    Raises ArtifactError if one has the name of a leaf and is not at its place. `sensors_3` is one
    of `sensors`, whose numbers must be in order.
    """
    columns = Preprocessing.of(signature).columns
    places = {".".join(leaf).casefold(): range(*place) for leaf, place in columns.items()}
    try:
        parts = preprocessor.parts(pickles.load(content))
    except ValueError:
        return  # the artifact says what is wrong with it
    for part in parts:
        held = getattr(part, "feature_names_in_", None)
        names = held.values if isinstance(held, pickles.Array) else held
        if not isinstance(names, list):
            continue
        shown = ", ".join(map(str, names[:12])) + (", …" if len(names) > 12 else "")
        if not _in_order([str(name).casefold() for name in names], places):
            own = ", ".join(places)
            raise ArtifactError(
                f"{path}: it was fitted on the columns {shown}, and the observation is {own}, in "
                "another order: name its fields in the scaler's order, or fit the scaler again"
            )
        tell(f"{path}: it was fitted on the columns {shown}: the observation has this order, too")


def _in_order(names: list[str], places: dict[str, range]) -> bool:
    last: dict[str, int] = {}
    for index, name in enumerate(names):
        match = _NUMBER.fullmatch(name)
        leaf = match[1] if name not in places and match is not None else name
        if leaf not in places:
            continue
        number = int(match[2]) if leaf != name and match is not None else index
        if index not in places[leaf] or number <= last.get(leaf, -1):
            return False
        last[leaf] = number
    return True
