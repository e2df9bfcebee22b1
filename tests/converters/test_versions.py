from __future__ import annotations

import pytest

from converters.artifact.versions import triton_version


@pytest.mark.parametrize(
    ("version", "number"),
    [("v0.0.1", 1), ("v0.1.0", 1_000), ("v0.2.0", 2_000), ("v1.2.3", 1_002_003)],
)
def test_number(version: str, number: int) -> None:
    assert triton_version(version) == number


def test_order_is_semver() -> None:
    versions = ["v0.0.999", "v0.1.0", "v0.9.9", "v0.10.0", "v0.999.999", "v1.0.0", "v10.0.0"]
    assert sorted(versions, key=triton_version) == versions


@pytest.mark.parametrize(
    "version",
    ["", "0.1.0", "v0.1", "v0.1.0.0", "v01.0.0", "v0.1.0-rc1", "v0.1000.0", "v0.0.1000",
     "v0.0.0", "v2001.0.0", "v٣.1.0", "v0.1.0\n"],
)  # fmt: skip
def test_refused(version: str) -> None:
    with pytest.raises(ValueError, match=r"version|range"):
        triton_version(version)
