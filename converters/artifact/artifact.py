"""Versioned artifacts on disk. Hashes are checked before any file is opened."""

import errno
import io
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from converters.artifact import observations as recorded
from converters.artifact import pickles, preprocessor, signature
from converters.artifact.card import CARD, ArtifactError, ModelCard, read_bytes
from converters.artifact.observations import FILES, Rows, file_name
from converters.artifact.onnx_network import Network
from converters.artifact.policy import Policy, Scripted, StatefulPolicy, network, zeros
from converters.artifact.versions import triton_version
from converters.errors import one_line
from triton_backend.engine import digest
from triton_backend.preprocessing import Preprocessing

MODEL, ONNX, PREPROCESSOR = "model.pt", "model.onnx", "preprocessor.pkl"


@dataclass(frozen=True)
class Artifact:
    """A loaded artifact.

    Attributes:
        card: the model card.
        digest: `sha256:…` of the card. It identifies the artifact, as the card holds all hashes.
        preprocessing: observation → features.
        policy: features, noise, rasters and state → action and next state, in PyTorch.
        observations: recorded ones, for each leaf an array of shape (n, …); n may be 0.
    """

    card: ModelCard
    digest: str
    preprocessing: Preprocessing
    policy: Policy
    observations: Rows


def model_file(card: ModelCard) -> str:
    """Return the name of the file that holds a card's model."""
    return ONNX if card.model_type == "onnx" else MODEL


def verified_files(directory: Path, card: ModelCard) -> dict[str, bytes]:
    """Return the content of the artifact's files; raise ArtifactError if a hash is wrong.

    The bytes that were hashed are returned, so that a later change of a file has no effect.
    """
    held = {*card.artifact_hashes, *(path.name for path in directory.iterdir())}
    names = [model_file(card), PREPROCESSOR, *(name for name in FILES if name in held)]
    files = {}
    for name in names:
        path = directory / name
        expected = card.artifact_hashes.get(name)
        if expected is None:
            raise ArtifactError(f"{directory / CARD}: artifact_hashes has no entry for {name}")
        data = read_bytes(path)
        actual = digest(data)
        if actual != expected:
            raise ArtifactError(
                f"{path}: its hash is {actual}, the card says {expected}: "
                "the file was changed or damaged; restore it, or import the policy again"
            )
        files[name] = data
    return files


def read_card(directory: Path, key: Ed25519PublicKey | None = None) -> tuple[ModelCard, str]:
    """Return the artifact's card and its digest. With a `key`, check the signature first.

    Raises ArtifactError, also if the folder's name is not the card's version.
    """
    path = directory / CARD
    content = read_bytes(path)
    if key is not None:
        signature.verify(directory, content, key)
    card = ModelCard.parse(content, path)
    if card.version != directory.name:
        raise ArtifactError(f"{path}: version is {card.version}, the folder says {directory.name}")
    return card, digest(content)


def load(directory: Path, key: Ed25519PublicKey | None = None) -> Artifact:
    """Load and check the artifact in `directory`, whose name must be its version.

    With a `key`, its owner must have signed the card; that is checked before anything is opened.
    Raises ArtifactError, which names the file that is missing, damaged or unsafe.
    """
    card, identity = read_card(directory, key)
    files = verified_files(directory, card)
    try:
        record = pickles.load(files[PREPROCESSOR])
        preprocessing = preprocessor.lower(record, card.signature)
    except ValueError as error:
        raise ArtifactError(f"{directory / PREPROCESSOR}: refused: {error}") from None
    path = directory / model_file(card)
    policy = _policy(path, files[path.name], card, preprocessing)
    name = next((name for name in FILES if name in files), None)
    rows = recorded.no_rows(card.signature.observation_space)
    if name is not None:
        rows = recorded.read(directory / name, files[name], card)
    return Artifact(
        card=card,
        digest=identity,
        preprocessing=preprocessing,
        policy=policy,
        observations=rows,
    )


def _policy(path: Path, data: bytes, card: ModelCard, preprocessing: Preprocessing) -> Policy:
    two = zeros(card.signature, 2)
    try:
        if card.model_type == "pytorch":
            policy = Policy(network(preprocessing.width, card), card)
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            policy.gaussian.load_state_dict(state)
        else:
            opened = Network(data) if card.model_type == "onnx" else open_program(data)
            program = Scripted(opened, card)
            program.check()
            policy = (StatefulPolicy if card.signature.stateful else Policy)(program, card)
        policy = policy.eval().requires_grad_(False)
        made, again = (policy(*two) for _ in range(2))
    except Exception as error:  # whatever a foreign model file can provoke
        raise ArtifactError(
            f"{path}: refused: no {card.model_type} model as its card says: {one_line(error)}"
        ) from None
    actions, others = (one if isinstance(one, tuple) else (one,) for one in (made, again))
    if not all(torch.isfinite(action).all() for action in actions):
        raise ArtifactError(f"{path}: its action for two rows of zeros is not finite")
    if not all(map(torch.equal, actions, others)):
        raise ArtifactError(f"{path}: refused: it gives another action each time for the same rows")
    try:
        policy(*zeros(card.signature, 3))
    except Exception as error:  # as above
        raise ArtifactError(
            f"{path}: refused: it runs on two rows and not on three, as if it had been traced with "
            f"a fixed number of rows: {one_line(error)}"
        ) from None
    return policy


def open_program(data: bytes) -> Any:
    """Open a TorchScript file on the CPU; raise RuntimeError if it is something else."""
    return torch.jit.load(io.BytesIO(data), map_location="cpu").eval()  # type: ignore[no-untyped-call]


def state_dict_bytes(state: dict[str, torch.Tensor]) -> bytes:
    """Return the `model.pt` of a state dict of `Gaussian`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _exists(folder: Path) -> ArtifactError:
    return ArtifactError(f"{folder}: this version exists, and versions never change: take the next")


def create(
    folder: Path,
    card: ModelCard,
    model: bytes,
    pickled: bytes,
    observations: Path | None,
    check: Callable[[Artifact], None],
    origins: Mapping[str, Path] | None = None,
) -> Path:
    """Write an artifact into the new `folder`, if it loads and `check` accepts it.

    `model` is the content of the model's file, `pickled` the preprocessor, `observations` a file of
    recorded ones (.npy or .npz). `origins` maps a file of the artifact to the user's file that it
    is made of; an error names the user's file. Raises ArtifactError; then nothing is left behind.
    """
    origins = dict(origins or {})
    if observations is not None:
        kept = file_name(observations)
        origins[kept] = observations
    staging = folder
    try:
        if folder.exists():
            raise _exists(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as made:
            staging = Path(made) / folder.name
            staging.mkdir()
            (staging / model_file(card)).write_bytes(model)
            (staging / PREPROCESSOR).write_bytes(pickled)
            if observations is not None:
                (staging / kept).write_bytes(read_bytes(observations))
            paths = sorted(staging.iterdir())
            card.artifact_hashes = {path.name: digest(path.read_bytes()) for path in paths}
            card.write(staging / CARD)
            check(load(staging))
            staging.rename(folder)
    except ArtifactError as error:
        text = str(error)
        for name, origin in origins.items():
            text = text.replace(str(staging / name), str(origin))
        if observations is not None and text.startswith(f"{observations}: "):
            text = f"--observations {text}"
        raise ArtifactError(text.replace(str(staging), str(folder))) from None
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and folder.is_dir():
            raise _exists(folder) from None  # another command made it meanwhile
        raise ArtifactError(f"{folder}: {error.strerror or error}") from None
    return folder


def _named(path: Path) -> bool:
    """Whether a folder has the name of an artifact. It is then an error if it has no card."""
    return path.is_dir() and re.fullmatch(r"v\d+\.\d+\.\d+", path.name, re.ASCII) is not None


def versions_in(directory: Path) -> list[Path]:
    """Return the artifact folders in `directory`, oldest version first.

    Raises ArtifactError if there is none, or a folder's name is no version.
    """
    if not directory.is_dir():
        raise ArtifactError(f"{directory}: no such folder of artifacts")
    found = [path for path in directory.glob("[!.]*") if (path / CARD).is_file() or _named(path)]
    if not found:
        raise ArtifactError(f"{directory}: no artifact in it (a folder vX.Y.Z with a {CARD})")
    try:
        return sorted(found, key=lambda path: triton_version(path.name))
    except ValueError as error:
        raise ArtifactError(f"{directory}: {error}") from None
