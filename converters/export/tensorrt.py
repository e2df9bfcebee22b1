"""TensorRT engines, built from a policy's ONNX file.

NVIDIA's `tensorrt`, installed alone or by `torch-tensorrt`, builds a plan for the GPU of this
machine. `tensorrt-rtx` needs no GPU and builds for named compute capabilities. Both have the same
API. Only `tensorrt-rtx` has been run: the other needs a GPU and packages from NVIDIA's own index.
"""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from converters.errors import ConversionError
from converters.repository.tensors import MAX_BATCH_SIZE
from triton_backend.engine import (
    FILE_NAME,
    LIBRARIES,
    BuildRecord,
    digest,
    gpu_capability,
    library_version,
)

TUNED_ROWS = 32
"""The rows that a plan is tuned for."""

PRECISION = "FP32, no TF32"
"""TF32 keeps 10 bits of mantissa; that error is far above the tolerance of an export."""

HALF = "FP16 in convolutions and matrix products, else FP32, no TF32"
"""The precision where FP16 is asked for: as `torch.autocast` has it in TorchScript."""

_HALVED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}

DEFAULT_CAPABILITIES = ("8.6", "8.9", "12.0")
"""What tensorrt-rtx builds for by default: GeForce and RTX cards of the series 30, 40 and 50."""


class BuilderError(ConversionError):
    """An engine can't be built here."""


def write(
    source: bytes,
    plan: Path,
    capabilities: Sequence[str] = (),
    rows: int = MAX_BATCH_SIZE,
    half: bool = False,
) -> None:
    """Build the engine of an ONNX file into `plan`, and `builder.json` beside it.

    `capabilities` are compute capabilities like `8.6`, `rows` are the most of a batch; `half`
    asks for FP16. An existing plan stays if its record says that the same builder made it from the
    same file for the same targets, as two builds need not give the same bytes. Raises BuilderError.
    """
    builder, version, targets = _choose(tuple(sorted(set(capabilities), key=float)))
    record = plan.with_name(FILE_NAME)
    profile = {"min": 1, "opt": min(TUNED_ROWS, rows), "max": rows}

    def of(content: bytes) -> str:
        precision = HALF if half else PRECISION
        return BuildRecord(
            builder, version, targets, profile, precision, digest(source), digest(content)
        ).dumps()

    if plan.is_file() and record.is_file() and record.read_text() == of(plan.read_bytes()):
        return
    content = _build(builder, halved(source) if half else source, targets, profile)
    plan.write_bytes(content)
    record.write_text(of(content))


def halved(content: bytes) -> bytes:
    """Return an ONNX file with FP16 in `_HALVED`; a strongly typed engine has no flag for it."""
    model = onnx.load_from_string(content)
    kept = sorted({node.op_type for node in model.graph.node} - _HALVED)
    made = convert_float_to_float16(model, keep_io_types=True, op_block_list=kept)
    return bytes(made.SerializeToString())


def _choose(capabilities: tuple[str, ...]) -> tuple[str, str, tuple[str, ...]]:
    """Return the builder, its version and its targets."""
    gpu = gpu_capability()
    if gpu is not None and capabilities in ((), (gpu,)):
        version = library_version("tensorrt")
        if version is not None:
            return "tensorrt", version, (gpu,)
    version = library_version("tensorrt-rtx")
    if version is None:
        raise BuilderError(
            "tensorrt needs a builder: pip install -e '.[tensorrt]' for tensorrt-rtx, or "
            "'.[gpu]' on a machine with an NVIDIA GPU"
        )
    return "tensorrt-rtx", version, capabilities or DEFAULT_CAPABILITIES


def _build(builder: str, source: bytes, targets: tuple[str, ...], rows: Mapping[str, int]) -> bytes:
    trt: Any = importlib.import_module(LIBRARIES[builder])
    log = _log(trt)
    engine_builder = trt.Builder(log)
    # Strongly typed: each layer computes in the type that the file names.
    network = engine_builder.create_network(
        1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    )
    parser = trt.OnnxParser(network, log)
    if not parser.parse(source):
        reasons = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise BuilderError(f"{builder} can't read the policy's ONNX file: {reasons}")
    config = engine_builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    profile = engine_builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, *((rows[most], *shape) for most in ("min", "opt", "max")))
    config.add_optimization_profile(profile)
    if builder == "tensorrt-rtx":
        _set_targets(trt, config, targets)
    plan = engine_builder.build_serialized_network(network, config)
    if plan is None:
        why = log.errors[-1] if log.errors else "it does not say why"
        raise BuilderError(
            f"{builder} can't build for compute capability {', '.join(targets)}: {why}"
        )
    return bytes(plan)


def _set_targets(trt: Any, config: Any, targets: tuple[str, ...]) -> None:
    known = trt.ComputeCapability.__members__
    names = {target: f"SM{target.replace('.', '')}" for target in targets}
    if unknown := [target for target, name in names.items() if name not in known]:
        possible = sorted(name[2:-1] + "." + name[-1] for name in known if name.startswith("SM"))
        raise BuilderError(
            f"tensorrt-rtx {trt.__version__} does not build for compute capability "
            f"{', '.join(unknown)}, but for {', '.join(sorted(possible, key=float))}"
        )
    config.num_compute_capabilities = len(targets)
    for index, name in enumerate(names.values()):
        config.set_compute_capability(known[name], index)


def _log(trt: Any) -> Any:
    """Return a logger that prints nothing and keeps errors for the message."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()
