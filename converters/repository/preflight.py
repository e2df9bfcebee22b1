"""Check a version's files before Triton opens them.

If a Python model fails to load while other versions of it are loaded again, Triton 2.51 sometimes
ends with a segmentation fault. So a damaged file must be found before.
"""

from __future__ import annotations

import compileall
import importlib.util
import re
from pathlib import Path

from converters.errors import one_line
from converters.repository import configs
from converters.repository.repository import RepositoryError, read_config
from triton_backend import runtimes
from triton_backend.preprocessing import FILE_NAME, Preprocessing

_MODEL_PY = re.compile(rb"from triton_backend\.\w+ import \w+( as TritonPythonModel)?\n")
_POLICIES = ("model.onnx", "model.pt", "model.plan")


def compile_models(repository: Path) -> None:
    """Write the byte code of the models: if Triton's processes do it, Triton sees a change."""
    compileall.compile_dir(repository, quiet=2)


def damage(repository: Path, version: str) -> str | None:
    """Return why a version can't be served, or None."""
    try:
        check_files(repository, version)
    except RepositoryError as error:
        return str(error)
    return None


def check_files(repository: Path, version: str) -> None:
    """Open the files of the version's ensemble and fused model, if their runtime is installed.

    Raises RepositoryError, which names the file, for code that the converters did not write and
    for a file that is missing or that its runtime can't open.
    """
    steps = read_config(repository, configs.ensemble_name(version)).ensemble_scheduling.step
    models = [(step.model_name, str(step.model_version)) for step in steps]
    fused = configs.ensemble_name(version, configs.FUSED)
    if (repository / fused).is_dir():
        models.append((fused, "1"))
    for model, number in models:
        folder = repository / model / number
        native = read_config(repository, model).default_model_filename
        needed: list[tuple[str, ...]] = [(native or "model.py",)]
        if not native and not model.startswith("preprocess"):
            needed.append(_POLICIES)
        if not native and not model.startswith("policy_"):
            needed.append((FILE_NAME,))
        for names in needed:
            if not any((folder / name).is_file() for name in names):
                raise RepositoryError(
                    f"{folder}: it has no {' or '.join(names)}; `carlarl export --version "
                    f"{version}` writes it again"
                )
        for path in sorted(folder.iterdir()):
            if path.is_file():
                _check_file(path, version)


def _check_file(path: Path, version: str) -> None:
    try:
        if path.name == "model.py" and not _MODEL_PY.fullmatch(path.read_bytes()):
            raise ValueError("it is not the line that the converters write")
        if path.name == FILE_NAME:
            Preprocessing.load(path)
        elif path.name == "model.onnx":
            runtimes.onnx(path)
        elif path.name == "model.pt" and importlib.util.find_spec("torch"):
            runtimes.torchscript(path)
    # ONNX Runtime's and torch's errors for a damaged file derive from RuntimeError or Exception.
    except Exception as error:
        raise RepositoryError(
            f"{path}: it can't be served ({one_line(error)}); `carlarl export --version "
            f"{version}` writes it again"
        ) from None
