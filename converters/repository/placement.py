"""A model repository for another device: links into the one on disk, and its own configs.

The repository on disk is for the CPU. The new one is a snapshot of its versions. Only the alias is
a link to the repository's own, so that a promotion changes both.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from converters.artifact.versions import triton_version
from converters.repository import configs, repository

Device = Literal["CPU", "GPU"]


def place(
    source: Path, target: Path, form: str, device: Device, left_out: Collection[str] = ()
) -> None:
    """Write a repository into the new folder `target` that serves `source` on `device`.

    Each version that was exported in `form` runs in that format there: its ensemble and, if it has
    one, its fused model. Everything else is linked unchanged, but for versions that are `left_out`:
    see `link`. Raises RepositoryError if `source` can't be read.
    """
    policy = re.compile(rf"policy_{form}(_s\d+a\d+|-v[\d.]+)?")
    written: dict[str, Any] = {}
    fused: dict[str, Path] = {}
    sound = [one.version for one in repository.versions(source) if one.damaged is None]
    for version in sound:
        name = configs.ensemble_name(version)
        config = repository.read_config(source, name)
        last = config.ensemble_scheduling.step[-1]
        last.model_name = re.sub("^policy_[a-z]+", f"policy_{form}", last.model_name)
        files = source / last.model_name / str(last.model_version)
        if not files.is_dir():  # it was not exported in this format
            continue
        config.parameters["format"].string_value = form
        written[name] = config
        name = configs.ensemble_name(version, configs.FUSED)
        if (source / name).is_dir():
            written[name] = repository.read_config(source, name)
            fused[name] = files
    for path in source.iterdir():
        if policy.fullmatch(path.name):
            written[path.name] = repository.read_config(source, path.name)
    for config in written.values():
        if config.platform != "ensemble":
            _set_device(config, device)
    link(source, target, written, left_out)
    for name, files in fused.items():
        (target / name / "1").unlink()
        _link_fused((source / name / "1").resolve(), files.resolve(), target / name / "1")


def link(
    source: Path, target: Path, written: Mapping[str, Any], left_out: Collection[str] = ()
) -> None:
    """Write the configs `written`, by model, into the new folder `target`; link everything else.

    Models that versions share get no files of the versions that are `left_out`.
    """
    source = source.resolve()
    numbers = {str(triton_version(version)) for version in left_out}
    for name in repository.shared(source) if numbers else ():
        written = {name: repository.read_config(source, name), **written}
    target.mkdir()
    for model in source.iterdir():
        if model.name in written:
            (target / model.name).mkdir()
            text = configs.text(written[model.name])
            (target / model.name / "config.pbtxt").write_text(text, encoding="utf-8")
            for path in model.iterdir():
                if path.is_dir() and path.name not in numbers:
                    (target / model.name / path.name).symlink_to(path)
        elif model.is_dir():
            (target / model.name).symlink_to(model)


def _set_device(config: Any, device: Device) -> None:
    for group in config.instance_group:
        group.kind = group.Kind.Value(f"KIND_{device}")
        group.ClearField("gpus")
        if device == "GPU":
            group.gpus.append(0)


def _link_fused(fused: Path, policy: Path, target: Path) -> None:
    """Link the preprocessing files of one folder and the policy files of the other."""
    target.mkdir()
    for name in ("model.py", "preprocessing.json"):
        (target / name).symlink_to(fused / name)
    for path in policy.iterdir():
        if path.is_file() and path.name != "model.py":
            (target / path.name).symlink_to(path)
