r"""Text of others on a terminal or in a log: what would steer it is shown, and not sent.

A key, a value, a member's name or an address may hold an escape sequence that renames the window,
a line break that forges a line, a tab that forges a column, or a mark that turns the direction of
writing.  In everything that is printed or logged such a character stands as its escape (``\x1b``,
``\n``, ``\u202e``), and in JSON as JSON's own, which a reader of JSON turns back.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

_STEERING: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
"""C0, DEL and C1, line and paragraph ends, marks of direction, and halves of characters."""


def printable(text: object) -> str:
    """Return the text on one line, without anything that a terminal would obey."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def json_line(doc: Any) -> str:
    """Return JSON on one line, readable and without anything that a terminal would obey."""
    text = json.dumps(doc, default=str, ensure_ascii=False)
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
