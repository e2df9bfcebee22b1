"""Check artifacts and the model repository against what they promise."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from converters.artifact import artifact, signature
from converters.artifact.card import CARD, ArtifactError, read_bytes
from converters.artifact.versions import triton_version
from converters.errors import ConversionError
from converters.export.export import export
from converters.repository import certificate, comparison, configs, repository
from converters.repository.repository import RepositoryError

SHOWN = 5
"""How many differing files a line names. For more it gives only the number."""


@dataclass(frozen=True)
class Check:
    """One check of a version: whether it holds, what was found, and what to do if it fails."""

    version: str
    check: str
    ok: bool
    found: str
    todo: str = ""


def validate(
    version: str, artifacts: Path, target: Path, key: Ed25519PublicKey | None = None
) -> Iterator[Check]:
    """Check one version, from its card to its certificate, and yield each check.

    A check that an earlier failure makes impossible is left out. A version that is damaged or
    missing raises nothing.
    """
    folder = artifacts / version
    check, todo = "signature", "ask its author for a signed one"
    try:
        if key is not None:
            signature.verify(folder, read_bytes(folder / CARD), key)
            yield Check(version, check, True, f"{signature.SIGNATURE} is the key's")
        check, todo = "card", "restore or correct it, and sign it again"
        card, digest = artifact.read_card(folder)
        yield Check(version, check, True, f"{card.model_name}, {card.model_type}, {digest[:19]}")
        check, todo = "hashes", "restore the file, or import the policy again as the next version"
        files = artifact.verified_files(folder, card)
        yield Check(version, check, True, ", ".join(sorted(files)))
        check, todo = "contents", "use no artifact of unknown origin"
        artifact.load(folder)
        yield Check(version, check, True, "safe to open, and they act")
    except ArtifactError as error:
        yield Check(version, check, False, str(error), todo)
        return
    yield from _validate_repository(version, folder, target)


def _validate_repository(version: str, folder: Path, target: Path) -> Iterator[Check]:
    again = f"carlarl export --version {version}"
    try:
        config = repository.read_config(target, configs.ensemble_name(version))
        formats = config.parameters["formats"].string_value.split(",")
        with tempfile.TemporaryDirectory() as directory:
            fresh = Path(directory) / "model_repository"
            told, held = config.parameters, repository.flavour(target) or "python"
            precision = (
                told[configs.PRECISION].string_value if configs.PRECISION in told else "fp32"
            )
            export([folder], fresh, formats, flavour=held, precision=precision)
            different = comparison.differences(fresh, target, version)
            measured = certificate.read(fresh, version)
    except (ConversionError, KeyError) as error:
        yield Check(version, "repository", False, str(error), again)
        return
    if different:
        more = f" and {len(different) - SHOWN} more" if len(different) > SHOWN else ""
        yield Check(version, "repository", False, ", ".join(different[:SHOWN]) + more, again)
    else:
        yield Check(version, "repository", True, f"what the artifact exports to: {target}")
    try:
        claimed = certificate.read(target, version)
    except RepositoryError as error:
        yield Check(version, "certificate", False, str(error), again)
        return
    wrong = certificate.overclaims(claimed, measured)
    if wrong:
        yield Check(version, "certificate", False, ", ".join(wrong), f"{again}, on this machine")
        return
    lines = certificate.lines(version, claimed)
    exact = [line.format for line in lines if line.bit_exact]
    inexact = [line.format for line in lines if not line.bit_exact]
    parts = [f"bit-exact in any batch: {', '.join(exact) or 'none'}"]
    if inexact:
        parts.append(f"not bit-exact across batch sizes: {', '.join(inexact)}")
    yield Check(version, "certificate", True, "; ".join(parts))


def validate_all(
    versions: tuple[str, ...],
    artifacts: Path,
    target: Path,
    key: Ed25519PublicKey | None = None,
    progress: Callable[[str], None] = lambda version: None,
) -> Iterator[Check]:
    """Check `versions`, or all versions that the artifacts or the repository hold.

    Raises ArtifactError if there are no artifacts at all, RepositoryError for a damaged config.
    """
    held = {one.version for one in repository.versions(target)} if target.exists() else set()
    known = {path.name for path in artifact.versions_in(artifacts)}
    for version in versions or sorted(known | held, key=triton_version):
        progress(version)
        if version in held - known:
            yield Check(
                version, "card", False, f"{target} holds it, {artifacts} does not",
                "restore the artifact, or export without it",
            )  # fmt: skip
            continue
        yield from validate(version, artifacts, target, key)
