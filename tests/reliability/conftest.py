from collections.abc import Iterator

import pytest

from tests import page


@pytest.fixture(scope="module", autouse=True)
def written() -> Iterator[None]:
    """Write what a module measured, also where a test of it failed."""
    yield
    page.write("RELIABILITY.md")
