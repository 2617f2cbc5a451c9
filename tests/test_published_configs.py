"""Every config in configs/ loads, is short, and opens with the command that uses it."""

from pathlib import Path

import pytest

from aloe_jax import config

ROOT = Path(__file__).parent.parent / "configs"
KINDS = {
    "python -m aloe_jax.evaluate --preferences": config.Preferences,
    "python -m aloe_jax.train": config.Train,
    "python -m aloe_jax.evaluate": config.Evaluate,
    "python -m datagen": config.Datagen,
}
FILES = sorted(ROOT.rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_config(path):
    lines = path.read_text().splitlines()
    command = next(name for name in KINDS if name in lines[0])
    assert f"--config configs/{path.relative_to(ROOT)}" in lines[0]
    header = " ".join(line for line in lines if line.startswith("#"))
    assert "Hardware:" in header and "Expected:" in header
    assert len(lines) <= 25
    config.load(KINDS[command], path)


def test_there_are_configs():
    assert len(FILES) >= 6
