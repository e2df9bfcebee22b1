"""Artifacts are checked before anything in them is opened."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from converters.artifact import artifact, pickles
from converters.artifact.card import CARD, ArtifactError
from converters.artifact.observations import OBSERVATIONS
from converters.export import parity
from triton_backend.engine import digest

MakeArtifact = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, make_artifact: MakeArtifact) -> Path:
    return make_artifact(tmp_path / "v1.2.3")


def _rehash(folder: Path, **changes: Any) -> None:
    """Write the card anew, hashes holding: what an attacker without the key could do."""
    card = yaml.safe_load((folder / CARD).read_text()) | changes
    card["artifact_hashes"] = {
        name: digest((folder / name).read_bytes()) for name in card["artifact_hashes"]
    }
    (folder / CARD).write_text(yaml.safe_dump(card))


def test_loads(folder: Path) -> None:
    loaded = artifact.load(folder)
    assert loaded.card.version == "v1.2.3"
    assert loaded.digest == digest((folder / CARD).read_bytes())
    assert [part.shape for part in loaded.observations] == [(16,), (16,), (16, 5)]


@pytest.mark.parametrize("name", [artifact.MODEL, artifact.PREPROCESSOR, OBSERVATIONS])
def test_a_flipped_byte_is_refused_by_file(folder: Path, name: str) -> None:
    path = folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        ArtifactError, match=rf"{name}: its hash is sha256:.* the card says sha256:"
    ):
        artifact.load(folder)


@pytest.mark.parametrize("name", [CARD, artifact.MODEL, artifact.PREPROCESSOR])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name}: (no such file|No such file)"):
        artifact.load(folder)


def test_a_hash_that_is_not_in_the_card(folder: Path) -> None:
    card = yaml.safe_load((folder / CARD).read_text())
    del card["artifact_hashes"][artifact.PREPROCESSOR]
    (folder / CARD).write_text(yaml.safe_dump(card))
    with pytest.raises(ArtifactError, match=r"no entry for preprocessor\.pkl"):
        artifact.load(folder)


def test_hostile_files_are_refused_though_their_hashes_hold(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> Any:
            return open, (str(mark), "w")

    for name in (artifact.PREPROCESSOR, artifact.MODEL):
        original = (folder / name).read_bytes()
        buffer = io.BytesIO()
        torch.save(Hostile(), buffer)
        (folder / name).write_bytes(
            pickle.dumps(Hostile()) if name == artifact.PREPROCESSOR else buffer.getvalue()
        )
        _rehash(folder)
        with pytest.raises(ArtifactError, match=f"{name}: refused: "):
            artifact.load(folder)
        assert not mark.exists()
        (folder / name).write_bytes(original)


@pytest.mark.parametrize("model_type", ["pytorch", "torchscript"])
@pytest.mark.parametrize("form", ["torch.save", "old torch.save", "plain pickle"])
def test_a_hostile_model_is_refused_as_either_kind(
    folder: Path, tmp_path: Path, model_type: str, form: str
) -> None:
    """`model.pt` opens as TorchScript or as plain weights; nothing else of it ever runs."""
    mark = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {mark}",)

    state = torch.load(folder / artifact.MODEL, weights_only=True) | {"hostile": Hostile()}
    buffer = io.BytesIO()
    if form == "plain pickle":
        pickle.dump(state, buffer)
    else:
        torch.save(state, buffer, _use_new_zipfile_serialization=form == "torch.save")
    (folder / artifact.MODEL).write_bytes(buffer.getvalue())
    _rehash(folder, model_type=model_type, distribution={"std": "none"})
    with pytest.raises(ArtifactError, match=rf"model\.pt: refused: no {model_type} model"):
        artifact.load(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "v9.9.9"}, r"version is v9\.9\.9, the folder says v1\.2\.3"),
        ({"version": "1.2.3"}, "version: .*no version like"),
        ({"model_type": "pickle"}, "model_type: "),
        ({"input_shape": [5]}, r"input_shape must be \[7\]"),
        ({"output_shape": [2]}, r"output_shape must be \[3\]"),
        ({"architecture": None}, "needs its architecture"),
        ({"architecture": {"hidden": [8, 8]}}, "no pytorch model as its card says"),
        ({"action": {"layout": ["gas"], "low": [0], "high": [1]}}, "layout: must be"),
        ({"sensors": "five"}, "sensors: "),
    ],
)
def test_a_card_that_does_not_fit(folder: Path, change: dict[str, Any], message: str) -> None:
    _rehash(folder, **change)
    with pytest.raises(ArtifactError, match=message):
        artifact.load(folder)


def test_a_card_that_is_no_yaml(folder: Path) -> None:
    (folder / CARD).write_text("model_name: [")
    with pytest.raises(ArtifactError, match=r"model_card\.yaml: not YAML"):
        artifact.load(folder)
    (folder / CARD).write_text("model_name: a\nversion: v0.1.0\nmodel_name: b\n")
    with pytest.raises(ArtifactError, match="not YAML: model_name is there twice: line 3"):
        artifact.load(folder)


def test_weights_that_are_not_finite(folder: Path) -> None:
    state = torch.load(folder / artifact.MODEL, weights_only=True)
    state["mean.bias"][0] = float("nan")
    torch.save(state, folder / artifact.MODEL)
    _rehash(folder)
    with pytest.raises(ArtifactError, match="not finite"):
        artifact.load(folder)


def test_a_torchscript_artifact_acts_as_its_program(folder: Path) -> None:
    before = artifact.load(folder)

    class Mean(torch.nn.Module):
        def __init__(self, gaussian: torch.nn.Module) -> None:
            super().__init__()
            self.gaussian = gaussian

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            mean: torch.Tensor = self.gaussian(features)[0]
            return mean

    torch.jit.trace(Mean(before.policy.gaussian), torch.zeros(2, 7)).save(folder / artifact.MODEL)
    _rehash(folder, model_type="torchscript", architecture=None, distribution={"std": "none"})
    after = artifact.load(folder)
    features = parity.features(before, before.observations)
    noise = np.zeros((len(features), 3), np.float32)
    expected = parity.actions(before, features, noise)
    np.testing.assert_allclose(parity.actions(after, features, noise), expected, atol=1e-6)


@pytest.mark.parametrize(
    "text", ["2020-99-99", "[" * 5000, "\x00", "- 5", "model_name: 5", "performance_metrics: 5"]
)
def test_a_card_of_another_kind(folder: Path, text: str) -> None:
    (folder / CARD).write_text(text)
    with pytest.raises(ArtifactError, match=r"model_card\.yaml: "):
        artifact.load(folder)


@pytest.mark.parametrize("name", [OBSERVATIONS, artifact.PREPROCESSOR])
def test_damage_under_holding_hashes_names_the_file(folder: Path, name: str) -> None:
    """What a hostile author could write: bytes changed, and the card's hashes with them."""
    data = (folder / name).read_bytes()
    generator = np.random.default_rng(0)
    told = []
    for _ in range(100):
        damaged = bytearray(data)
        for position in generator.integers(0, min(len(data), 128), 2):
            damaged[position] = generator.integers(0, 256)
        (folder / name).write_bytes(damaged)
        _rehash(folder)
        try:
            artifact.load(folder)
        except ArtifactError as error:
            told.append(str(error))
    assert told
    assert all(text.startswith(f"{folder / name}: ") for text in told)


def test_observations_that_are_no_numbers(folder: Path) -> None:
    np.save(folder / OBSERVATIONS, np.full((2, 7), "far"))
    _rehash(folder)
    with pytest.raises(ArtifactError, match=r"observations\.npy: .* no real numbers"):
        artifact.load(folder)


def test_versions_in_semantic_order(tmp_path: Path, make_artifact: MakeArtifact) -> None:
    for version in ("v0.10.0", "v0.9.0", "v1.0.0"):
        make_artifact(tmp_path / version)
    names = [path.name for path in artifact.versions_in(tmp_path)]
    assert names == ["v0.9.0", "v0.10.0", "v1.0.0"]
    with pytest.raises(ArtifactError, match="no such folder"):
        artifact.versions_in(tmp_path / "none")
    (tmp_path / "v0.8.0").mkdir()  # half an artifact is not passed over
    (tmp_path / "notes").mkdir()
    assert [path.name for path in artifact.versions_in(tmp_path)] == ["v0.8.0", *names]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="no artifact in it"):
        artifact.versions_in(tmp_path / "empty")


def test_a_version_is_never_overwritten(folder: Path, make_artifact: MakeArtifact) -> None:
    with pytest.raises(ArtifactError, match="versions never change"):
        make_artifact(folder)


def _create(folder: Path, source: artifact.Artifact, **changes: Any) -> None:
    given: dict[str, Any] = {
        "model": artifact.state_dict_bytes(source.policy.gaussian.state_dict()),
        "pickled": pickles.NOTHING,
        "observations": None,
        "check": lambda _: None,
    }
    artifact.create(
        folder, source.card.model_copy(update={"version": folder.name}), **given | changes
    )


def test_a_version_that_another_command_made_meanwhile_stays(folder: Path) -> None:
    source, new = artifact.load(folder), folder.parent / "new" / "v2.0.0"
    with pytest.raises(ArtifactError, match=r"v2\.0\.0: this version exists"):
        _create(new, source, check=lambda _: _create(new, source))
    assert artifact.load(new).card.version == "v2.0.0"


def test_what_an_import_refuses_is_named_by_the_users_file(folder: Path, tmp_path: Path) -> None:
    source, new = artifact.load(folder), tmp_path / "new" / "v2.0.0"
    observations, pickled = tmp_path / "recorded.npy", tmp_path / "statistics.pkl"
    observations.write_bytes(b"no array")
    with pytest.raises(ArtifactError, match=f"^--observations {observations}: no numpy array"):
        _create(new, source, observations=observations)
    with pytest.raises(ArtifactError, match=f"^{pickled}: refused: "):
        _create(new, source, pickled=b"", origins={artifact.PREPROCESSOR: pickled})
    with pytest.raises(ArtifactError, match=f"^{new / 'model.pt'}: refused: "):
        _create(new, source, model=artifact.state_dict_bytes({}))
    with pytest.raises(ArtifactError, match=f"^--observations {tmp_path / 'none'}: no such file"):
        _create(new, source, observations=tmp_path / "none")
    with pytest.raises(ArtifactError, match=f"^{observations / 'v2.0.0'}: "):
        _create(observations / "v2.0.0", source)
    assert list(new.parent.iterdir()) == []
