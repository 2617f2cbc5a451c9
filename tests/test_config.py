"""Settings: strict, overridable, told about in one line."""

import pytest

from aloe_jax.errors import AloeError
from aloe_jax.settings import dump_settings, load_settings
from aloe_jax.training.settings import TrainSettings
from tests.sections import MINIMAL


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return path

    return write


def test_overrides_win_and_keep_their_types(write):
    settings = load_settings(
        TrainSettings, write(MINIMAL), ["optimizer.learning_rate=1e-5", "data.rows=3", "sft.replies=both", "steps=null"]
    )
    assert settings.optimizer.learning_rate == 1e-5
    assert (settings.data.rows, settings.sft.replies, settings.steps) == (3, "both", None)


def test_a_dump_loads_to_the_same_settings(write):
    settings = load_settings(TrainSettings, write(MINIMAL), ["optimizer.learning_rate=3e-6", "data.limit=7"])
    assert load_settings(TrainSettings, write(dump_settings(settings))) == settings


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optimizer.learnig_rate=1", r"unknown key optimizer.learnig_rate; did you mean optimizer.learning_rate\?"),
        ("learning_rate=1", r"unknown key learning_rate; did you mean optimizer.learning_rate\?"),
        ("data.rows=many", "data.rows: input should be a valid integer, not 'many'"),
        ("data.rows=0", "data.rows: input should be greater than 0, not 0"),
        ("data.rows=true", "data.rows: input should be a valid integer"),
        ("stage=rlhf", "stage: input should be 'sft' or 'dpo' or 'rl', not 'rlhf'"),
        ("data.path=''", "data.path: give a TFDS directory"),
        ("stage=dpo", "model.path: dpo starts from a trained model"),
        ("stage.x=1", "stage is a value, not a section"),
        ("rows", "write section.key=value"),
        ("data.rows=[", "is not a YAML value"),
        ("model.lora=16", r"model.lora: has settings of its own, such as \{name: value\}; 16 is none"),
        ("models=3", r"unknown key models; did you mean model\?"),
        ("optimizer.colour=1", "unknown key optimizer.colour$"),
        ("dpo.learnig_rate=1", r"unknown key dpo.learnig_rate; did you mean optimizer.learning_rate\?"),
    ],
)
def test_mistakes_name_file_key_and_fix(write, override, told):
    with pytest.raises(AloeError, match=told) as caught:
        load_settings(TrainSettings, write(MINIMAL), [override])
    assert "\n" not in str(caught.value)


def test_mistakes_in_the_file(write, tmp_path):
    for text, told in [
        (MINIMAL + "seed: 1\nseed: 2\n", "line 6: the key 'seed' is given twice"),
        ("stage: sft\n", "output is missing"),
        ("- a\n", "expected `key: value` lines, found list"),
        ("a: [\n", "c.yaml: while parsing"),
    ]:
        with pytest.raises(AloeError, match=told) as caught:
            load_settings(TrainSettings, write(text))
        assert "c.yaml" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(AloeError, match=r"nothing\.yaml: cannot read the config"):
        load_settings(TrainSettings, tmp_path / "nothing.yaml")


def test_settings_are_frozen(write):
    settings = load_settings(TrainSettings, write(MINIMAL))
    with pytest.raises(Exception, match="frozen"):
        settings.seed = 3


def test_only_the_override_at_fault_is_shown(write):
    with pytest.raises(AloeError) as refused:
        load_settings(TrainSettings, write(MINIMAL), ["steps=3", "data.rows=0", "seed=4"])
    assert "with data.rows=0: data.rows: " in str(refused.value) and "steps=3" not in str(refused.value)


def test_a_key_of_an_earlier_version_is_still_read(write):
    settings = load_settings(TrainSettings, write(MINIMAL + "dpo: {reference: cache}\n"))
    assert settings.dpo.reference_cache == "cache"
    with pytest.raises(AloeError, match=r"dpo: reference: is called reference_cache now, which is given too"):
        load_settings(TrainSettings, write(MINIMAL + "dpo: {reference: a, reference_cache: b}\n"))
