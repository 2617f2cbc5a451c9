"""Settings and options that no plan can be made for are refused in a line, before anything is computed."""

import pytest
from click.testing import CliRunner

from aloe_jax import plan
from tests.fuzz.harness import one_line

BASE = ["--estimate", "--topology", "h100:1", "--model", "Llama-3.1-8B", "--config", "configs/dpo/llama3_8b.yaml"]


@pytest.mark.parametrize(
    "given",
    [
        *(["--slices", value] for value in ("0", "-1", "1e3", "")),
        *([f"--{name}", "0"] for name in ("max-rows", "sampler-rows", "sampler-length", "conversations", "turns")),
        *([f"--{name}", "-5"] for name in ("user-tokens", "reply-tokens", "price")),
        ["--price", "nan"], ["--price", "inf"], ["--topology", "[/red]"], ["--topology", "h100:0"],
        ["--model", "[bold]x"], ["data.row_length=100000000"], ["mesh={data: 3, fsdp: 5}"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_is_refused(given: list[str]) -> None:
    done = CliRunner().invoke(plan.main, [*BASE, *given])
    assert done.exit_code in (1, 2) and "Traceback" not in done.output and "defect" not in done.output
    one_line(Exception(done.stderr.splitlines()[-1]))
