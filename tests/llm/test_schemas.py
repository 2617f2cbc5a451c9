"""Forms of answers in the dialects of the servers."""

from typing import Literal

import pytest
from pydantic import BaseModel, Field

from aloe_jax import roles
from aloe_jax.llm import schemas


class Person(BaseModel):
    """Somebody."""

    name: str = Field(min_length=1)
    kind: Literal["cat"] = "cat"
    nick: str | None = None


class Nested(BaseModel):
    people: list[Person] = Field(min_length=2, max_length=3)
    first: Person
    score: float = Field(default=1.0, ge=0)


PERSON = {
    "type": "OBJECT",
    "description": "Somebody.",
    "properties": {
        "name": {"type": "STRING"},
        "kind": {"type": "STRING", "format": "enum", "enum": ["cat"]},
        "nick": {"type": "STRING", "nullable": True},
    },
    "required": ["name"],
}


def test_gemini_resolves_references_and_leaves_out_what_it_cannot_say():
    assert schemas.gemini(Nested.model_json_schema()) == {
        "type": "OBJECT",
        "properties": {
            "people": {"type": "ARRAY", "items": PERSON, "min_items": 2, "max_items": 3},
            "first": PERSON,
            "score": {"type": "NUMBER"},
        },
        "required": ["people", "first"],
    }


class Choice(BaseModel):
    value: int | str


class Numbers(BaseModel):
    value: Literal[1, 2]


class Free(BaseModel):
    value: dict[str, int]


class Anything(BaseModel):
    value: list


@pytest.mark.parametrize("form", [Choice, Numbers, Free, Anything])
def test_gemini_sends_no_schema_where_it_cannot_express_the_form(form):
    assert schemas.gemini(form.model_json_schema()) is None


def test_strict_requires_every_property_and_allows_no_other():
    form = schemas.strict(Nested.model_json_schema())
    person = form["properties"]["first"]
    assert person == form["properties"]["people"]["items"]
    assert person["required"] == ["name", "kind", "nick"]
    assert person["additionalProperties"] is False
    assert person["properties"]["name"] == {"type": "string"}
    assert person["properties"]["nick"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert form["properties"]["score"] == {"type": "number", "minimum": 0}
    assert "$defs" not in form


@pytest.mark.parametrize(
    "form", [roles.Texts, roles.UserMessage, roles.WrittenReply, roles.Inferred, roles.PreferredReply, roles.Rating]
)
def test_the_forms_of_all_roles_can_be_said_in_every_dialect(form):
    schema = form.model_json_schema()
    said = schemas.gemini(schema)
    assert said is not None
    # The order is kept: a reason before a judgement is a reason for it.
    assert list(said["properties"]) == list(schemas.strict(schema)["properties"]) == list(form.model_fields)
