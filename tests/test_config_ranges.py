"""Every number of every section has its range, and every text is one that a file system or a log can hold."""

import math
import os
import types
import typing

import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic import TypeAdapter, ValidationError

from aloe_jax.benchmark.settings import EvaluateSettings, PreferencesSettings
from aloe_jax.errors import AloeError
from aloe_jax.settings import Section, load_settings
from aloe_jax.training.settings import TrainSettings
from datagen.settings import DatagenSettings
from tests.sections import MINIMAL, sections

SECTIONS = sections()
EVALUATE = "output: o\npersonas: p\nmodels: {a: {scripted: generic}}\n"
PREFERENCES = "output: o\ndata: d\nmodels: {a: b}\n"


def leaves(annotation, metadata=()):
    """(type, its limits) of every value that a field may hold: of a union each part, of a container what is in it."""
    origin = typing.get_origin(annotation)
    if isinstance(annotation, typing.TypeAliasType):
        yield from leaves(annotation.__value__, metadata)
    elif origin is typing.Annotated:
        inner, *more = typing.get_args(annotation)
        found = [part for each in more for part in getattr(each, "metadata", [each])]
        yield from leaves(inner, (*metadata, *found))
    elif origin in (typing.Union, types.UnionType, tuple, list, dict):
        for part in typing.get_args(annotation):
            yield from leaves(part, metadata if origin in (typing.Union, types.UnionType) else ())
    elif annotation not in (type(None), Ellipsis):
        yield annotation, metadata


def numbers():
    for section in SECTIONS:
        hints = typing.get_type_hints(section, include_extras=True)
        for name, field in section.model_fields.items():
            for kind, limits in leaves(hints[name], tuple(field.metadata)):
                if kind in (int, float):
                    yield pytest.param(kind, limits, id=f"{section.__name__}.{name}")


NUMBERS = list(numbers())


def test_the_walk_finds_the_numbers():
    found = {param.id for param in NUMBERS}
    named = {"TrainSettings.seed", "DPOSettings.turn_weights", "OptimizerSettings.b1", "SamplingSettings.top_p"}
    assert named | {"ArchitectureSettings.rope_theta"} <= found
    assert len(found) > 60


@pytest.mark.parametrize(("kind", "limits"), NUMBERS)
def test_every_number_has_two_ends_and_is_a_number(kind, limits):
    low = [limit.ge if isinstance(limit, Ge) else limit.gt for limit in limits if isinstance(limit, Ge | Gt)]
    high = [limit.le if isinstance(limit, Le) else limit.lt for limit in limits if isinstance(limit, Le | Lt)]
    assert low and high and min(high) < 1e13, "give it a lower and an upper end"
    field = TypeAdapter(typing.Annotated[(kind, *limits)], config=Section.model_config | {"frozen": False})
    for ends in ({min(high)} if any(isinstance(limit, Le) for limit in limits) else set(),):
        for end in ends:
            assert field.validate_python(kind(end)) == end
    far = [10**400, -(10**400), max(high) + 1, min(low) - 1]
    for wrong in (math.nan, math.inf, -math.inf, True, False, "1", None, *far, *map(float, far[2:])):
        with pytest.raises(ValidationError):
            field.validate_python(wrong)


def refused(tmp_path, text, overrides=(), kind=TrainSettings):
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(AloeError) as caught:
        load_settings(kind, path, overrides)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000 and ("c.yaml" in message or "override" in message), message
    return message


@pytest.mark.parametrize(
    ("kind", "text", "override", "message"),
    [
        (TrainSettings, MINIMAL, "seed=-1", "seed: input should be greater than or equal to 0, not -1"),
        (EvaluateSettings, EVALUATE, "seed=-1", "seed: input should be greater than or equal to 0"),
        (PreferencesSettings, PREFERENCES, "seed=-1", "seed: input should be greater than or equal to 0"),
        (DatagenSettings, "output: o\n", "seed=2147483648", "seed: input should be less than or equal to 2147483647"),
        (TrainSettings, MINIMAL, "optimizer.learning_rate=.inf", "optimizer.learning_rate: input should be a finite"),
        (TrainSettings, MINIMAL, "optimizer.learning_rate=.nan", "optimizer.learning_rate: input should be a finite"),
        (TrainSettings, MINIMAL, "optimizer.b1=1", "optimizer.b1: input should be less than 1"),
        (TrainSettings, MINIMAL, "optimizer.eps=0", "optimizer.eps: input should be greater than"),
        (TrainSettings, MINIMAL, "model.architecture.rope_theta=0", "rope_theta: input should be greater than"),
        (TrainSettings, MINIMAL, "data.row_length=1073741824", "data.row_length: input should be less than or equal"),
        (TrainSettings, MINIMAL, "mesh.data=-2", "mesh.data: input should be greater than or equal to -1"),
        (TrainSettings, MINIMAL, "mesh={data: -1, fsdp: -1}", "mesh: data, fsdp and tensor must be positive, at most"),
        (TrainSettings, MINIMAL, "dpo.turn_weights=[.inf]", "dpo.turn_weights.0: input should be a finite number"),
        (TrainSettings, MINIMAL, "data={path: d, rows: 65536, row_length: 1048576}", "data.rows: 65,536 rows of"),
        (TrainSettings, MINIMAL, "data.accumulate=9", r"data.accumulate: 8 rows \(data.rows\) cannot be computed in 9"),
        (EvaluateSettings, EVALUATE, "sampling.temperature=1e-300", "is too close to 0 to divide by"),
        (EvaluateSettings, EVALUATE, "sampling.max_length=512", "max_new_tokens: 512 leave no room"),
        (EvaluateSettings, EVALUATE, "cases=100000", "bootstrap: 2,000 times 100,000 cases are no|permutations: "),
        (
            DatagenSettings,
            "output: o\n",
            "conversations={branch: both, branch_depth: 4, turns: 3}",
            "branch_depth: 4 is",
        ),
    ],
)
def test_numbers_out_of_range_and_out_of_fit(tmp_path, kind, text, override, message):
    import re

    assert re.search(message, refused(tmp_path, text, [override], kind))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ('output="a\\0b"', "output: 'a\\x00b' has the character U+0000 in it"),
        ('data.path="a\\0b"', "data.path: 'a\\x00b' has the character U+0000"),
        ('output="a\\nb"', "output: 'a\\nb' has the character U+000A"),
        ('output="\\ud800"', "has the character U+D800"),
        ('output=""', "output: is empty; give a path"),
        ('output=" "', "output: is empty; give a path"),
        ("model.tokenizer=''", "model.tokenizer: is empty"),
        ("output=" + "x" * 300, "is too long for a path"),
        ("output=" + "x/" * 3000, "is too long for a path"),
        ("model={backend: maxtext, name: a, tokenizer: t, overrides: {x: .nan}}", "model.overrides: nan is not"),
        ('model={backend: maxtext, name: a, tokenizer: t, overrides: {x: ["\\0"]}}', "has the character U+0000"),
    ],
)
def test_text_that_no_file_can_be_called(tmp_path, override, message):
    assert message in refused(tmp_path, MINIMAL, [override])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('optimizer: {learning_rate: "1e-5"}', "not '1e-5'; write the number without quotes"),
        ("seed: 010", "line 5: 010 begins with 0, which YAML reads as an octal number"),
        ("seed: 1:30", "line 5: 1:30 is a number to the base 60 in YAML; put it in quotes"),
        ("wandb: no", "wandb: input should be a valid string, not False; YAML reads that as something other than text"),
        ("wandb: 2024-01-01", "put it in quotes"),
        ("wandb: 2024-13-45", "month must be in 1..12"),
        ("model: {tokenizer: t, architecture: {tie_embeddings: 1}}", "write true or false"),
        ("a: &a [x]\nb: &b [*a,*a]\nc: [*b", "while parsing"),
        ("? [1, 2]\n: 3", "line 5: a key must be a name, not list"),
        ("seed: !!python/object:os.system x", "could not determine a constructor"),
        ("seed: !!int x", "invalid literal"),
        ("seed: !!int ''", "string index out of range"),
        ("seed: " + "9" * 5000, "integer string conversion"),
        ("seed: 0x" + "f" * 5000, "not a number of 20000 bits"),
        ("seed: " + "[" * 100_000, "deep"),
        ("seed: " + "[" * 60 + "]" * 60, "is nested more than 40 deep"),
        ("seed: &a [*a]", "is nested more than 40 deep, or an alias in it repeats itself"),
        ("x: " + "y" * 300_000, "more than the 262,144 of any config"),
        ("seed: \x07", "special characters are not allowed"),
    ],
)
def test_what_yaml_would_make_of_it(tmp_path, line, message):
    text = MINIMAL.replace("model: {tokenizer: t}\n", "") if line.startswith("model") else MINIMAL
    assert message in refused(tmp_path, text + line + "\n")


def test_aliases_that_multiply(tmp_path):
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    assert "more than 50,000 values, counting what its aliases repeat" in refused(tmp_path, bomb)
    path = tmp_path / "c.yaml"
    path.write_text(MINIMAL.replace("data: {path: d.jsonl}", "data: {path: &p d.jsonl}") + "wandb: *p\n")
    assert load_settings(TrainSettings, path).wandb == "d.jsonl"


def test_a_file_that_is_no_text(tmp_path):
    assert "is not UTF-8 text (byte 0)" in refused(tmp_path, b"\xff\xfe" + MINIMAL.encode("utf-16-le"))
    with pytest.raises(AloeError, match="cannot read the config"):
        load_settings(TrainSettings, tmp_path)
    with pytest.raises(AloeError, match="cannot read the config"):
        load_settings(TrainSettings, "a\0b")


def test_of_a_file_of_any_size_no_more_is_read_than_a_config_has(tmp_path):
    huge = tmp_path / "weights"
    huge.touch()
    os.truncate(huge, 1 << 40)
    with pytest.raises(AloeError, match="more than the 262,144 of any config"):
        load_settings(TrainSettings, huge)


@pytest.mark.parametrize("path", ["~", "~/runs/a"])
def test_a_home_directory_that_no_shell_has_replaced(tmp_path, path):
    for line in (f'output: "{path}"\n', f'output: o\nmodel: {{path: "{path}", tokenizer: t}}\n'):
        text = "".join(each + "\n" for each in MINIMAL.splitlines() if each.split(":")[0] not in line)
        assert "begins with ~, which only a shell replaces" in refused(tmp_path, text + line)


def test_an_empty_section_takes_overrides(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(MINIMAL + "optimizer:\n")
    assert load_settings(TrainSettings, path, ["optimizer.b1=0.5"]).optimizer.b1 == 0.5


def test_numbers_in_every_form(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(MINIMAL)
    for form in ("1e-5", "1E-5", "+1e-5", ".1e-4", "0.00001", "1.e-5", "10_0e-7"):
        assert load_settings(TrainSettings, path, [f"optimizer.learning_rate={form}"]).optimizer.learning_rate == 1e-5
    assert load_settings(TrainSettings, path, ["seed=1_000"]).seed == 1000
