"""The tables of a page in docs/ that a run of tests writes."""

import re
from collections import defaultdict

from tests.stack import ROOT

_rows: dict[str, list[str]] = defaultdict(list)


def add(table: str, *cells: str) -> str:
    """Keep a row for the table between the markers `table`; give its text."""
    _rows[table].append("| " + " | ".join(cells) + " |\n")
    return _rows[table][-1]


def write(name: str) -> None:
    """Put the rows kept since the last call in the place of those on the page `docs/{name}`."""
    path = ROOT / "docs" / name
    text = path.read_text()
    for table, rows in _rows.items():
        place = re.compile(rf"(<!-- {table} -->\n(?:.*\n){{2}})(?:.*\n)*?(<!-- /{table} -->)")
        assert place.search(text), f"{path} lacks the markers of {table}"
        text = place.sub(lambda found, rows=rows: found[1] + "".join(rows) + found[2], text)
    path.write_text(text)
    _rows.clear()
