"""A signature tells whose an artifact is: without the right one nothing of it is opened."""

from __future__ import annotations

import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from converters.artifact import artifact, signature
from converters.artifact.card import CARD, ArtifactError
from converters.export.export import export
from triton_backend.engine import digest

MakeArtifact = Callable[..., Path]


@pytest.fixture
def private(tmp_path: Path) -> Path:
    signature.generate(tmp_path / "key.pem")
    return tmp_path / "key.pem"


@pytest.fixture
def public(private: Path) -> Any:
    return signature.public_key(f"{private}.pub")


@pytest.fixture
def signed(tmp_path: Path, make_artifact: MakeArtifact, private: Path) -> Path:
    folder = make_artifact(tmp_path / "artifacts" / "v1.2.3")
    signature.sign(folder, signature.private_key(private))
    return folder


def test_keys(private: Path, public: Any) -> None:
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    text = Path(f"{private}.pub").read_text()
    assert signature.public_key(text).public_bytes_raw() == public.public_bytes_raw()
    with pytest.raises(signature.KeyFileError, match="never overwritten"):
        signature.generate(private)


def test_signed_loads_with_and_without_a_key(signed: Path, public: Any) -> None:
    assert len((signed / signature.SIGNATURE).read_bytes()) == 64
    assert artifact.load(signed, public).digest == artifact.load(signed).digest


def test_unsigned_is_refused(signed: Path, public: Any) -> None:
    (signed / signature.SIGNATURE).unlink()
    with pytest.raises(ArtifactError, match=r"model_card\.sig: no such file, and only signed"):
        artifact.load(signed, public)


@pytest.mark.parametrize("change", ["card", "signature", "key", "length"])
def test_wrongly_signed_is_refused(signed: Path, public: Any, tmp_path: Path, change: str) -> None:
    path = signed / signature.SIGNATURE
    if change == "card":
        with (signed / CARD).open("a") as card:
            card.write("note: one more line\n")
    elif change == "signature":
        data = bytearray(path.read_bytes())
        data[10] ^= 1
        path.write_bytes(data)
    elif change == "length":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        signature.generate(tmp_path / "other.pem")
        signature.sign(signed, signature.private_key(tmp_path / "other.pem"))
    with pytest.raises(ArtifactError, match=r"model_card\.sig: not this key's signature"):
        artifact.load(signed, public)


def test_without_the_right_signature_nothing_is_opened(
    signed: Path, public: Any, tmp_path: Path
) -> None:
    """An artifact made hostile, hashes holding: no file of it is read, not even the card."""
    mark = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> Any:
            return open, (str(mark), "w")

    (signed / artifact.PREPROCESSOR).write_bytes(pickle.dumps(Hostile()))
    card = yaml.safe_load((signed / CARD).read_text())
    card["artifact_hashes"][artifact.PREPROCESSOR] = digest(
        (signed / artifact.PREPROCESSOR).read_bytes()
    )
    card["version"] = "no version"
    (signed / CARD).write_text(yaml.safe_dump(card))
    with pytest.raises(ArtifactError, match="not this key's signature"):
        artifact.load(signed, public)
    with pytest.raises(ArtifactError, match="not this key's signature"):
        export([signed], tmp_path / "repository", key=public)
    assert not mark.exists()
    assert not (tmp_path / "repository").exists()


def test_bad_keys(tmp_path: Path, private: Path) -> None:
    (tmp_path / "text").write_text("no key")
    for given in (str(tmp_path / "text"), str(tmp_path / "none"), "-----BEGIN PUBLIC KEY-----"):
        with pytest.raises(signature.KeyFileError, match="no public key in PEM"):
            signature.public_key(given)
    with pytest.raises(signature.KeyFileError, match="no private key in PEM"):
        signature.private_key(tmp_path / "text")
    other = generate_private_key(SECP256R1())
    (tmp_path / "ec.pem").write_bytes(
        other.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    with pytest.raises(signature.KeyFileError, match="no Ed25519 key"):
        signature.private_key(tmp_path / "ec.pem")
