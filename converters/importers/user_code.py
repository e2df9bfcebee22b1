"""The user's own code, which a flag names as `module:attribute`: found, called, and its errors."""

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from converters.artifact.card import ArtifactError
from converters.errors import ConversionError, one_line

NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
"""A name with dots, as Python imports it."""


@contextmanager
def running(what: str, advice: str = "") -> Iterator[None]:
    """Turn whatever the user's code raises into an ArtifactError: `what`, the error, `advice`."""
    try:
        yield
    except ConversionError:
        raise
    except (Exception, SystemExit) as error:  # code of the user can raise anything
        told = (what, type(error).__name__, one_line(error), advice)
        raise ArtifactError(": ".join(filter(None, told))) from None


def import_module(module: str) -> Any:
    """Import a module that the user named, from the working directory too, as `python -m` does.

    From then on that directory is importable: what a user did not name must not call this.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    return importlib.import_module(module)


def load(flag: str, text: str) -> Any:
    """Import what `text`, like `package.module:attribute`, names.

    Raises ArtifactError, which begins with `flag`.
    """
    module, _, attribute = text.partition(":")
    if not NAME.fullmatch(module) or not NAME.fullmatch(attribute):
        raise ArtifactError(
            f"{flag}{text!r} must be module:attribute as Python imports it, like agents.ppo:Agent"
        )
    with running(f"{flag}{text}: {module} can't be imported"):
        found = import_module(module)
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise ArtifactError(f"{flag}{text}: {module} has no {attribute}")
        found = getattr(found, name)
    return found


def keywords(flag: str, given: Any) -> dict[str, Any]:
    """Return the arguments by name that a flag's YAML has; raise ArtifactError for other YAML."""
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        raise ArtifactError(f"{flag}: must be names with values, like {{name: 64}}")
    return given
