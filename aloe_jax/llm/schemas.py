"""JSON schemas in the dialects of the servers.

pydantic writes full JSON Schema; each server takes another part of it. What a dialect cannot say is left out where
that only loosens the form (the roles check every answer themselves), and otherwise there is no schema to send.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any  # noqa: TID251  pydantic's own type of a schema

Schema = Mapping[str, object]
_Node = Mapping[str, Any]  # a schema within, taken to be well formed: pydantic wrote it


class _InexpressibleError(Exception):
    pass


def gemini(schema: Schema) -> dict[str, object] | None:
    """The `Schema` message of google-generativeai as a dict, or None where it cannot express the form.

    It knows type, enum (of strings), nullable, items with their number, properties and required; neither bounds
    of numbers nor lengths of strings, nor a choice between types.
    """
    try:
        return _gemini(schema, schema)
    except _InexpressibleError:
        return None


def _gemini(schema: _Node, root: _Node) -> dict[str, object]:
    schema = _resolved(schema, root)
    if "anyOf" in schema:
        rest = [option for option in schema["anyOf"] if option.get("type") != "null"]
        if len(rest) != 1 or len(rest) == len(schema["anyOf"]):
            raise _InexpressibleError
        return _gemini(rest[0], root) | {"nullable": True}
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    kind = schema.get("type") or ("string" if values else None)
    if not isinstance(kind, str) or kind == "null" or "oneOf" in schema or "allOf" in schema:
        raise _InexpressibleError
    said: dict[str, object] = {"type": kind.upper()}
    if "description" in schema:
        said["description"] = schema["description"]
    if values:
        if not all(isinstance(value, str) for value in values):
            raise _InexpressibleError
        said |= {"format": "enum", "enum": list(values)}
    if kind == "array":
        if "items" not in schema:
            raise _InexpressibleError
        said["items"] = _gemini(schema["items"], root)
        said |= {
            ours: schema[key] for key, ours in (("minItems", "min_items"), ("maxItems", "max_items")) if key in schema
        }
    if kind == "object":
        if not schema.get("properties"):
            raise _InexpressibleError
        said["properties"] = {name: _gemini(inner, root) for name, inner in schema["properties"].items()}
        said["required"] = list(schema.get("required", ()))
    return said


_LOOSE = ("title", "default", "minLength", "maxLength", "$defs")  # what OpenAI's strict mode refuses


def strict(schema: Schema) -> dict[str, object]:
    """JSON Schema as OpenAI's strict mode wants it: every property required, no others allowed."""
    return _strict(schema, schema)


def _strict(schema: _Node, root: _Node) -> dict[str, object]:
    schema = _resolved(schema, root)
    said: dict[str, Any] = {key: value for key, value in schema.items() if key not in _LOOSE}
    if "properties" in said:
        said["properties"] = {name: _strict(inner, root) for name, inner in said["properties"].items()}
        said |= {"required": list(said["properties"]), "additionalProperties": False}
    if "items" in said:
        said["items"] = _strict(said["items"], root)
    if "anyOf" in said:
        said["anyOf"] = [_strict(option, root) for option in said["anyOf"]]
    return said


def _resolved(schema: _Node, root: _Node) -> _Node:
    while "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        schema = {**root["$defs"][name], **{key: value for key, value in schema.items() if key != "$ref"}}
    return schema
