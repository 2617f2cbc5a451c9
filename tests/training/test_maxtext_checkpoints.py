"""MaxText's own checkpoints: what it writes is read, and what is written it reads, bit for bit."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from click.testing import CliRunner
from flax import nnx

from aloe_jax.data.packing import without_branches
from aloe_jax.errors import AloeError
from aloe_jax.export import main as export
from aloe_jax.models.maxtext import checkpoints, internals
from aloe_jax.models.maxtext.decoder import MaxTextSpec
from aloe_jax.models.maxtext.isolation import silent, unchanged
from aloe_jax.models.opening import load_pretrained
from aloe_jax.models.spec import named_parameters
from aloe_jax.models.weights import nested
from aloe_jax.parallel.mesh import make_mesh
from aloe_jax.parallel.settings import MeshSettings
from aloe_jax.training.run import train
from aloe_jax.training.stages.stage import stage_of
from aloe_jax.training.start import gather_material, load_template
from tests.training.test_maxtext import LATENT, TINY, drawn, run_command

SMALL = {**TINY, "base_num_decoder_layers": 2}
KINDS = {
    "stacked": ("qwen3-30b-a3b", SMALL),
    "apart": ("qwen3-30b-a3b", {**SMALL, "scan_layers": False}),
    "router": ("deepseek3-671b", {**SMALL, **LATENT}),  # whose bias is no nnx.Param
}


def theirs():
    """MaxText's checkpoint functions, its layout of a training state, and its settings."""
    internals.parts()
    with unchanged():
        from maxtext.common import checkpointing, train_state_nnx
        from maxtext.configs import pyconfig
    return checkpointing, train_state_nnx, pyconfig


def module(model):
    """MaxText's own module with the weights of one of ours."""
    made = model.spec.skeleton()
    return internals._merged(made, named_parameters(model))


def write(model, directory, dtype="float32", full=True):
    """A checkpoint as MaxText's training, or its conversion to parameters only, writes it; returns STEP/items."""
    checkpointing, states, _ = theirs()
    with silent():
        held = module(model.spec.assemble(nested({k: v.astype(dtype) for k, v in named_parameters(model).items()})))
        if full:
            state = nnx.state(
                states.TrainStateNNX(held, nnx.Optimizer(held, optax.sgd(1e-3, momentum=0.9), wrt=nnx.Param))
            )
            manager = checkpointing.create_orbax_checkpoint_manager(str(directory), True, False, 1)
            resolved = internals.resolve(model.spec.name, model.spec.computed())
            checkpointing.save_checkpoint(manager, 7, state, config=resolved, force=True)
            checkpointing.wait_until_finished(manager)
        else:
            tree = states.to_checkpoint_dict(nnx.state({"model": held}))["params"]
            checkpointing.save_params_to_path(str(directory / "7"), tree)
    return directory / "7" / "items"


def read(spec, path, dtype):
    """What MaxText's own loader makes of a checkpoint, by dotted name."""
    checkpointing, *_ = theirs()
    wanted = nnx.state(module(spec.assemble(nested({k: jnp.zeros(w.shape, dtype) for k, w in spec.weights().items()}))))
    wanted = nnx.filter_state(wanted, lambda _, each: isinstance(each, nnx.Param) or "Bias" in type(each).__name__)
    with silent():
        found = checkpointing.load_params_from_path(str(path), wanted, 8)
    return {".".join(map(str, keys)): value[...] for keys, value in nnx.to_flat_state(found)}


@pytest.mark.parametrize("kind", ["stacked", pytest.param("apart", marks=pytest.mark.soak), "router"])
def test_there_and_back(kind, tmp_path):
    name, overrides = KINDS[kind]
    model = drawn(MaxTextSpec(name, overrides, 256))
    path = write(model, tmp_path / "theirs")
    mesh = make_mesh(MeshSettings(data=2, fsdp=2, tensor=2))
    ours = model.spec.load_checkpoint(path, mesh=mesh)
    for key, value in named_parameters(model).items():
        np.testing.assert_array_equal(named_parameters(ours)[key], value, key)
    shares = [value.addressable_shards[0].data.size / value.size for value in named_parameters(ours).values()]
    assert min(shares) <= 1 / 4  # over fsdp and tensor
    if kind == "stacked":
        tokens, config = np.arange(4, 24)[None], internals.resolve(name, model.spec.computed())
        with silent(), internals.parts().axis_rules(config.logical_axis_rules):
            logits = nnx.jit(lambda it: it(tokens, np.arange(20)[None], enable_dropout=False))(module(model))
        alone = model.spec.load_checkpoint(path.parent)
        np.testing.assert_allclose(nnx.jit(lambda it: it(tokens))(alone), logits, atol=1e-5)

    ours.save_checkpoint(tmp_path / "ours", "float32")
    again = read(model.spec, tmp_path / "ours/0/items", "float32")
    assert again.keys() == named_parameters(model).keys()
    for key, value in named_parameters(model).items():
        np.testing.assert_array_equal(again[key], value, key)


def test_parameters_only_and_in_bfloat16(tmp_path):
    model = drawn(MaxTextSpec(*KINDS["stacked"], 256))
    path = write(model, tmp_path / "theirs", "bfloat16", full=False)
    assert checkpoints.items(path) == checkpoints.items(path.parent) == path
    assert checkpoints.items(tmp_path) is None
    ours = model.spec.load_checkpoint(path, "float32")
    for key, value in named_parameters(model).items():
        np.testing.assert_array_equal(named_parameters(ours)[key], value.astype("bfloat16").astype("float32"), key)
    ours.save_checkpoint(tmp_path / "ours", "bfloat16")
    stored, again = (read(model.spec, place, "bfloat16") for place in (path, tmp_path / "ours/0/items"))
    for key, value in stored.items():
        np.testing.assert_array_equal(np.asarray(again[key]).view(np.uint16), np.asarray(value).view(np.uint16), key)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    (name, overrides), plain = KINDS["stacked"], tmp_path / "plain"
    path = write(drawn(MaxTextSpec(name, overrides, 256)), tmp_path / "theirs", full=False)
    for change, message in [
        (
            {"scan_layers": False},
            r"decoder\.layers\.\S+ is \[.*\] there, unknown in .* set model.overrides.scan_layers to true",
        ),
        (
            {"base_mlp_dim": 48, "base_moe_mlp_dim": 40},
            r"wi_0 is \[4, 2, 32, 24\] there, \[4, 2, 32, 40\] in .*base_emb_dim",
        ),
        ({"logits_via_embedding": True}, r"decoder.logits_dense.kernel is \[32, 96\] there, unknown in"),
    ]:
        with pytest.raises(AloeError, match=message):
            MaxTextSpec(name, {**overrides, **change}, 256).load_checkpoint(path)
    plain.mkdir()
    with pytest.raises(AloeError, match="no checkpoint of MaxText's"):
        MaxTextSpec(name, overrides, 256).load_checkpoint(plain)
    (plain / "notes").write_text("mine")
    with pytest.raises(AloeError, match="holds notes, which no export wrote"):
        drawn(MaxTextSpec(name, overrides, 256)).save_checkpoint(plain, "float32")


def test_what_maxtext_itself_computes_otherwise_is_refused():
    stretched = {"rope_factor": 32.0, "original_max_position_embeddings": 8192}
    for name, settings, message in [
        ("llama3.1-8b", stretched, "stretched otherwise than"),
        ("default", stretched | {"rope_type": "llama3.1"}, "stretched otherwise than"),
        ("olmo3-7b", {}, "in full attention alone"),
    ]:
        with pytest.raises(AloeError, match=message):
            checkpoints.check_alike(MaxTextSpec(name, settings, 256))
    checkpoints.check_alike(MaxTextSpec("llama3.1-8b", {}, 256))
    checkpoints.check_alike(MaxTextSpec("llama3.1-8b", stretched | {"rope_use_scale": False}, 256))
    checkpoints.check_alike(MaxTextSpec("olmo3-7b", {"rope_type": "default"}, 256))


def test_their_training_goes_on_here_and_the_result_goes_back(settings, tmp_path):
    """On rows of paths, which the command packs."""
    sizes = {
        "base_emb_dim": 16, "base_mlp_dim": 16, "base_num_decoder_layers": 2, "base_num_query_heads": 2,
        "base_num_kv_heads": 2, "head_dim": 8, "vocab_size": 304,
    }  # fmt: skip
    name = "llama3.1-8b"
    model = drawn(MaxTextSpec(name, sizes, 256))
    path = write(model, tmp_path / "theirs")
    given = {"backend": "maxtext", "name": name, "overrides": sizes, "path": str(path)}
    short = {"steps": 2, "evaluate_every": 2, "checkpoints": {"every": 2}}
    for number, (change, message) in enumerate(
        [
            ({"name": None}, "does not say of which of MaxText's models it is"),
            ({"tokenizer": None}, "is a checkpoint of MaxText's, which holds none"),
            ({"backend": "native", "name": None, "overrides": {}}, "model.backend: .* is a checkpoint of MaxText's"),
            ({"overrides": sizes | {"base_mlp_dim": 24}}, r"wi_0.kernel is \[16, 2, 16\] there, \[16, 2, 24\] in"),
        ]
    ):
        with pytest.raises(AloeError, match=message):
            train(settings(output=f"no-{number}", model=given | change, **short))
    sft = settings(output="sft", model=given, data={"packing": "paths"}, **short)
    _, template = load_template(sft.model)
    assert without_branches(gather_material(sft, stage_of(sft), template).train.rows)
    run_command(sft, tmp_path / "sft.yaml")
    trained = named_parameters(load_pretrained(sft.output))
    assert not np.array_equal(trained["token_embedder.embedding"], named_parameters(model)["token_embedder.embedding"])

    done = CliRunner().invoke(
        export, ["--checkpoint", sft.output, "--output", f"{tmp_path}/out", "--format", "maxtext"]
    )
    assert done.exit_code == 0, done.output
    again = read(model.spec, tmp_path / "out/0/items", "float32")
    for key, value in trained.items():
        np.testing.assert_array_equal(again[key], value, key)
    assert f"# {name} ({path}), SFT: a checkpoint for MaxText" in (tmp_path / "out/README.md").read_text()
    assert (tmp_path / "out/tokenizer/tokenizer.json").exists()
    _, _, pyconfig = theirs()
    lines = (tmp_path / "out/maxtext.txt").read_text().split()
    with silent(), unchanged():
        read_by_them = pyconfig.initialize_pydantic(["", str(internals.parts().configs / "base.yml"), *lines])
    assert (read_by_them.emb_dim, read_by_them.num_query_heads, read_by_them.mlp_dim) == (16, 2, 16)
    assert read_by_them.load_parameters_path == f"{tmp_path}/out/0/items"
