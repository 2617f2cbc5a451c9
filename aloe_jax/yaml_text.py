"""YAML of settings: what a person can mean by it, and one line for everything else.

Stricter than YAML where that reads something other than what stands there: 010 is no octal 8, 1:30 no 90, a key is
given once. Looser in one: 1e-5 is a number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import yaml

from aloe_jax.errors import AloeError

LARGEST = 2**18  # bytes; a config has a few hundred
DEEPEST = 40  # sections in sections
MOST_VALUES = 50_000  # with those that aliases repeat

_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?")
_OCTAL, _SEXAGESIMAL = re.compile(r"[-+]?0[0-9_]+"), re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")


class _Loader(yaml.SafeLoader):
    """See the module."""


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would not read as text."""


for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver(
        _FLOAT, re.compile(r"^[-+]?([0-9][0-9_]*(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
    )


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[object, object]:
    seen: dict[object, object] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        where = f"line {key_node.start_mark.line + 1}"
        if not isinstance(key, str | int | float | bool) and key is not None:
            raise AloeError(f"{where}: a key must be a name, not {type(key).__name__}")
        if key in seen:
            raise AloeError(f"{where}: the key {key!r} is given twice")
        seen[key] = loader.construct_object(value_node, deep=True)
    return seen


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(node.value)
    if _OCTAL.fullmatch(text) and text.strip("+-0_"):
        raise AloeError(
            f"line {node.start_mark.line + 1}: {text[:40]} begins with 0, which YAML reads as an octal number; "
            "leave the 0 out, or put it in quotes if it is a name"
        )
    _refuse_time(node)
    return loader.construct_yaml_int(node)


def _real(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    _refuse_time(node)
    return loader.construct_yaml_float(node)


def _refuse_time(node: yaml.ScalarNode) -> None:
    if _SEXAGESIMAL.fullmatch(str(node.value)):
        raise AloeError(
            f"line {node.start_mark.line + 1}: {str(node.value)[:40]} is a number to the base 60 in YAML; "
            "put it in quotes if it is a name"
        )


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor(_INT, _integer)
_Loader.add_constructor(_FLOAT, _real)


def parse_yaml(text: str | bytes) -> object:
    """The value of one YAML document. Raises AloeError in one line, without the name of the file."""
    if len(text) > LARGEST:
        raise AloeError(f"its bytes are more than the {LARGEST:,} of any config; is it another file?")
    try:
        loader = _Loader(text.decode() if isinstance(text, bytes) else text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except AloeError:
        raise
    except UnicodeDecodeError as error:
        raise AloeError(f"is not UTF-8 text (byte {error.start:,}); save it as UTF-8") from None
    except RecursionError:
        raise AloeError(f"is nested more than {DEEPEST} deep") from None
    # The parser's own errors, and what its constructors of dates, sets and numbers raise for text that is none.
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise AloeError(reason) from None


def to_yaml(values: Mapping[str, object]) -> str:
    """Text that `parse_yaml` reads back to equal values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


def _count(root: yaml.Node) -> None:
    """Raise AloeError where a document is deeper or larger than any config, with what its aliases repeat."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, depth: int) -> int:
        if depth > DEEPEST:
            raise AloeError(f"is nested more than {DEEPEST} deep, or an alias in it repeats itself")
        if id(node) not in sizes:
            found: list[yaml.Node] = []
            if isinstance(node, yaml.MappingNode):
                found = [part for pair in node.value for part in pair]
            elif isinstance(node, yaml.SequenceNode):
                found = node.value
            sizes[id(node)] = 1 + sum(size(part, depth + 1) for part in found)
            if sizes[id(node)] > MOST_VALUES:
                raise AloeError(f"has more than {MOST_VALUES:,} values, counting what its aliases repeat")
        return sizes[id(node)]

    size(root, 0)


def looks_like_number(text: str) -> bool:
    """Whether text in quotes would be a number without them."""
    return _NUMBER.fullmatch(text.strip()) is not None
