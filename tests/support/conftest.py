from typing import Any

from tests import page


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Write what all processes of this run found, in the order of the tables."""
    passed = terminalreporter.stats.get("passed", [])
    rows = sorted(value for report in passed for name, value in report.user_properties)
    for table, _, cells in rows:
        page.add(table, *cells)
    page.write("SUPPORT.md")
