from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests import page

collect_ignore = [] if find_spec("highway_env") else ["test_environments.py"]
"""`make test-foreign` installs the environments; without them its run has no test, and fails."""


@pytest.fixture(scope="module", autouse=True)
def written() -> Iterator[None]:
    """Write what a module saw, also where a test of it failed."""
    yield
    page.write("SUPPORT.md")
