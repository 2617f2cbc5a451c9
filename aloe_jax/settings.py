"""Settings: sections with strict types, read from a YAML file and trailing overrides, with errors of one line.

Each section stands with its defaults beside what it configures: `settings.py` of models, data, parallel, training, llm,
sampling, benchmark and datagen. YAML files hold only the differences from there. An unknown key or a wrong type is an
AloeError that names the file, the key and the nearest valid name.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from aloe_jax.errors import AloeError
from aloe_jax.ranges import readable
from aloe_jax.storage.files import as_path
from aloe_jax.yaml_text import LARGEST, looks_like_number, parse_yaml, to_yaml

# An override that may contain a password or a key, which is then refused.
_SECRET = re.compile(r"((?:^|\.)(?:endpoint|key_variable)=).*", re.DOTALL)


class Section(BaseModel):
    """A group of settings: frozen, strictly typed, closed to unknown keys, every number finite and every text plain."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=(), allow_inf_nan=False)
    renamed: ClassVar[Mapping[str, str]] = {}  # keys of earlier versions, which are still read -> their names now

    @model_validator(mode="before")
    @classmethod
    def _current_names(cls, values: object) -> object:
        if not isinstance(values, dict) or not cls.renamed.keys() & values.keys():
            return values
        values = dict(values)
        for old, new in cls.renamed.items():
            section, _, key = new.rpartition(".")
            if old not in values or (old == section and isinstance(values[old], dict | BaseModel)):
                continue
            value = values.pop(old)
            inner = dict(values.get(section) or {}) if section else values
            if key in inner:
                raise ValueError(f"{old}: is called {new} now, which is given too; give one of them")
            inner[key] = value
            if section:
                values[section] = inner
        return values

    @field_validator("*")
    @classmethod
    def _plain(cls, value: object) -> object:
        _check_plain(value)
        return value


def _check_plain(value: object) -> None:
    """Raise ValueError for text or numbers that nothing can be done with, at any depth of a setting."""
    if isinstance(value, str):
        readable(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _check_plain(key)
            _check_plain(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_plain(inner)


def load_settings[S: BaseModel](kind: type[S], path: str | Path | None, overrides: Sequence[str] = ()) -> S:
    """Read settings of `kind` from a YAML file, or without one from the defaults, and `section.key=value` overrides.

    Raises AloeError naming the file (or the override), the key and what would be valid.
    """
    try:
        values = {} if path is None else _read(path)
    except OSError as error:
        raise AloeError(f"{_short(str(path))}: cannot read the config ({error.strerror})") from None
    except ValueError as error:  # a NUL byte in the name
        raise AloeError(f"{_short(repr(str(path)))}: cannot read the config ({error})") from None
    except AloeError as error:
        raise AloeError(f"{path}: {error}") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise AloeError(f"{path}: expected `key: value` lines, found {type(values).__name__}")
    for override in overrides:
        _apply(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise AloeError(_one_line(f"{_whence(path, overrides, error)}: {_explain(kind, error)}")) from None


def _whence(path: str | Path | None, overrides: Sequence[str], error: ValidationError) -> str:
    """The file, and the overrides that set what is wrong, or all of them where it is no single setting."""
    fault = error.errors()[0]
    at = ".".join(str(part) for part in fault["loc"])
    about = [one for one in overrides if f"{at}.".startswith(f"{one.partition('=')[0]}.")] if at else list(overrides)
    shown = " ".join(_SECRET.sub(r"\1…", one) for one in about)
    if path is None:
        return _short(shown, 300)
    return f"{path} with {_short(shown, 300)}" if about else f"{path}"


def _read(path: str | Path) -> object:
    with as_path(path).open("rb") as stream:  # no more of it than a config has: it may be a device, or weights
        return parse_yaml(stream.read(LARGEST + 1))


def dump_settings(settings: BaseModel) -> str:
    """The resolved settings as YAML that `load` reads back to an equal value."""
    return to_yaml(settings.model_dump())


def _apply(values: dict[object, object], override: str) -> None:
    given = _short(repr(_SECRET.sub(r"\1…", override)))
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise AloeError(f"override {given}: write section.key=value")
    *sections, last = key.split(".")
    for section in sections:
        if values.get(section) is None:  # `section:` with nothing below it
            values[section] = {}
        inner = values[section]
        if not isinstance(inner, dict):
            raise AloeError(f"override {given}: {_short(section)} is a value, not a section")
        values = inner
    try:
        values[last] = parse_yaml(text)
    except AloeError as error:
        raise AloeError(f"override {given}: {_short(repr(text))} is not a YAML value ({error})") from None


def _short(text: str, most: int = 100) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def _one_line(text: str) -> str:
    """Without line breaks and control characters, which a key or a value may have."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))


def _explain(kind: type[BaseModel], error: ValidationError) -> str:
    fault = error.errors()[0]
    key = _short(".".join(str(part) for part in fault["loc"]))
    if fault["type"] == "extra_forbidden":
        near = _nearest(key, _keys(kind))
        hint = f"; did you mean {near}?" if near else "; write a space after the colon" if ":" in key else ""
        return f"unknown key {key}{hint}"
    if fault["type"] == "missing":
        return f"{key} is missing"
    if fault["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"{key}: has settings of its own, such as {{name: value}}; {shown(fault['input'])} is none"
    if fault["type"] == "value_error":
        text = fault["msg"].removeprefix("Value error, ")
        return f"{key}: {text}" if key else text
    return f"{key}: {fault['msg'].lower()}, not {shown(fault['input'])}{_hint(fault['type'], fault['input'])}"


def _nearest(key: str, names: Sequence[str]) -> str | None:
    """The key that was probably meant: spelt alike at the same level, or of the same name at another one."""
    level, _, last = key.rpartition(".")
    beside = {name.rpartition(".")[2]: name for name in names if name.rpartition(".")[0] == level}
    if found := difflib.get_close_matches(last, beside, n=1):
        return beside[found[0]]
    elsewhere = {name.rpartition(".")[2]: name for name in reversed(names)}
    found = difflib.get_close_matches(last, elsewhere, n=1, cutoff=0.75)
    return elsewhere[found[0]] if found else None


def shown(value: object) -> str:
    """A value in a message, cut where it is long."""
    try:
        return _short(repr(value))
    except ValueError:  # Python writes no number of many thousand digits
        return f"a number of {value.bit_length()} bits" if isinstance(value, int) else type(value).__name__


def _hint(fault: str, value: object) -> str:
    """What to write instead, where YAML read something other than was meant."""
    if fault in ("float_type", "int_type") and isinstance(value, str) and looks_like_number(value):
        return "; write the number without quotes, in the form 1e-5 or 0.00001"
    if fault == "string_type" and not isinstance(value, dict | list | NoneType):
        return "; YAML reads that as something other than text: put it in quotes"
    if fault == "bool_type" and isinstance(value, str | int):
        return "; write true or false"
    return ""


def _keys(kind: type[BaseModel], prefix: str = "") -> list[str]:
    names = []
    for name, field in kind.model_fields.items():
        names.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names.extend(_keys(field.annotation, f"{prefix}{name}."))
    return names
