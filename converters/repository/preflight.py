"""Check a version's files before Triton opens them.

If a Python model fails to load while other versions of it are loaded again, Triton 2.51 sometimes
ends with a segmentation fault. So a damaged file must be found before.
"""

import compileall
import importlib.util
import re
from collections.abc import Collection
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


def damage(repository: Path, version: str, formats: Collection[str] = ()) -> str | None:
    """Return why a version can't be served, also in further `formats`, or None."""
    try:
        check_files(repository, version, formats)
    except (RepositoryError, OSError) as error:  # OSError: a folder that may not be read
        return str(error)
    return None


def check_files(repository: Path, version: str, formats: Collection[str] = ()) -> None:
    """Open the files of the version's ensembles and fused model, if their runtime is installed.

    The ensembles are the default one, and those of `formats` that the repository has. Raises
    RepositoryError, which names the file, for code that the converters did not write and for a file
    that is missing, cut off, or that its runtime can't open.
    """
    models = []
    for form in (None, *formats):
        ensemble = configs.ensemble_name(version, form)
        if form is None or (repository / ensemble).is_dir():
            steps = read_config(repository, ensemble).ensemble_scheduling.step
            _check_whole(repository, ensemble, version, bool(steps))
            models += [(step.model_name, str(step.model_version)) for step in steps]
    fused = configs.ensemble_name(version, configs.FUSED)
    if (repository / fused).is_dir():
        models.append((fused, "1"))
    for model, number in models:
        folder = repository / model / number
        config = read_config(repository, model)
        _check_whole(repository, model, version, bool(config.backend or config.platform))
        native = config.default_model_filename
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


def _check_whole(repository: Path, model: str, version: str, whole: bool) -> None:
    """Raise RepositoryError unless the last field of the model's configuration is there."""
    if not whole:
        raise RepositoryError(
            f"{repository / model / 'config.pbtxt'}: it is cut off; `carlarl export --version "
            f"{version}` writes it again"
        )


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
