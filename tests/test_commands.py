"""Every command explains itself without importing anything heavy, and reports mistakes in one line."""

import subprocess
import sys

import click
import pytest

from aloe_jax.cli.main import main

COMMANDS = {
    "aloe_jax": ("train", "datagen"),
    "aloe_jax datagen": ("personas", "build"),
    "aloe_jax evaluate": ("--config",),
    "datagen": (),
    "datagen personas": ("--config",),
    "datagen conversations": ("--config",),
    "datagen build": ("--config",),
    "datagen stats": ("--config",),
    "aloe_jax.train": ("--config", "--dry-run"),
    "aloe_jax.evaluate": ("--config",),
    "aloe_jax.sweep": ("--config", "--dry-run"),
    "aloe_jax.plan": ("--topology", "--search"),
    "aloe_jax.report": ("--output", "--human"),
    "aloe_jax.rate": (),
    "aloe_jax.rate page": ("--items", "--overlap", "--checks"),
    "aloe_jax.rate agreement": ("--key",),
    "aloe_jax.chat": ("--checkpoint",),
    "aloe_jax.export": ("--checkpoint", "--output"),
    "aloe_jax.demo": ("--output",),
    "aloe_jax.salvage": ("JOURNAL",),
    "aloe_jax.data.tokenizer": ("--data", "--output"),
}
HEAVY = ("jax", "flax", "orbax", "transformers", "tensorflow_datasets", "tensorflow", "sklearn", "maxtext", "torch")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_and_is_light(command):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", *command.split(), "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for option in COMMANDS[command]:
        assert option in done.stdout
    assert "python -m" in done.stdout, "no example"
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & set(HEAVY)


@pytest.mark.parametrize("command", [name for name, options in COMMANDS.items() if "--config" in options])
def test_a_wrong_setting_is_one_line(command, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("seeed: 3\n")
    done = subprocess.run(
        [sys.executable, "-m", *command.split(), "--config", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: {path}: ")


def commands(group):
    context = click.Context(group)
    return {name: group.get_command(context, name) for name in group.list_commands(context)}


def test_the_one_command_has_them_all():
    found = commands(main)
    for name in COMMANDS:
        package, _, rest = name.partition(".")
        if package == "aloe_jax" and rest:
            assert rest.split()[0].rpartition(".")[2] in found, name
    assert {name.split()[1] for name in COMMANDS if name.startswith("datagen ")} <= commands(found["datagen"]).keys()
    assert main.get_command(click.Context(main), "nothing") is None


def test_what_reads_settings_takes_a_config_and_overrides():
    found = commands(main)
    found |= commands(found["datagen"])
    for name in ("train", "sweep", "evaluate", "plan", "chat", "personas", "calibrate", "coverage", "conversations",
                 "build", "stats", "browse"):  # fmt: skip
        assert {"path", "overrides"} <= {parameter.name for parameter in found[name].params}, name
