"""`USE_GPU=1`: whether this machine has a GPU, and which format then runs on it."""

import ctypes
import importlib.util
from pathlib import Path

from carlarl.serving.triton_server import TritonError
from converters.repository import configs, repository

_LIBRARIES = {
    "torchscript": ("torch", "lib/libtorch_cuda.so"),
    "onnx": ("onnxruntime", "capi/libonnxruntime_providers_cuda.so"),
}
"""Format → its package, and a file that only the package's CUDA build has; fastest first."""


def check_gpu() -> None:
    """Raise TritonError if there is no GPU to serve on."""
    if _gpus() == 0:
        raise TritonError(
            "USE_GPU=1: no NVIDIA GPU can be used here: install its driver (`nvidia-smi` must list "
            "the GPU), or serve on the CPU with USE_GPU=0"
        )


def chosen_format(root: Path, version: str) -> str:
    """Return the fastest format of `version` that can run on a GPU here.

    Raises TritonError if there is none.
    """
    config = repository.read_config(root, configs.ensemble_name(version))
    exported = config.parameters["formats"].string_value.split(",")
    runnable = [form for form in _LIBRARIES if runs(form)]
    chosen = next((form for form in runnable if form in exported), None)
    if chosen is None:
        raise TritonError(
            f"USE_GPU=1: {version} was exported as {', '.join(exported)}, and what can run on the "
            f"GPU here is {', '.join(runnable) or 'none of it'}: pip install -e '.[gpu]' runs "
            "torchscript, which `carlarl export` writes"
        )
    return chosen


def _gpus() -> int:
    """Return the number of GPUs, from the driver alone: torch would take seconds to load."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def runs(form: str) -> bool:
    """Whether the installed packages can run `form` on a GPU."""
    package, file = _LIBRARIES[form]
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    return any((Path(folder) / file).exists() for folder in folders or ())
