"""Chat formats of published model families with small tokenizers of the same kinds, made when a test asks."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from aloe_jax.data.template import ChatTemplate
from aloe_jax.data.tokenizer import load_tokenizer
from tests.data.families.formats import FAMILIES, Family
from tests.data.families.tokenizers import write_tokenizer

__all__ = ["FAMILIES", "Family", "loaded", "write_tokenizer"]


_ROOT = tempfile.TemporaryDirectory(prefix="aloe-jax-families-")  # removed when the process ends


@functools.cache
def loaded(name: str) -> tuple[Family, Any, ChatTemplate]:
    """A family, its tokenizer as read back from disk, and its template; shared by all tests, so not to be changed."""
    tokenizer = load_tokenizer(write_tokenizer(FAMILIES[name], Path(_ROOT.name) / name))
    return FAMILIES[name], tokenizer, ChatTemplate(tokenizer)
