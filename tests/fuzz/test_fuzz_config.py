"""Settings from anything: bytes for a file, YAML of every shape, values of every kind, overrides of every form."""

import random

import pytest
import yaml
from hypothesis import strategies as st

from aloe_jax.benchmark.settings import EvaluateSettings, PreferencesSettings
from aloe_jax.errors import AloeError
from aloe_jax.settings import Section, dump_settings, load_settings
from aloe_jax.training.settings import TrainSettings
from datagen.settings import DatagenSettings
from tests.fuzz.harness import fuzz, one_line
from tests.sections import sections

pytestmark = pytest.mark.soak

VALID = {
    TrainSettings: {"stage": "sft", "output": "o", "data": {"path": "d"}, "model": {"tokenizer": "t"}},
    EvaluateSettings: {"output": "o", "personas": "p", "models": {"a": {"scripted": "generic"}}},
    PreferencesSettings: {"output": "o", "data": "d", "models": {"a": "b"}},
    DatagenSettings: {"output": "o"},
}
KINDS = st.sampled_from(list(VALID))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-2, 2),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["", "1e-5", "010", "1:30", "no", "a\0b", "\ud800", "gs://", "s3://x", "x" * 5000, ".inf", "2024-13-01"]
    ),
    st.dates(),
    st.binary(max_size=4),
    st.sampled_from([10**30, -(2**63), 2**31, 1e308, 5e-324, float("nan"), float("inf"), -0.0]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SCALARS, inner, max_size=4), max_leaves=8
)


def paths(kind, prefix=()):
    """Every setting of a section by its keys, sections included."""
    for name, field in kind.model_fields.items():
        yield (*prefix, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from paths(field.annotation, (*prefix, name))


PATHS = {kind: list(paths(kind)) for kind in VALID}


def changed(kind):
    """A kind of settings with up to three of them set to anything."""
    return st.tuples(st.just(kind), st.lists(st.tuples(st.sampled_from(PATHS[kind]), VALUES), max_size=3))


def accepted(kind, path, overrides=()):
    """The settings, which must survive being written and read; None where they were refused in one line."""
    try:
        settings = load_settings(kind, path, overrides)
    except AloeError as error:
        one_line(error)
        return None
    path.with_name("again.yaml").write_text(dump_settings(settings))
    assert load_settings(kind, path.with_name("again.yaml")) == settings
    return settings


def test_bytes(tmp_path):
    path = tmp_path / "c.yaml"
    pieces = st.sampled_from(
        [b"stage: sft\n", b"output: o\n", b"- ", b": ", b"{", b"[", b"}", b"]", b"&a ", b"*a", b"<<: ", b"? ",
         b"!!int ", b"!!set ", b"!!timestamp ", b"!!binary ", b"|\n", b">-\n", b"'", b'"', b"\\0", b"\t", b"---\n",
         b"...\n", b"%YAML 1.3\n",
         b"\x00", b"\xff", b"\xef\xbb\xbf", b"seed", b"1", b"0x", b"_", b"#", b"\n", b"  ", b"=", b"~", b"@", b"`"]
    )  # fmt: skip
    inputs = st.tuples(KINDS, st.binary(max_size=60) | st.lists(pieces, max_size=60).map(b"".join))

    def check(given):
        path.write_bytes(given[1])
        accepted(given[0], path)

    assert fuzz(inputs, check)


def test_values_anywhere(tmp_path):
    path = tmp_path / "c.yaml"
    where = KINDS.flatmap(changed)

    def check(given):
        kind, changes = given
        values = yaml.safe_load(yaml.safe_dump(VALID[kind]))
        for keys, value in changes:
            inner = values
            for key in keys[:-1]:
                if not isinstance(inner.get(key), dict):
                    inner[key] = {}
                inner = inner[key]
            inner[keys[-1]] = value
        try:
            text = yaml.safe_dump(values)
        except yaml.YAMLError:
            return
        path.write_bytes(text.encode(errors="surrogatepass"))
        accepted(kind, path)

    assert fuzz(where, check)


def test_overrides(tmp_path):
    path = tmp_path / "c.yaml"
    names = sorted({".".join(keys) for each in PATHS.values() for keys in each})
    texts = (
        st.text(max_size=30)
        | VALUES.map(repr)
        | st.sampled_from(["{a: b}", "[", "*x", "&x y", "a: b: c", "{a: 1, a: 2}"])
    )
    override = st.builds("{}={}".format, st.sampled_from(names) | st.text(max_size=12), texts) | st.text(max_size=20)
    inputs = st.tuples(KINDS, st.lists(override, max_size=4))

    def check(given):
        kind, overrides = given
        path.write_text(yaml.safe_dump(VALID[kind]))
        accepted(kind, path, overrides)

    assert fuzz(inputs, check)


def test_every_section_with_values_of_every_kind():
    """Each section alone: what it accepts it gives back, and a wrong kind is refused by pydantic."""
    inputs = st.tuples(st.sampled_from(sections()), st.integers(0, 2**32), st.lists(VALUES, min_size=1, max_size=4))

    def check(given):
        section, seed, values = given
        names, draw = list(section.model_fields), random.Random(seed)
        if not names:
            return
        try:
            made = section.model_validate({draw.choice(names): value for value in values})
        except (AloeError, ValueError) as error:
            assert str(error)
            return
        assert section.model_validate(made.model_dump()) == made

    assert fuzz(inputs, check)
