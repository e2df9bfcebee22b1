"""A model repository for another device: links into the one that is there, and configs of its own.

The repository on disk is for the CPU. What is placed is a snapshot of the versions that it holds,
apart from the alias: that stays the repository's own, so that a promotion reaches both.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from converters import configs, repository

Device = Literal["CPU", "GPU"]


def place(source: Path, target: Path, form: str, device: Device) -> None:
    """Write into the new folder `target` what serves the versions of `source` in another way.

    Each version that was exported in `form` runs in that format on `device`: its ensemble, and the
    model that does both steps in one process where there is one. Everything else is linked as it
    is. Raises RepositoryError where `source` can't be read.
    """
    source = source.resolve()
    target.mkdir()
    policy = re.compile(rf"policy_{form}(_s\d+a\d+)?")
    names = {one.version: configs.ensemble_name(one.version) for one in repository.versions(source)}
    written: dict[str, Any] = {}
    for path in source.iterdir():
        if policy.fullmatch(path.name):
            config = written[path.name] = repository.read_config(source, path.name)
            _set_device(config, device)
            _link(path, target / path.name)
    for version, name in names.items():
        config = repository.read_config(source, name)
        last = config.ensemble_scheduling.step[-1]
        last.model_name = re.sub("^policy_[a-z]+", f"policy_{form}", last.model_name)
        files = source / last.model_name / str(last.model_version)
        if not files.is_dir():  # it was not exported in this format
            continue
        config.parameters["format"].string_value = form
        written[name] = config
        _link(source / name, target / name)
        fused = configs.ensemble_name(version, configs.FUSED)
        if (source / fused).is_dir():
            config = written[fused] = repository.read_config(source, fused)
            _set_device(config, device)
            _link_fused(source / fused / "1", files, target / fused / "1")
    for name, config in written.items():
        repository.write(target / name / "config.pbtxt", configs.text(config).encode())
    for path in source.iterdir():
        if path.is_dir() and path.name not in written:
            (target / path.name).symlink_to(path)


def _set_device(config: Any, device: Device) -> None:
    for group in config.instance_group:
        group.kind = group.Kind.Value(f"KIND_{device}")
        group.ClearField("gpus")
        if device == "GPU":
            group.gpus.append(0)


def _link(model: Path, target: Path) -> None:
    """Link a model's versions; its config is written anew."""
    target.mkdir()
    for path in model.iterdir():
        if path.is_dir():
            (target / path.name).symlink_to(path)


def _link_fused(fused: Path, policy: Path, target: Path) -> None:
    """Link the preprocessing's files of the one and the policy's of the other."""
    target.mkdir(parents=True)
    for name in ("model.py", "preprocessing.json"):
        (target / name).symlink_to(fused / name)
    for path in policy.iterdir():
        if path.is_file() and path.name != "model.py":
            (target / path.name).symlink_to(path)
