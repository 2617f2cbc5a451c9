"""HTML pages in one file that are read without a network: their own script and style inside, and no others allowed."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources


@dataclass(frozen=True)
class Assets:
    """The script and the style of a page."""

    script: str
    style: str


def read_assets(package: str, folder: str, scripts: Sequence[str], styles: Sequence[str]) -> Assets:
    """Join `scripts` and `styles` (names without endings) in a folder of a package, after what all pages share."""
    shared = resources.files("aloe_jax").joinpath("offline_page.js").read_text(encoding="utf-8")
    own = "".join(read_text(package, f"{folder}/{name}.js") for name in scripts)
    style = "".join(read_text(package, f"{folder}/{name}.css") for name in styles)
    return Assets(f'"use strict";\n(() => {{\n{shared}{own}}})();\n', style)


def read_text(package: str, name: str) -> str:
    """A file of a package."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def fill(template: str, assets: Assets, data: str) -> str:
    """A page: `{{script}}`, `{{style}}`, their hashes and `{{data}}` of the template replaced."""
    parts = {
        "script": assets.script,
        "style": assets.style,
        "script-hash": source_hash(assets.script),
        "style-hash": source_hash(assets.style),
        "data": data,
    }
    return re.sub(r"\{\{([a-z-]+)\}\}", lambda match: parts[match[1]], template)


def as_script_data(value: object) -> str:
    """JSON that may stand in a script element: no text in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "&<>\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def source_hash(text: str) -> str:
    """As a content security policy names the one script, or the one style, that may be used."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
