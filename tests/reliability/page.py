"""The tables of docs/RELIABILITY.md that a run writes."""

import re
from collections import defaultdict

from tests.stack import ROOT

PAGE = ROOT / "docs" / "RELIABILITY.md"

_rows: dict[str, list[str]] = defaultdict(list)


def add(table: str, *cells: str) -> str:
    """Keep a row for the table between the markers `table`; give its text."""
    _rows[table].append("| " + " | ".join(cells) + " |\n")
    return _rows[table][-1]


def write() -> None:
    """Put the rows kept since the last call in the place of those on the page."""
    text = PAGE.read_text()
    for name, rows in _rows.items():
        table = re.compile(rf"(<!-- {name} -->\n(?:.*\n){{2}})(?:.*\n)*?(<!-- /{name} -->)")
        assert table.search(text), f"{PAGE} lacks the markers of {name}"
        text = table.sub(lambda found, rows=rows: found[1] + "".join(rows) + found[2], text)
    PAGE.write_text(text)
    _rows.clear()
