"""The one home of what makes text from a file harmless before it is shown: on a terminal, in a table, in JSON.

A name in a recording may hold escape sequences that move a terminal's cursor, set its title or make a link, marks that
turn the direction of writing, and line breaks that forge a second line. matplotlib's own needs are met by
`probe.plots.style.clean`.
"""

from __future__ import annotations

import json
import re
from typing import Any

LONGEST = 1000
"""Characters of a text of a file that are shown; no name is as long, and a page of one is no table."""


def printable(text: str) -> str:
    r"""Text that may come from a file, with its control characters made visible and harmless: ESC becomes \x1b."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, limit: int = LONGEST) -> str:
    """A text without its middle where it is longer than `limit`, so that both of its ends can be read."""
    return text if len(text) <= limit else f"{text[: limit // 2 - 1]}…{text[len(text) - (limit - limit // 2) :]}"


def printable_json(value: Any, *, indent: int | None = 2) -> str:
    """JSON in which no character does more than stand there; it says the same, for escapes are JSON's own."""
    text = json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False)
    return re.sub(r"[^\n -~]", _escaped, text)


def _escaped(found: re.Match[str]) -> str:
    character = found.group()
    return character if character.isprintable() else json.dumps(character)[1:-1]
