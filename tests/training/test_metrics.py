"""What is recorded of a run, what is reported to Weights & Biases (a stand-in for it), and how speed is counted."""

import json
import sys
import textwrap
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from aloe_jax.data.packing import pack
from aloe_jax.data.trees import Node, Pair, TokenTree
from aloe_jax.errors import AloeError
from aloe_jax.models.native.decoder import DecoderSpec
from aloe_jax.models.settings import LoRASettings
from aloe_jax.parallel.chips import peak_flops
from aloe_jax.training.metrics import MetricsLog
from aloe_jax.training.throughput import Throughput
from aloe_jax.training.tracking import check_wandb
from aloe_jax.training.work import Work


def records(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def scalars(directory):
    """(name, step, value) of all TensorBoard events in the order in which they were written."""
    found = []
    for path in sorted((directory / "tensorboard").glob("events.*")):
        data = path.read_bytes()
        while data:  # length, checksum, event, checksum
            size = int.from_bytes(data[:8], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + size])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            data = data[16 + size :]
    return found


def test_records_and_charts(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        log.write(1, "train", {"loss": 0.5, "margin/turn_01": 0.25})
        log.write_speed(1, {"tokens_per_second": 100.0})
        log.write(1, "validation", {"loss": 0.75})
    assert records(tmp_path) == [
        {"step": 1, "kind": "train", "loss": 0.5, "margin/turn_01": 0.25},
        {"step": 1, "kind": "validation", "loss": 0.75},
    ]
    assert scalars(tmp_path) == [
        ("train/loss", 1, 0.5),
        ("train/margin/turn_01", 1, 0.25),
        ("speed/tokens_per_second", 1, 100.0),
        ("validation/loss", 1, 0.75),
    ]


def test_a_resumed_run_drops_what_it_does_again(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        for step in range(1, 6):
            log.write(step, "train", {"loss": float(step)})
    (tmp_path / "metrics.jsonl").open("a").write('{"step": 6, "ki')  # killed in the middle of a line
    with MetricsLog(tmp_path, 3) as log:
        log.write(4, "train", {"loss": -4.0})
    assert [record["loss"] for record in records(tmp_path)] == [1, 2, 3, -4]


def test_quiet_writes_nothing(tmp_path):
    with MetricsLog(tmp_path, 0, project="p", quiet=True) as log:
        log.write(1, "train", {"loss": 0.5})
        log.write_speed(1, {"tokens_per_second": 1.0})
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- Weights & Biases

STAND_IN = '''
"""A stand-in for the package wandb: it records what it is told, and sends nothing."""
import os
calls = []

class Error(Exception):
    pass

class Settings:
    def __init__(self, **values):
        self.values = values

class Session:
    def __init__(self, settings):
        self.settings = settings
        settings.mode = os.environ.get("WANDB_MODE", "online")

setup = Session

class Run:
    def define_metric(self, name, step_metric=None):
        calls.append(("define_metric", name, step_metric))

    def log(self, values):
        calls.append(("log", values))

    def finish(self, exit_code=None):
        calls.append(("finish", exit_code))

def login(prompt, verify):
    calls.append(("login", prompt, verify))
    return "WANDB_API_KEY" in os.environ

def init(**values):
    if "WANDB_REFUSES" in os.environ:
        raise Error("permission denied\\nfor project p")
    calls.append(("init", values))
    return Run()
'''


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    """The stand-in, installed and logged in."""
    place = tmp_path / "packages"
    place.mkdir()
    (place / "wandb.py").write_text(textwrap.dedent(STAND_IN))
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "secret-key-0123")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    import wandb

    yield wandb
    sys.modules.pop("wandb", None)


def sent(wandb):
    return [values for name, *values in wandb.calls if name == "log"]


def test_a_run_is_reported_with_its_settings_and_nothing_else(tmp_path, wandb):
    run = tmp_path / "run"
    run.mkdir()
    with MetricsLog(run, 0, project="p", resolved={"stage": "sft", "mesh": {"data": 1}}) as log:
        log.write(1, "train", {"loss": 0.5})
        log.write_speed(1, {"mfu": 0.4})
        log.write(2, "validation", {"loss": 0.75})
    (init,) = (values[0] for name, *values in wandb.calls if name == "init")
    assert init["project"] == "p" and init["name"] == "run" and init["config"] == {"stage": "sft", "mesh": {"data": 1}}
    assert init["resume"] == "allow" and init["id"] == json.loads((run / "wandb.json").read_text())["id"]
    switched_off = {"disable_git", "disable_code", "disable_job_creation", "x_disable_meta", "x_disable_machine_info"}
    assert switched_off <= init["settings"].values.keys() and init["settings"].values["console"] == "off"
    assert ("define_metric", "*", "step") in wandb.calls
    assert sent(wandb) == [
        [{"train/loss": 0.5, "step": 1}],
        [{"speed/mfu": 0.4, "step": 1}],
        [{"validation/loss": 0.75, "step": 2}],
    ]
    assert wandb.calls[-1] == ("finish", 0)
    assert not any("secret-key" in path.read_text(errors="ignore") for path in run.rglob("*") if path.is_file())


def test_a_resumed_run_goes_on_with_the_same_one_and_sends_no_step_twice(tmp_path, wandb):
    def steps(resumed_at, last):
        """Train from `resumed_at` to `last`, with a validation at every third step; killed then."""
        log = MetricsLog(tmp_path, resumed_at, project="p")
        for step in range(resumed_at + 1, last + 1):
            log.write(step, "train", {"loss": float(step)})
            log.write_speed(step, {"mfu": 0.5})
            if step % 3 == 0:
                log.write(step, "validation", {"loss": float(step)})

    steps(0, 6)
    steps(2, 4)  # what it does again was sent
    steps(2, 3)
    steps(2, 9)
    ids = {values[0]["id"] for name, *values in wandb.calls if name == "init"}
    assert len(ids) == 1
    logged = [values for (values,) in sent(wandb)]
    for key, expected in (("train/loss", range(1, 10)), ("speed/mfu", range(1, 10)), ("validation/loss", (3, 6, 9))):
        assert [values["step"] for values in logged if key in values] == list(expected)


def test_reporting_that_begins_with_a_resume_sends_all_that_comes(tmp_path, wandb):
    with MetricsLog(tmp_path, 0) as log:
        for step in range(1, 6):
            log.write(step, "train", {"loss": 1.0})
    with MetricsLog(tmp_path, 3, project="p") as log:
        log.write(4, "train", {"loss": 1.0})
    assert sent(wandb) == [[{"train/loss": 1.0, "step": 4}]]


def test_a_failed_run_is_marked(tmp_path, wandb):
    with pytest.raises(ValueError, match="broken"), MetricsLog(tmp_path, 0, project="p"):
        raise ValueError("broken")
    assert wandb.calls[-1] == ("finish", 1)


def test_a_run_without_a_project_never_imports_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would raise
    MetricsLog(tmp_path, 0).close()


def test_what_is_missing_for_reporting_is_one_line(tmp_path, wandb, monkeypatch):
    assert check_wandb() is wandb
    assert wandb.calls == [("login", False, False)]  # it never asks
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(AloeError, match=r"run `wandb login`, or set WANDB_MODE=offline$"):
        check_wandb()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert check_wandb() is wandb
    monkeypatch.setenv("WANDB_REFUSES", "1")
    with pytest.raises(AloeError, match=r"does not answer \(permission denied for project p\); run `wandb login`"):
        MetricsLog(tmp_path, 0, project="p")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(AloeError, match="run `pip install wandb`"):
        check_wandb()
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace())  # a directory that is called so
    with pytest.raises(AloeError, match="run `pip install wandb`"):
        check_wandb()


def test_a_broken_note_of_the_run_is_named(tmp_path, wandb):
    (tmp_path / "wandb.json").write_text("{}")
    with pytest.raises(AloeError, match=r"wandb.json: not the note of a run .*; delete it"):
        MetricsLog(tmp_path, 0, project="p")


# ---------------------------------------------------------------- speed

SPEC = DecoderSpec(
    vocab=11, layers=2, width=8, query_heads=4, kv_heads=2, head_size=2, feed_forward=16, max_length=64
)  # fmt: skip


def two_rows():
    """One tree of a 6-token prompt with replies of 3 and 2 tokens, and one of a prompt of 4 with one of 5."""
    one = TokenTree(
        "a",
        (Node(-1, (1,) * 6), Node(0, (2,) * 3, scored=3, id="a/1"), Node(0, (3,) * 2, scored=1, id="a/2")),
        (Pair(0, 1, 2),),
    )
    other = TokenTree("b", (Node(-1, (1,) * 4), Node(0, (2,) * 5, scored=5, id="b/1")), ())
    return pack([one, other], 12)[0]


def counted(rows, spec, row):
    """FLOPs of a training step by counting every product of every token, one after the other."""
    tokens = int(rows.length[row])
    layer = (
        spec.width * spec.head_size * (2 * spec.query_heads + 2 * spec.kv_heads) + 3 * spec.width * spec.feed_forward
    )
    flops = 0
    for layer_index in range(spec.layers):
        window = spec.windows[layer_index] if spec.windows else 0
        for token in range(tokens):
            flops += 2 * layer
            for key in range(token + 1):
                if token < rows.subtree_end[row, key]:
                    near = rows.positions[row, token] - rows.positions[row, key] < window
                    flops += 2 * 2 * spec.query_heads * spec.head_size if near or not window else 0
    return 3 * (flops + 2 * spec.vocab * spec.width * int((rows.reply[row] > 0).sum()))


@pytest.mark.parametrize("windows", [(), (4, 0)])
def test_work_counts_what_is_needed_and_no_padding(windows):
    import dataclasses

    spec, rows = dataclasses.replace(SPEC, windows=windows), two_rows()
    work = Work.of(rows, spec)
    assert sorted(work.tokens.tolist()) == [9, 11] and sorted(work.pairs.tolist()) == [0, 1]
    assert work.flops.tolist() == [counted(rows, spec, 0), counted(rows, spec, 1)]
    assert work.over(np.array([0, 1, 1])) == (
        rows.length[0] + 2 * rows.length[1], work.pairs[0] + 2 * work.pairs[1], work.flops[0] + 2 * work.flops[1],
    )  # fmt: skip


def test_frozen_weights_take_two_thirds_of_the_products():
    rows = two_rows()
    whole, lora = Work.of(rows, SPEC), Work.of(rows, SPEC, LoRASettings(rank=1, targets=("query",)))
    adapters = 3 * 2 * SPEC.layers * (SPEC.width + SPEC.query_heads * SPEC.head_size) * rows.length
    keys = np.array([counted(rows, SPEC, row) for row in (0, 1)]) - 3 * np.array(
        [
            SPEC.forward_flops(int(rows.length[row]), 0)
            - 2 * SPEC.vocab * SPEC.width * int((rows.reply[row] == 0)[: rows.length[row]].sum())
            for row in (0, 1)
        ]
    )
    np.testing.assert_array_equal(lora.flops, keys + (whole.flops - keys) * 2 // 3 + adapters)


def test_rates(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    h100 = SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")
    throughput = Throughput([h100, h100])
    assert throughput.read() == {}
    throughput.add(1000, 10, 1e15)
    throughput.add(1000, 0, 1e15)
    now[0] += 4
    assert throughput.read() == pytest.approx(
        {"tokens_per_second": 500, "pairs_per_second": 2.5, "mfu": 2e15 / 4 / (2 * 989e12)}
    )
    throughput = Throughput(jax.devices())
    throughput.add(10, 0, 1.0)
    now[0] += 1
    assert throughput.read() == {"tokens_per_second": 10}


@pytest.mark.parametrize(
    ("kind", "peak"),
    [("TPU v5 lite", 197e12), ("TPU v5", 459e12), ("NVIDIA H100 PCIe", 756e12), ("cpu", None)],
)
def test_peaks(kind, peak):
    assert peak_flops(kind) == peak
