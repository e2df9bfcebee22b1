"""Ed25519 signatures over model cards. They prove who made an artifact; a hash can't.

The card holds the hashes of the artifact's other files, so one signature covers them all.
`model_card.sig` is the 64 bytes of RFC 8032, which `openssl pkeyutl -verify -rawin` checks too.
"""

import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from converters.artifact.card import CARD, ArtifactError
from converters.errors import ConversionError, one_line

SIGNATURE = "model_card.sig"
PUBLIC_SUFFIX = ".pub"

_PEM = serialization.Encoding.PEM


class KeyFileError(ConversionError):
    """A key can't be read or written."""


def generate(path: Path) -> Path:
    """Write a new private key to `path` (mode 600) and return the path of its public key.

    Raises KeyFileError if one of the files exists or can't be written.
    """
    key = Ed25519PrivateKey.generate()
    public = path.with_name(path.name + PUBLIC_SUFFIX)
    secret = key.private_bytes(
        _PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    shown = key.public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    if public.exists():
        raise KeyFileError(f"{public}: exists; keys are never overwritten")
    for target, content, mode in ((path, secret, 0o600), (public, shown, 0o644)):
        try:
            with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(content)
        except FileExistsError:
            raise KeyFileError(f"{target}: exists; keys are never overwritten") from None
        except OSError as error:
            raise KeyFileError(f"{target}: {error.strerror}") from None
    return public


def private_key(path: Path) -> Ed25519PrivateKey:
    """Read an unencrypted private key in PEM; raise KeyFileError for anything else."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path}: no private key in PEM: {one_line(error)}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path}: no Ed25519 key; `carlarl sign --generate FILE` makes one")
    return key


def public_key(given: str) -> Ed25519PublicKey:
    """Read a public key from its PEM text, or from the file at that path.

    Raises KeyFileError for anything else.
    """
    shown = "the text given" if "-----BEGIN" in given else given
    try:
        text = given.encode() if "-----BEGIN" in given else Path(given).read_bytes()
        key = serialization.load_pem_public_key(text)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            f"{shown}: no public key in PEM to check signatures with: {one_line(error)}"
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(f"{shown}: no Ed25519 key; `carlarl sign --generate FILE` makes one")
    return key


def sign(folder: Path, key: Ed25519PrivateKey) -> Path:
    """Sign the card of the artifact in `folder` and return the signature's path.

    Raises ArtifactError if the signature can't be written.
    """
    path = folder / SIGNATURE
    try:
        path.write_bytes(key.sign((folder / CARD).read_bytes()))
    except OSError as error:
        raise ArtifactError(f"{error.filename}: {error.strerror}") from None
    return path


def verify(folder: Path, card: bytes, key: Ed25519PublicKey) -> None:
    """Check the signature in `folder` over the card's bytes; raise ArtifactError if it is wrong."""
    path = folder / SIGNATURE
    try:
        key.verify(path.read_bytes(), card)
    except FileNotFoundError:
        raise ArtifactError(
            f"{path}: no such file, and only signed artifacts are accepted: `carlarl sign` it, "
            "if it is yours"
        ) from None
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}") from None
    except InvalidSignature:
        raise ArtifactError(
            f"{path}: not this key's signature of {CARD}: the card was changed, or someone else "
            "signed it"
        ) from None
