"""Read a file that a user gives, and say what it is if it is something else."""

import io
import zipfile
from pathlib import Path

from converters.artifact.card import ArtifactError, read_bytes

SB3 = "carlarl import-sb3"
TORCHSCRIPT = "carlarl import-torchscript"
TORCH = "carlarl import-torch"
ONNX = "carlarl import-onnx"

MOST = (1 << 31) - 1
"""Bytes of an ONNX file, which is one message of protobuf."""

_AS_TORCHSCRIPT = f"trace the policy with torch.jit.trace, save that, and use `{TORCHSCRIPT}`"
_KINDS = {
    "sb3": ("a policy of Stable-Baselines3", f"use `{SB3}`"),
    "torchscript": ("a TorchScript program", f"use `{TORCHSCRIPT}`"),
    "state dict": (
        "a checkpoint of torch.save",
        f"use `{TORCH} MODULE:CLASS --checkpoint`, with the class whose weights it has",
    ),
    "pt2": ("a program of torch.export (.pt2)", _AS_TORCHSCRIPT),
    "onnx": ("an ONNX model", f"use `{ONNX}`"),
    "pickle": (
        "a pickle",
        f"statistics go to `{SB3} --vecnormalize` or `{TORCHSCRIPT} --preprocessor`",
    ),
    "joblib": (
        "a joblib file",
        "statistics are read from a pickle: write them with pickle.dump(joblib.load(FILE), …)",
    ),
    "lfs": ("a pointer of Git LFS", "fetch it with `git lfs pull`"),
}


def read(path: Path, kind: str) -> bytes:
    """Return the bytes of `path`.

    Raises ArtifactError if it can't be read, or is known to be another kind of file than `kind`, a
    key of `_KINDS`; the error then says what to do with it.
    """
    content = read_bytes(path, MOST if kind == "onnx" else None)
    found = _kind(content)
    if found not in (None, kind):
        what, advice = _KINDS[found]
        raise ArtifactError(f"{path}: this is {what}, not {_KINDS[kind][0]}: {advice}")
    return content


def _kind(content: bytes) -> str | None:
    """Return the kind of a file, a key of `_KINDS`, or None if its content does not tell."""
    if content.startswith(b"version https://git-lfs"):
        return "lfs"
    if content.startswith(b"PK"):
        return _kind_of_zip(content)
    if content[:1] == b"\x80" and content[1:2] in b"\x02\x03\x04\x05":
        # What torch.save wrote before 1.6 starts with this number.
        if bytes.fromhex("6cfc9c46f9206aa85019") in content[:32]:
            return "state dict"
        return "joblib" if b"joblib.numpy_pickle" in content else "pickle"
    if content[:2] in (b"\x1f\x8b", b"\x78\x9c", b"\x78\x5e", b"\x78\x01", b"\x78\xda", b"BZ"):
        return "joblib"  # a compressed one
    # A message of ONNX starts with its field 1, the version, and then field 2, the producer.
    if len(content) > 3 and content[0] == 8 and content[1] < 64 and content[2] in (0x12, 0x3A):
        return "onnx"
    return None


def _kind_of_zip(content: bytes) -> str | None:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
    except Exception:  # a damaged zip can cause any error; it is told where the zip is opened
        return None
    if "policy.pth" in names or ("data" in names and "system_info.txt" in names):
        return "sb3"
    inner = {name.partition("/")[2] for name in names}
    if "archive_format" in inner or "serialized_exported_program.json" in {*names, *inner}:
        return "pt2"
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        return "torchscript"
    return "state dict" if "data.pkl" in inner else None
