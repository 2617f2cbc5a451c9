"""What the package says of itself: every library that the code imports is declared, and it can be set up."""

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Modules below `google` come from several distributions, and an extra's may not be installed.
ELSEWHERE = {
    "google.generativeai": "google-generativeai",
    "google.genai": "google-genai",
    "google.auth": "google-auth",
    "google.api_core": "google-api-core",
    "google.protobuf": "protobuf",
    "google.ai": "google-ai-generativelanguage",
    "orbax.checkpoint": "orbax-checkpoint",
    "sentence_transformers": "sentence-transformers",
    "wandb": "wandb",
}


def imported(package):
    """Third-party modules imported anywhere in a package, also inside functions, with one file that does."""
    for file in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                if name.split(".")[0] not in {*sys.stdlib_module_names, "_typeshed", "aloe_jax", "datagen"}:
                    yield name, file.relative_to(ROOT)


def declared():
    """Names of the distributions in setup.cfg, extras included but not the developers' own."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = [value for name, value in config["options.extras_require"].items() if name != "dev"]
    lines = "\n".join([config["options"]["install_requires"], *extras]).splitlines()
    names = [re.match(r"[\w.-]+", line) for line in lines if line and not line.startswith("#")]
    return {normal(found[0]) for found in names if found}


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_import_is_declared():
    known, by_module = declared(), packages_distributions()
    missing = {}
    for name, file in [*imported("aloe_jax"), *imported("datagen")]:
        given = next((dist for module, dist in ELSEWHERE.items() if f"{name}.".startswith(f"{module}.")), None)
        owners = [given] if given else by_module.get(name.split(".")[0], [])
        if not known & {normal(owner) for owner in owners}:
            missing[name] = str(file)
    assert not missing


PYTHON = """#!/bin/sh
case "$*" in
  --version) echo "Python 3.12.99" ;;
  "-m venv --clear .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; cp uv-stub .venv/bin/uv ;;
  "-m pip "*) echo "pip $*" >>calls; case "$*" in *"$REFUSED_BY_PIP"*) exit 1 ;; esac ;;
esac
"""
UV = """#!/bin/sh
echo "uv $*" >>calls
exit $UV_STATUS
"""


@pytest.mark.parametrize(
    ("refused_by_pip", "uv_status", "pip_installs", "ready"),
    [
        ("nothing", 0, False, True),
        ("nothing", 1, True, True),  # uv reaches no index
        ("uv==", 0, True, True),  # there is no uv
        (" -r requirements.lock", 0, False, True),
        (" -r requirements.lock", 1, True, False),  # nor does pip reach one
    ],
)
def test_setup_falls_back_on_pip(tmp_path, refused_by_pip, uv_status, pip_installs, ready):
    for name in ("Makefile", "requirements.lock", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for path, text in (("bin/python3.12", PYTHON), ("uv-stub", UV)):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(0o755)
    environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "REFUSED_BY_PIP": refused_by_pip}
    done = subprocess.run(
        ["make", "setup"],
        cwd=tmp_path,
        env=environment | {"UV_STATUS": str(uv_status)},
        capture_output=True,
        check=False,
    )
    calls = (tmp_path / "calls").read_text().splitlines()
    assert any(re.fullmatch(r"pip .* uv==[0-9.]+", call) for call in calls)
    by_pip = [call for call in calls if call.startswith("pip") and " -r requirements.lock" in call]
    assert bool(by_pip) == pip_installs == (b"pip does it" in done.stderr)
    assert (done.returncode == 0) == ready == (tmp_path / ".venv/.ready").exists()
    if ready:  # the package itself, last
        assert calls[-1].endswith("--no-deps --editable .") and calls[-1].startswith("pip" if pip_installs else "uv")


def test_setup_clears_no_environment_behind_a_link(tmp_path):
    for name in ("Makefile", "requirements.lock", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/kept").write_text("x")
    (tmp_path / ".venv").symlink_to("shared")
    done = subprocess.run(["make", "setup"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and ".venv is a link to shared" in done.stderr
    assert (tmp_path / "shared/kept").read_text() == "x"
