"""A trained model as a Hugging Face directory, as adapters for peft, or as a checkpoint of MaxText's."""

from __future__ import annotations

from pathlib import Path

from aloe_jax.data.tokenizer import load_tokenizer
from aloe_jax.errors import AloeError
from aloe_jax.json_value import JSON
from aloe_jax.models import generation, huggingface
from aloe_jax.models.maxtext import checkpoints
from aloe_jax.models.native import peft
from aloe_jax.models.opening import is_huggingface, load_pretrained, load_run, open_model, tokenizer_directory
from aloe_jax.models.run_directory import load_adapter
from aloe_jax.models.settings import ModelSettings
from aloe_jax.publishing import model_card
from aloe_jax.publishing.ancestry import check_apart
from aloe_jax.publishing.model_card import Origin
from aloe_jax.storage.files import as_path, resolved
from aloe_jax.storage.replacing import check_replaceable


def export(
    checkpoint: str,
    output: str,
    step: int | None = None,
    dtype: str | None = None,
    max_shard_size: str = "5GB",
    metrics: str | None = None,
    adapter: bool = False,
    base: str | None = None,
    form: str = "huggingface",
) -> int:
    """Write the model in `checkpoint` to `output`; returns the number of parameters.

    `form`: huggingface, or maxtext for a checkpoint of MaxText's; `dtype`: of the weights, None: the run's; `metrics`:
    a benchmark's metrics.json for the model card; `adapter`: only the adapters of a run with model.lora, for the model
    `base`. Raises AloeError naming what is wrong and where.
    """
    source, target = as_path(checkpoint), as_path(output)
    huggingface.size_in_bytes(max_shard_size)
    if is_huggingface(source) and step is not None:
        raise AloeError(f"{source}: is a Hugging Face directory, which has no steps; leave --step out")
    if resolved(target) == resolved(source):
        raise AloeError(f"{target}: is the checkpoint itself; give another --output")
    kind = checkpoints.KIND if form == "maxtext" else peft.KIND if adapter else huggingface.KIND
    check_replaceable(target, kind)
    check_apart(target, source, base)
    origin = model_card.trace_origin(source, step)
    scores, played = None, list[str]()
    found = as_path(metrics) if metrics is not None else source.parent / "benchmark" / "metrics.json"
    if metrics is not None or found.exists():
        scores, played = model_card.benchmark_scores(found, source)
        if scores is None and metrics is not None:
            raise AloeError(f"{metrics}: holds no scores of {source}; give the benchmark that tested it")
    simulated = model_card.simulated(origin)
    if scores is not None and played:
        simulated.append(f"in the benchmark a script played {', '.join(played)}.")
    stored = dtype or (origin.stages[0].model.dtype if origin.stages else "float32")
    if form == "maxtext":
        return export_to_maxtext(source, target, stored, step, origin, simulated)
    if adapter:
        base = base or adapter_base(source)
        model = load_run(source, stored, step=step, merge=False)
    else:
        model = load_pretrained(source, stored) if step is None else load_run(source, stored, step=step)
    tokenizer = load_tokenizer(tokenizer_directory(source))
    settings = _generation_settings(source, origin)
    model.spec = generation.with_settings(model.spec, settings).ending(generation.template_ends(tokenizer))
    card = model_card.full_card(model.spec, origin, scores, simulated)
    if adapter:
        assert base is not None
        return peft.save_adapter_directory(model, target, base, stored, tokenizer, card, settings)
    huggingface.save_pretrained(model, target, max_shard_size, stored, tokenizer, card, settings)
    return model.spec.parameter_count()


def export_to_maxtext(
    source: Path, target: Path, dtype: str, step: int | None, origin: Origin, simulated: list[str]
) -> int:
    """Write a checkpoint of MaxText's; returns the number of parameters. Raises AloeError for another model."""
    opened = open_model(ModelSettings(backend="maxtext", path=str(source)))
    if opened.spec().backend != "maxtext":
        raise AloeError(
            f"{source}: is a run of our own decoder, not of a MaxText model; export it with --format huggingface, and "
            "that directory with --format maxtext"
        )
    model = opened.load(dtype) if step is None else load_run(source, dtype, step=step)
    tokenizer = load_tokenizer(tokenizer_directory(source))
    ids = model.spec.ending(generation.template_ends(tokenizer)).eos_ids
    model.save_checkpoint(target, dtype, tokenizer, maxtext_card(origin, simulated, ids))
    return model.spec.parameter_count()


def maxtext_card(origin: Origin, simulated: list[str], ends: tuple[int, ...]) -> str:
    """README.md beside a checkpoint of MaxText's, whose replies end with one of the tokens `ends`."""
    stages = [stage.stage.upper() for stage in reversed(origin.stages)]
    first = origin.stages[-1].model if stages else None
    base = f"{first.name} ({first.path})" if first and first.path and first.name else origin.base
    return "\n".join(
        [
            f"# {', '.join([base, *stages])}: a checkpoint for MaxText",
            "",
            *(f"> **Simulated**: {sentence}\n" for sentence in simulated),
            f"- Base model: {base}",
            f"- Licence of the base model: {origin.licence}",
            f"- {'Trained with' if stages else 'Written by'} aloe-jax",
            *([f"- A reply ends with one of the tokens {', '.join(map(str, ends))}"] if ends else []),
            "",
            *(model_card.training(origin) if stages else ()),
            "MaxText reads it with the arguments in maxtext.txt (load_parameters_path is where it was written):",
            "",
            "    python -m maxtext.trainers.pre_train.train base.yml $(cat maxtext.txt) run_name=...",
            "",
        ]
    )


def adapter_base(run: Path) -> str:
    """The Hugging Face directory that a run's adapters belong to. Raises AloeError when there is none."""
    found = None if is_huggingface(run) else load_adapter(run)
    if found is None:
        raise AloeError(f"{run}: holds no adapters of its own; --adapter is for a run with model.lora")
    if not is_huggingface(found[0]):
        raise AloeError(
            f"{run}: its adapters belong to the run {found[0]}, which peft cannot load; export that first "
            f"(python -m aloe_jax.export --checkpoint {found[0]} --output DIR) and give --base DIR"
        )
    return found[0]


def _generation_settings(path: Path, origin: Origin) -> dict[str, JSON]:
    """How the model in a directory is meant to be sampled: a run keeps those it started from beside its tokenizer.

    Runs of earlier versions kept none; then they are those of the first model in its chain, if it is still there.
    """
    for stage in origin.stages:
        if values := generation.read(path / "tokenizer"):
            return values
        if stage.model.path is None:
            return {}
        path = as_path(stage.model.path)
    return generation.read(path)
