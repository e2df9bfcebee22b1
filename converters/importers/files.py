"""Read a file that a user gives, and say what it is if it is something else."""

import io
import stat
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
        "what torch.save wrote, without a program",
        f"use `{TORCH} MODULE:CLASS --checkpoint`, with the class that it is of",
    ),
    "pt2": ("a program of torch.export (.pt2)", _AS_TORCHSCRIPT),
    "onnx": ("an ONNX model", f"use `{ONNX}`"),
    "pickle": (
        "a pickle or joblib file",
        f"statistics go to `{SB3} --vecnormalize` or `{TORCHSCRIPT} --preprocessor`",
    ),
    "lfs": ("a pointer of Git LFS, not the file itself", "fetch it with `git lfs pull`"),
}


def read(path: Path, kind: str) -> bytes:
    """Return the bytes of `path`.

    Raises ArtifactError if it can't be read, is no regular file (a FIFO would wait for ever), or is
    known to be another kind of file than `kind`, a key of `_KINDS`; the error then says what to do
    with it.
    """
    content = _read(path, MOST if kind == "onnx" else None)
    found = _kind(content)
    if found not in (None, kind):
        what, advice = _KINDS[found]
        raise ArtifactError(f"{path}: this is {what}, not {_KINDS[kind][0]}: {advice}")
    return content


def read_statistics(path: Path) -> bytes:
    """Return the bytes of a pickle of statistics; raise ArtifactError as `read` does."""
    content = _read(path)
    found = _kind(content)
    if found not in (None, "pickle"):
        raise ArtifactError(f"{path}: this is {_KINDS[found][0]}, no pickle of statistics")
    return content


def _read(path: Path, most: int | None = None) -> bytes:
    try:
        told = path.stat()
    except OSError:
        return read_bytes(path)  # which says why not
    if not stat.S_ISREG(told.st_mode):
        raise ArtifactError(f"{path}: no regular file")
    if most is not None and told.st_size > most:
        raise ArtifactError(
            f"{path}: it is larger than 2 GB, which no ONNX model is that can be served: export a "
            "smaller one"
        )
    return read_bytes(path)


def _kind(content: bytes) -> str | None:
    """Return the kind of a file, a key of `_KINDS`, or None if its content does not tell."""
    if content.startswith(b"version https://git-lfs"):
        return "lfs"
    if content.startswith(b"PK"):
        return _kind_of_zip(content)
    if content[:1] == b"\x80" and content[1:2] in b"\x02\x03\x04\x05":
        # What torch.save wrote before 1.6 starts with this number.
        return "state dict" if bytes.fromhex("6cfc9c46f9206aa85019") in content[:32] else "pickle"
    if content[:2] in (b"\x1f\x8b", b"\x78\x9c", b"\x78\x5e", b"\x78\x01", b"\x78\xda", b"BZ"):
        return "pickle"
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
