"""Compare a model repository, file by file, with a fresh export of its artifacts."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from converters.artifact.versions import triton_version
from converters.repository import configs
from converters.repository.activation import HISTORY
from converters.repository.tensors import MAX_BATCH_SIZE
from triton_backend import engine

_MEASURED = {
    *("repeats", "max_error", "repeats_error", "alone_error", "steps_error", "repeats_bit_exact"),
    *("alone_bit_exact", "reason"),
}


def differences(fresh: Path, target: Path, version: str | None = None) -> list[str]:
    """Return the files in which `target` differs from the fresh export `fresh`, each with how.

    With a `version`, only its files are compared, and the alias if it is active. What depends on
    the machine is ignored: the certificate's measurements, the last digits of golden actions, and
    what `carlarl tune` wrote.
    """
    expected, found = _files(fresh), _files(target)
    if version is not None:
        active = _active(fresh) == _active(target)
        alias = f"{configs.ALIAS}/"
        expected = {name for name in expected if active or not name.startswith(alias)}
        found = {name for name in found if _belongs(name, version) or name in expected}
    told = [f"{name} is missing" for name in sorted(expected - found)]
    told += [f"{name} is of no export" for name in sorted(found - expected)]
    for name in sorted(expected & found):
        if not _same(fresh / name, target / name):
            told.append(f"{name} differs")
    return told


def _files(tree: Path) -> set[str]:
    paths = (path for path in tree.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(tree).as_posix() for path in paths} - {HISTORY}


def _belongs(name: str, version: str) -> bool:
    model, _, rest = name.partition("/")
    if "-v" in model or model.startswith(configs.ALIAS):
        return model.endswith(f"-{version}")
    return rest.startswith(f"{triton_version(version)}/")


def _active(tree: Path) -> str | None:
    try:
        config = configs.parse((tree / configs.ALIAS / "config.pbtxt").read_text())
    except (OSError, ValueError):
        return None
    version: str = config.parameters["version"].string_value
    return version


def _same(first: Path, second: Path) -> bool:
    try:
        if first.name in ("model.plan", engine.FILE_NAME):
            return _same_build(first, second)
        if first.name != "config.pbtxt":
            return first.read_bytes() == second.read_bytes()
        (one, actions, tolerances), (other, others, allowed) = map(_stable, (first, second))
    except (OSError, ValueError, KeyError, TypeError):  # `second` was changed by hand
        return False
    return bool(
        one == other
        and actions.shape == others.shape
        and np.allclose(actions, others, rtol=0, atol=1e-4)
        and np.allclose(tolerances, allowed, rtol=1, atol=0)  # with float32's error on a machine
    )


def _same_build(first: Path, second: Path) -> bool:
    """Whether an engine is the recorded one, made from the same file: each build differs."""
    made, held = (
        engine.BuildRecord.load(path.with_name(engine.FILE_NAME)) for path in (first, second)
    )
    if second.name == "model.plan":
        return engine.digest(second.read_bytes()) == held.plan
    return (made.source, made.profile, made.precision) == (
        held.source,
        held.profile,
        held.precision,
    )


def _stable(path: Path) -> tuple[Any, np.ndarray[Any, Any], list[float]]:
    """Return a config without what depends on the machine, its golden actions, its tolerances."""
    config = configs.parse(path.read_text())
    if config.instance_group:
        configs.tune(config, instances=1, threads=1)
    elif config.HasField("ensemble_scheduling"):
        config.max_batch_size = MAX_BATCH_SIZE
    actions, tolerances = np.empty(0), list[float]()
    for key in ("golden", "certificate"):
        if key in config.parameters:
            content = json.loads(config.parameters[key].string_value)
            tolerances.append(float(content.pop("tolerance")))
            tolerances.append(float(content.pop("fp16_tolerance", 0)))
            if key == "golden":
                actions = np.array(content.pop("actions"), np.float64)
            for cell in content.get("cells", []):
                for name in _MEASURED & cell.keys():
                    del cell[name]
            config.parameters[key].string_value = json.dumps(content)
    return config, actions, tolerances
