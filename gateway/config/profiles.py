"""The configuration file: YAML with settings for each profile, and defaults for all."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

PROFILES = ("development", "staging", "production")
NOT_IN_FILE = frozenset({"config_file", "profile"})


class ProfileError(ValueError):
    """A configuration file that can't be used; the text says why."""


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which refuses a name that comes twice instead of taking the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{name} comes twice", node.value[place][0].start_mark
                )
        return super().construct_mapping(node, deep)


def read_profile(
    path: Path, profile: str, known: Collection[str]
) -> dict[str, tuple[str | bool, str]]:
    """Return the values of `profile` in the file at `path`, each with its section.

    The file has `profiles`, a mapping of each profile's settings, and may have `defaults`, the
    settings of all; the names are those in `known`. A value reads as its variable's would: a
    list is written with commas, and what is empty counts as unset. Raises ProfileError.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"it can't be read ({getattr(error, 'strerror', error)})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f"line {mark.line + 1}: "
        raise ProfileError(f"{where}{getattr(error, 'problem', 'it is no YAML')}") from None
    sections = _mapping(content, "the file", ("defaults", "profiles"))
    profiles = _mapping(sections.get("profiles"), "profiles", PROFILES)
    found = {"defaults": sections.get("defaults") or {}, **profiles}
    names = sorted(set(known) - NOT_IN_FILE)
    checked = {name: _mapping(section or {}, name, names) for name, section in found.items()}
    if profile not in profiles:
        raise ProfileError(f"there is no profile {profile}: it has {', '.join(profiles)}")
    values: dict[str, tuple[str | bool, str]] = {}
    for section in ("defaults", profile):
        for name, value in checked[section].items():
            text = _text(value, f"{section}: {name}")
            values.pop(name, None)
            if text != "":
                values[name] = (text, section)
    return values


def _mapping(value: Any, what: str, names: Collection[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ProfileError(f"{what} must be a mapping of {', '.join(list(names)[:3])} …")
    if unknown := [name for name in value if name not in names]:
        raise ProfileError(f"{what}: there is no such setting: {', '.join(map(str, unknown))}")
    return value


def _text(value: Any, what: str) -> str | bool:
    if isinstance(value, list):
        return ",".join(str(_text(one, what)) for one in value)
    if isinstance(value, dict):
        raise ProfileError(f"{what} must be one value or a list")
    if isinstance(value, bool):
        return value
    return "" if value is None else str(value)
