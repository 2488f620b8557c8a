"""The sections of docs/measurements.md that programs write: each between two comments, the rest of the file stays as it
is.
"""

from __future__ import annotations


def replaced(text: str, maker: str, key: str, new: str) -> str:
    """The text with the section of that maker and key replaced, or added at the end. Raises ValueError for one
    without an end."""
    first, last = f"<!-- {maker}: {key} -->\n", f"<!-- end: {key} -->\n"
    before, found, rest = text.partition(first)
    if not found:
        return f"{text.rstrip()}\n\n{first}{new}{last}"
    _, ended, after = rest.partition(last)
    if not ended:
        raise ValueError(f"{first.strip()} without {last.strip()}")
    return f"{before}{first}{new}{last}{after}"
