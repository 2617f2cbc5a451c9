"""What the demo says at its end."""

from aloe_jax.benchmark.results import METRICS, write_results
from aloe_jax.demo.summary import summary, write_report
from tests.report import sample


def shown(root, text):
    spoken = [sample.talked(name, sample.personas(), 2.0, text=text) for name in ("sft", "dpo")]
    write_results(root / "benchmark", sample.results(spoken))
    (root / "metrics.json").write_bytes((root / "benchmark" / METRICS).read_bytes())
    return summary(root, [], write_report(root))


def test_replies_with_defects_are_named(tmp_path):
    """Of four replies of a dialogue all but the first were said before."""
    lines = shown(tmp_path, "Yes.").splitlines()
    assert "Warning   dpo: 75.0% of its replies repeat themselves or an earlier one" in lines
    assert "Warning   sft: 75.0% of its replies repeat themselves or an earlier one" in lines


def test_without_defects_there_is_no_warning(tmp_path):
    assert "Warning" not in shown(tmp_path, None)
