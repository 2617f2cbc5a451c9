"""Damage of every kind to a run's files: the saved weights are loaded, exactly, or one line says what is wrong."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import strategies as st

from aloe_jax.data.loader import evaluation_batches
from aloe_jax.errors import AloeError
from aloe_jax.models.opening import load_run
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.training import start
from aloe_jax.training.checkpoint import Checkpoints
from aloe_jax.training.master import MasterCopies
from aloe_jax.training.optimizer import make_optimizer
from aloe_jax.training.reference import ReferenceCache
from aloe_jax.training.run import train
from aloe_jax.training.settings import CheckpointSettings
from aloe_jax.training.stages.stage import stage_of
from aloe_jax.training.step import new_state
from tests.fuzz.harness import fuzz, one_line
from tests.training.conftest import material, settings, starting_model  # noqa: F401

pytestmark = pytest.mark.soak

KINDS = ("flip", "byte", "cut", "zero", "empty", "longer", "delete", "swap", "twin", "directory", "link")
DAMAGE = st.tuples(
    st.sampled_from(KINDS), st.integers(0, 2**20), st.integers(0, 2**20), st.integers(0, 255)
)  # kind, which file, where in it, with what


def damage(root: Path, files: list[Path], kind: str, which: int, where: int, what: int) -> None:
    """Change one file below `root` (or two, for a swap)."""
    file = files[which % len(files)]
    content = bytearray(file.read_bytes()) if file.is_file() else bytearray()
    at = where % len(content) if content else 0
    if kind == "flip" and content:
        content[at] ^= 1 << (what % 8)
    elif kind == "byte" and content:
        content[at] = what
    elif kind == "cut":
        content = content[:at]
    elif kind == "zero":
        content[at : at + 64] = bytes(len(content[at : at + 64]))
    elif kind == "empty":
        content = bytearray()
    elif kind == "longer":
        content += bytes([what])
    elif kind in ("swap", "twin"):
        # With the file of the same name in another step, or with any other file.
        same = [other for other in files if other != file and other.name == file.name]
        other = (same or files)[where % len(same or files)]
        theirs = other.read_bytes()
        if kind == "swap":
            other.write_bytes(content)
        content = bytearray(theirs)
    file.unlink()
    if kind == "delete":
        return
    if kind == "directory":
        file.mkdir()
    elif kind == "link":
        file.symlink_to(root / "nothing")
    else:
        file.write_bytes(content)


def files_of(root: Path) -> list[Path]:
    left_out = ("tensorboard", "train.log", "train.lock", "metrics.jsonl", "finished.json", "config.yaml", "base.json")
    return sorted(
        file for file in root.rglob("*") if file.is_file() and file.relative_to(root).parts[0] not in left_out
    )


def weights(path):
    return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(load_run(path), nnx.Param)))


def equal(left, right):
    return jax.tree.all(jax.tree.map(np.array_equal, left, right))


@pytest.fixture
def sound(settings, starting_model, request):  # noqa: F811
    """A finished run of two checkpoints; with request.param of adapters."""
    model = {"path": starting_model, "tokenizer": None, "lora": {"rank": 2}} if request.param else {}
    made = settings("sft", model=model, steps=4)
    train(made)
    return made


@pytest.mark.parametrize("sound", [False, True], indirect=True, ids=["all", "adapters"])
def test_loading(sound, tmp_path):
    root, copy = Path(sound.output), tmp_path / "copy"
    expected = weights(root)

    def check(given):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(root, copy)
        damage(copy, files_of(copy), *given)
        try:
            found = weights(copy)
        except AloeError as error:
            one_line(error)
            return
        assert equal(found, expected)

    assert fuzz(DAMAGE, check)


@pytest.mark.parametrize("sound", [False], indirect=True)
def test_going_on(sound, tmp_path):
    """What a resumed run reads: every item of its newest checkpoint, and the scores of all."""
    root, copy = Path(sound.output), tmp_path / "copy"
    mesh = make_mesh(sound.mesh)
    tokenizer, template = start.load_template(sound.model)
    spec = start.resolve_spec(sound, tokenizer, template)
    found = start.gather_material(sound, stage_of(sound), template)
    _, params, _ = start.build_model(sound, spec, mesh)
    optimizer = MasterCopies(make_optimizer(sound.optimizer, 4))
    like = new_state(params, optimizer, mesh)
    shapes = start.trained_shapes(sound, spec)
    loader = start.make_loader(sound, found)
    assert evaluation_batches(found.validation.rows, 8)

    def read(directory):
        with Checkpoints(directory, CheckpointSettings(), shapes) as checkpoints:
            newest = checkpoints.latest()
            return newest, loader.resume(checkpoints.position(newest)), checkpoints.restore(newest, like)

    first = read(root)

    def check(given):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(root, copy)
        damage(copy, files_of(copy / "checkpoints"), *given)
        try:
            again = read(copy)
        except AloeError as error:
            one_line(error)
            return
        assert again[:2] == first[:2] and equal(again[2], first[2])

    assert fuzz(DAMAGE, check)


def test_reference_cache(tmp_path):
    root, copy = tmp_path / "sound", tmp_path / "copy"
    cache = ReferenceCache(root, "f")
    for part in range(3):
        cache.add({f"reply-{part}-{i}": float(np.float32(-i - part / 7)) for i in range(20)})
    expected = ReferenceCache(root, "f").logps

    def check(given):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(root, copy)
        damage(copy, files_of(copy), *given)
        try:
            found = ReferenceCache(copy, "f").logps
        except AloeError as error:
            one_line(error)
            return
        # Of a part that is gone or replaced by another, whole one, less is known; nothing is known wrongly.
        assert found.items() <= expected.items()

    assert fuzz(DAMAGE, check)
