"""What an export leaves alone, what it keeps of its source, and what is said when it cannot be written."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from click.testing import CliRunner
from flax import nnx

from aloe_jax.data.settings import DataSettings
from aloe_jax.data.template import ChatTemplate
from aloe_jax.data.tokenizer import load_tokenizer, train_tokenizer
from aloe_jax.data.tokenizer_files import save_tokenizer
from aloe_jax.errors import AloeError
from aloe_jax.export import main
from aloe_jax.models.generation import keep
from aloe_jax.models.huggingface import save_pretrained
from aloe_jax.models.native.decoder import Decoder, DecoderSpec
from aloe_jax.models.opening import is_huggingface, load_pretrained, tokenizer_directory
from aloe_jax.models.run_directory import save_adapter, save_spec
from aloe_jax.models.settings import LoRASettings, ModelSettings
from aloe_jax.sampling.loading import load_sampler
from aloe_jax.settings import dump_settings
from aloe_jax.training.settings import TrainSettings
from tests.random_models import random_decoder

SAMPLING = {"do_sample": True, "temperature": 0.6, "top_k": 20, "transformers_version": "4.51.0"}
SOURCE = {**SAMPLING, "eos_token_id": [0, 3], "pad_token_id": 0}


def export(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def base(tmp_path):
    """A base model that ends texts with token 0, where its template ends turns with token 1."""
    tokenizer = train_tokenizer(["some words to learn from"], 280, tmp_path / "tokenizer")
    tokenizer.eos_token = "<|pad|>"
    spec = DecoderSpec(
        vocab=len(tokenizer), layers=1, width=8, query_heads=2, kv_heads=1, head_size=4, feed_forward=8, max_length=64,
        eos_ids=(0,), pad_id=0,
    )  # fmt: skip
    save_pretrained(random_decoder(spec, 0.2, seed=1), tmp_path / "base", tokenizer=tokenizer, settings=SOURCE)
    return tmp_path / "base"


def trained(directory, settings, values, keeping=True):
    """A run directory as training leaves it, with these values in its checkpoint."""
    directory.mkdir()
    spec = load_pretrained(settings.model.path).spec
    save_spec(spec, directory)
    beside = tokenizer_directory(settings.model.path)
    save_tokenizer(load_tokenizer(beside), directory / "tokenizer")
    if keeping:
        keep(beside, directory / "tokenizer")
    if settings.model.lora is not None:
        save_adapter(directory, settings.model)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory / "checkpoints/2/params", values)
    (directory / "config.yaml").write_text(dump_settings(settings))
    return directory


def train_settings(base, output, **more):
    data = DataSettings(path="none.jsonl")
    return TrainSettings(
        stage="sft", output=str(output), model=ModelSettings(path=str(base), **more), data=data, steps=2
    )


def full_run(base, name="run", keeping=True):
    directory = base.parent / name
    values = nnx.to_pure_dict(nnx.state(load_pretrained(base), nnx.Param))
    return trained(directory, train_settings(base, directory), values, keeping)


def adapter_run(base):
    directory = base.parent / "adapters"
    settings = train_settings(base, directory, lora=LoRASettings(rank=2))
    model = load_pretrained(base).adapted(settings.model.lora, seed=0)
    values = {"adapters": {name: value[...] for name, value in model.adapters.items()}}
    return trained(directory, settings, values)


def generation(directory):
    return json.loads((directory / "generation_config.json").read_text())


@pytest.mark.parametrize("kind", ["run", "run of an earlier version", "directory", "adapters", "merged"])
def test_replies_end_where_the_template_and_the_model_end_them(base, kind):
    source = {
        "run": full_run,
        "run of an earlier version": lambda base: full_run(base, keeping=False),
        "directory": lambda base: base,
        "adapters": adapter_run,
        "merged": adapter_run,
    }[kind](base)
    out = base.parent / "out"
    done = export("--checkpoint", source, "--output", out, *(["--adapter"] if kind == "adapters" else []))
    assert done.exit_code == 0, done.output
    written = generation(out)
    assert set(written["eos_token_id"]) == {0, 3, 1}
    assert {key: written[key] for key in ("do_sample", "temperature", "top_k", "pad_token_id")} == {
        "do_sample": True, "temperature": 0.6, "top_k": 20, "pad_token_id": 0,
    }  # fmt: skip
    assert "transformers_version" not in written
    assert "A reply ends with one of the tokens 0, 3, 1" in (out / "README.md").read_text()
    if kind != "adapters":
        assert set(json.loads((out / "config.json").read_text())["eos_token_id"]) == {0, 3, 1}
        sampler, template = load_sampler(out, 64)
        assert set(sampler.stop) == set(template.stop) == {0, 1, 3}
    if kind != "directory":
        assert set(load_sampler(source, 64)[1].stop) == {0, 1, 3}
        assert set(ChatTemplate(load_tokenizer(source / "tokenizer")).stop) >= {0, 1}


def test_nothing_is_exported_onto_what_a_model_was_made_from(base):
    run, root = adapter_run(base), base.parent
    (root / "link").symlink_to(base)
    os.makedirs(root / "elsewhere")
    before = sorted(str(path) for path in root.rglob("*"))
    for output, message in [
        (base, f"is the model that {run} was trained from"),
        (root / "link", f"is the model that {run} was trained from"),
        (root / "elsewhere" / ".." / "base", f"is the model that {run} was trained from"),
        (run, "is the checkpoint itself"),
        (run / "..", "holds "),
    ]:
        for more in ([], ["--adapter"]):
            done = export("--checkpoint", run, "--output", output, *more)
            assert done.exit_code == 1
            assert message in done.output or "which no export wrote" in done.output
            assert "Traceback" not in done.output
    assert sorted(str(path) for path in root.rglob("*")) == before
    load_pretrained(run)


@pytest.mark.parametrize("step_aside", ["..", "elsewhere/below"])
def test_a_chain_of_relative_paths_is_known_from_any_directory(base, monkeypatch, step_aside):
    monkeypatch.chdir(base.parent)
    Path("runs").mkdir()
    shutil.copytree(base, "runs/base")
    values = nnx.to_pure_dict(nnx.state(load_pretrained(base), nnx.Param))
    run = trained(base.parent / "runs/run", train_settings("runs/base", "runs/run"), values)
    aside = base.parent / step_aside
    aside.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(aside)
    target = base.parent / "runs/base"
    result = export("--checkpoint", run, "--output", target)
    assert result.exit_code == 1, result.output
    assert f"{target}: is the model that {run} was trained from; give another --output" in result.output


def test_of_a_chain_no_link_is_replaced(base):
    """A run on an export of a run on a base; and the directory that adapters are to go beside."""
    first = full_run(base, "first")
    middle = base.parent / "middle"
    assert export("--checkpoint", first, "--output", middle).exit_code == 0
    second = full_run(middle, "second")
    third = full_run(second, "third")
    done = export("--checkpoint", third, "--output", middle)
    assert done.exit_code == 1
    assert f"is the model that {second} was trained from" in done.output
    adapters = adapter_run(middle)
    assert export("--checkpoint", adapters, "--output", base.parent / "alone", "--adapter").exit_code == 0
    done = export(
        "--checkpoint", adapters, "--output", base.parent / "alone", "--adapter", "--base", base.parent / "alone"
    )
    assert done.exit_code == 1
    assert "is the model of --base" in done.output


def test_weights_of_somebody_else_are_not_replaced(base):
    """A downloaded model has the names that an export has, and notes beside it a name that begins like weights."""
    run = full_run(base)
    downloaded = Path(shutil.copytree(base, base.parent / "downloaded"))
    (downloaded / "digests.json").unlink()
    (downloaded / "README.md").write_text("A model of somebody else's.")
    done = export("--checkpoint", run, "--output", downloaded)
    assert "nothing in it says that aloe-jax wrote it" in done.output
    (downloaded / "README.md").write_text("Trained with aloe-jax.")  # as earlier versions wrote
    (downloaded / "model.notes-on-safetensors.txt").write_text("mine")
    done = export("--checkpoint", run, "--output", downloaded)
    assert done.exit_code == 1
    assert "holds model.notes-on-safetensors.txt, which no export wrote" in done.output
    (downloaded / "model.notes-on-safetensors.txt").unlink()
    assert export("--checkpoint", run, "--output", downloaded).exit_code == 0


def test_killed_before_it_takes_its_place_an_export_leaves_the_old_one_and_the_next_cleans_up(base):
    run, out = full_run(base), base.parent / "out"
    assert export("--checkpoint", run, "--output", out).exit_code == 0
    before = (out / "README.md").read_bytes()
    program = (
        "import os, signal, sys; from aloe_jax.storage import replacing; from aloe_jax.export import main\n"
        "replacing.exchange = lambda one, other: os.kill(os.getpid(), signal.SIGKILL)\n"
        "main()"
    )
    arguments = ["--checkpoint", str(run), "--output", str(out), "--dtype", "bfloat16"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (base.parent / ".out.aloe-new" / "model.safetensors").exists()
    assert (out / "README.md").read_bytes() == before
    load_pretrained(out)
    assert export(*arguments).exit_code == 0
    assert not [name for name in os.listdir(base.parent) if name.startswith(".out")]
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_disk_that_is_full_is_one_line(base):
    """The kernel's own limit stands for a full disk: it refuses writes beyond so many bytes."""
    run, out = full_run(base), base.parent / "out"
    program = (
        "import resource, signal, sys; from click.testing import CliRunner; from aloe_jax.export import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "for limit in (100, 9_000, 20_000):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "    done = CliRunner().invoke(main, sys.argv[1:])\n"
        "    print(done.exit_code, done.output.splitlines()[-1])"
    )
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    arguments = [sys.executable, "-c", program, "--checkpoint", str(run), "--output", str(out)]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines() == 3 * [f"1 Error: {out}: cannot be written (File too large)"]
    assert not [name for name in os.listdir(base.parent) if "out" in name]


def test_adapters_given_as_a_model_are_named_with_what_to_do(base):
    run, out = adapter_run(base), base.parent / "alone"
    assert export("--checkpoint", run, "--output", out, "--adapter").exit_code == 0
    message = f"alone: holds adapters of '{base}', not a model; give the run they were exported from"
    for door in (is_huggingface, load_pretrained, lambda path: load_sampler(path, 64)):
        with pytest.raises(AloeError, match=message):
            door(out)
    done = export("--checkpoint", out, "--output", base.parent / "more")
    assert done.exit_code == 1
    assert message in done.output


def test_the_card_knows_all_data_of_a_mixture_and_the_optimizer(base):
    run, played, real = base.parent / "run", base.parent / "played", base.parent / "real"
    for path, simulated in ((played, True), (real, False)):
        path.mkdir()
        (path / "metadata.json").write_text(json.dumps({"simulated": simulated}))
    sources = [{"path": str(real), "weight": 2}, {"path": str(played), "limit": 20}, {"path": str(base / "gone.jsonl")}]
    full_run(base)
    for name, said in [("lion", "Lion: "), ("adafactor", "Adafactor: "), ("adamw", "AdamW: ")]:
        values = {
            "stage": "sft", "output": str(run), "steps": 2, "model": {"path": str(base)},
            "data": {"mixture": sources}, "optimizer": {"name": name},
        }  # fmt: skip
        (run / "config.yaml").write_text(dump_settings(TrainSettings.model_validate(values)))
        assert export("--checkpoint", run, "--output", base.parent / name).exit_code == 0
        card = (base.parent / name / "README.md").read_text()
        assert f"- {said}learning rate" in card
        some = "> **Simulated**: the people and replies of a part of the training data were played by a script"
        assert f"{some}: {played}. Of {base / 'gone.jsonl'} it is not stated." in card
        assert (
            f"{real} (weight 2); {played} (weight 1, its first 20 records, simulated); {base / 'gone.jsonl'} (" in card
        )
        assert "gone.jsonl (weight 1, not stated whether simulated, not there when this card was written)" in card
    # What was trained on simulated people stays so, whatever is made of it.
    (run / "config.yaml").write_text(dump_settings(train_settings(base.parent / "lion", run)))
    assert export("--checkpoint", run, "--output", base.parent / "next").exit_code == 0
    again = (base.parent / "next" / "README.md").read_text()
    assert "> **Simulated**: of the base model its card says: the people and replies" in again
    assert export("--checkpoint", base.parent / "lion", "--output", base.parent / "copy").exit_code == 0
    assert "> **Simulated**: the people and replies" in (base.parent / "copy" / "README.md").read_text()


def test_weights_are_the_runs(base):
    run, out = full_run(base), base.parent / "out"
    assert export("--checkpoint", run, "--output", out).exit_code == 0
    ours, theirs = (nnx.to_pure_dict(nnx.state(load_pretrained(path), nnx.Param)) for path in (out, run))
    np.testing.assert_array_equal(ours["embedding"], theirs["embedding"])
    assert isinstance(load_pretrained(out), Decoder)
