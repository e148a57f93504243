"""From what a report says to one HTML file: jinja2's template with autoescape, and a policy that lets nothing else run.

Names in a recording may come from anybody. The template escapes them, the script puts them on the page as text, and the
page's Content-Security-Policy allows its own script and style by their hashes alone, and no network at all.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from probe import __version__
from probe.printable import printable
from probe.reporting.verdict import compared

SCRIPTS = ("charts.js", "statistics.js", "single.js", "report.js")
"""In the order in which they build on each other."""


def page(said: Mapping[str, Any]) -> str:
    """The HTML of a report.

    Args:
        said: from `probe.reporting.contents.contents`.
    """
    harmless = _harmless(said)
    return _environment().get_template("page.html.j2").render(
        **harmless, version=__version__, difference_told=compared(harmless["difference"]),
        style=Markup(_style()), style_hash=_hash(_style()), script=Markup(_script()), script_hash=_hash(_script()),
        data={key: harmless[key] for key in ("words", "recordings", "rows")},
    )  # fmt: skip


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("probe.reporting", "page"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["plain"] = plain
    # What is no number for JSON would leave a page that shows nothing.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def _style() -> str:
    return files("probe.reporting").joinpath("page/report.css").read_text(encoding="utf-8")


def _script() -> str:
    parts = (files("probe.reporting").joinpath(f"page/{name}").read_text(encoding="utf-8") for name in SCRIPTS)
    return '"use strict";\n' + "\n".join(parts)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def plain(value: Any) -> str:
    """A value of evidence as text: four significant digits, lists with commas, a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain(one)}" for key, one in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        shown = ", ".join(plain(one) for one in value[:32])
        return shown + (f" and {len(value) - 32} more" if len(value) > 32 else "")
    return str(value)


def _harmless(value: Any) -> Any:
    """The same data with control characters made visible in every text."""
    if isinstance(value, str):
        return value if value.isprintable() else printable(value)
    if isinstance(value, Mapping):
        return {_harmless(key): _harmless(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        # Lists of numbers make most of the page.
        return value if value and isinstance(value[0], int | float) else [_harmless(one) for one in value]
    return value
