"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def markdown_table(
    header: Sequence[str], cells: Sequence[Sequence[str]], *, text_columns: int = 1
) -> str:
    """Return a Markdown table.

    Args:
        header: Names of the columns.
        cells: The text of each row.
        text_columns: The first columns, which are left-aligned; the others are right-aligned.
    """
    rule = ["---" if index < text_columns else "--:" for index in range(len(header))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *cells))
