"""The certificate in words, and what it must not promise."""

from __future__ import annotations

import copy

from converters.export import parity
from converters.repository import certificate
from tests.stack import ROOT

REPOSITORY = ROOT / "model_repository"


def test_every_cell_is_there() -> None:
    for version in ("v0.1.0", "v0.2.0"):
        told = certificate.read(REPOSITORY, version)
        cells = {(cell["format"], cell["batch"]) for cell in told["cells"]}
        assert cells == {
            (form, batch) for form in ("onnx", "torchscript") for batch in parity.BATCH_SIZES
        }
        for cell in told["cells"]:
            assert cell["repeats"] == parity.REPEATS
            assert cell["max_error"] <= parity.TOLERANCE
            for what in ("repeats", "alone"):
                assert cell[f"{what}_bit_exact"] or 0 <= cell[f"{what}_error"] <= parity.TOLERANCE


def test_formats_that_are_not_bit_exact_are_named() -> None:
    lines = certificate.lines("v0.2.0", certificate.read(REPOSITORY, "v0.2.0"))
    assert [(line.format, line.bit_exact) for line in lines] == [
        ("onnx", True),
        ("torchscript", False),
    ]
    assert lines[1].alone.startswith("not bit-exact: up to ")


def test_a_certificate_that_promises_too_much() -> None:
    measured = certificate.read(REPOSITORY, "v0.2.0")
    assert certificate.overclaims(measured, measured) == []
    claimed = copy.deepcopy(measured)
    torchscript = next(
        c for c in claimed["cells"] if c["format"] == "torchscript" and c["batch"] == 7
    )
    torchscript["alone_bit_exact"] = True
    claimed["cells"][0]["max_error"] = 0.1
    del claimed["cells"][1]
    assert sorted(certificate.overclaims(claimed, measured)) == [
        "onnx, batch 1: beyond the tolerance",
        "onnx, batch 2: not in it",
        "torchscript, batch 7: not alone bit-exact here",
    ]
