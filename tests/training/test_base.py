"""Another model under a run that goes on is refused; the same one at another time or place is the same."""

import json
import os
import shutil
from pathlib import Path

import jax
import pytest

from aloe_jax.errors import AloeError
from aloe_jax.models import fingerprint as fingerprints
from aloe_jax.models.fingerprint import fingerprint, fingerprint_by_times
from aloe_jax.models.opening import load_pretrained
from aloe_jax.publishing.export import export
from aloe_jax.sampling.loading import keep_compiled
from aloe_jax.storage.copies import cache_directory
from aloe_jax.training.run import train
from tests.training.conftest import trained


def stopped(made):
    """Train, then take away the last checkpoint, so that the run goes on."""
    train(made)
    shutil.rmtree(Path(made.output, "checkpoints", "4"))
    Path(made.output, "finished.json").unlink()


@pytest.mark.parametrize(
    ("stage", "lora", "form"),
    [
        ("dpo", None, "run"),
        ("sft", {"rank": 2}, "run"),
        ("sft", None, "huggingface"),
        ("dpo", {"rank": 2}, "huggingface"),
    ],
)
def test_another_base_on_resume(settings, material, starting_model, tmp_path, stage, lora, form):
    base, other = str(tmp_path / "base"), trained(settings(output="other", steps=2, seed=1), material)
    if form == "run":
        shutil.copytree(starting_model, base)
        shutil.copytree(other.output, tmp_path / "another")
    else:
        export(starting_model, base)
        export(other.output, str(tmp_path / "another"))
    made = settings(stage, model={"path": base, "tokenizer": None, "lora": lora}, steps=4)
    stopped(made)
    recorded = Path(made.output, "base.json").read_text()

    shutil.rmtree(base)
    shutil.copytree(tmp_path / "another", base)
    with pytest.raises(
        AloeError, match=r"model\.path: .*base is not what this run began with: the digest .* was "
    ) as e:
        train(made)
    assert fingerprint(base) in str(e.value) and json.loads(recorded)["model.path"]["fingerprint"] in str(e.value)
    assert Path(made.output, "base.json").read_text() == recorded
    if lora is not None:
        with pytest.raises(AloeError, match="has changed since the adapters were trained on it"):
            load_pretrained(made.output)

    shutil.rmtree(base)  # the same model as a copy, and at another time
    if form == "run":
        shutil.copytree(starting_model, base)
    else:
        export(starting_model, base)
    for file in Path(base).rglob("*"):
        os.utime(file, (1e9, 1e9))
    train(made)
    load_pretrained(made.output)


def test_another_tokenizer_on_resume(settings, material, tmp_path):
    shutil.copytree(material["tokenizer"], tmp_path / "tokenizer")
    made = settings(model={"tokenizer": str(tmp_path / "tokenizer")}, steps=4)
    stopped(made)
    file = tmp_path / "tokenizer" / "tokenizer_config.json"
    file.write_text(file.read_text() + " ")
    with pytest.raises(AloeError, match=r"model\.tokenizer: .*tokenizer is not what this run began with"):
        train(made)


def test_a_run_of_an_earlier_version_goes_on_with_a_note(settings, starting_model, capsys):
    model = {"path": starting_model, "tokenizer": None, "lora": {"rank": 2}}
    made = settings("sft", model=model, steps=4)
    stopped(made)
    for name in ("base.json", "digests.json"):
        Path(made.output, name).unlink()
    adapter = Path(made.output, "adapter.json")
    values = json.loads(adapter.read_text())
    adapter.write_text(json.dumps(values | {"base_fingerprint": fingerprint_by_times(starting_model)}))
    capsys.readouterr()
    load_pretrained(made.output)
    assert "cannot be verified" not in capsys.readouterr().err
    next(Path(starting_model).glob("checkpoints/2/params/_METADATA")).touch()
    load_pretrained(made.output)
    assert "an earlier version recorded names, sizes and times" in capsys.readouterr().err
    train(made)
    assert "an earlier version began this run and recorded nothing of model.path" in capsys.readouterr().err
    assert json.loads(adapter.read_text())["base_fingerprint"] == fingerprint(starting_model)


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A directory with a large file, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "model"
    root.mkdir()
    (root / "config.json").write_text("{}")
    (root / "model.safetensors").write_bytes(bytes(3 << 20))
    (root / "README.md").write_text("a card")
    return root


def test_large_files_are_read_once(model, monkeypatch):
    reads = []
    real = fingerprints.digest_file
    monkeypatch.setattr(fingerprints, "digest_file", lambda file: reads.append(file.name) or real(file))
    monkeypatch.setattr(fingerprints, "SETTLED", -1.0)
    first = fingerprint(model)
    assert len(first) > fingerprints.BY_TIMES and fingerprint(model) == first
    assert reads.count("model.safetensors") == 1
    (model / "README.md").write_text("another card")  # nothing is loaded from it
    os.utime(model / "model.safetensors", (1e9, 1e9))
    assert fingerprint(model) == first and reads.count("model.safetensors") == 2

    weights, stat = model / "model.safetensors", (model / "model.safetensors").stat()
    content = bytearray(weights.read_bytes())
    content[5] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as if it had never been written
    assert fingerprint(model) != first
    content[5] ^= 1
    weights.write_bytes(content)
    assert fingerprint(model) == first


def test_a_cache_that_is_damaged_or_cannot_be_written_only_costs_time(model, tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "SETTLED", -1.0)
    first = fingerprint(model)
    (note,) = (tmp_path / "cache" / "aloe-jax" / "digests").iterdir()
    forged = json.dumps(json.loads(note.read_text()) | {"sha256": "x"}).encode()
    for content in (b"", b"{", b"[]", b'{"state": {}}', b"\xff", forged):
        note.write_bytes(content)
        assert fingerprint(model) == first
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("a file")
    assert fingerprint(model) == first


def test_a_user_without_a_home_directory_has_the_digests_computed(model, monkeypatch):
    first = fingerprint(model)

    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", none)
    assert fingerprint(model) == first
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        keep_compiled()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    with pytest.raises(AloeError, match="set HOME, or XDG_CACHE_HOME"):
        cache_directory()
