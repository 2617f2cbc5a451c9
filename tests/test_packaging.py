"""What the package says of itself: every library that the code imports is declared."""

import ast
import configparser
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

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
                if name.split(".")[0] not in {*sys.stdlib_module_names, "aloe_jax", "datagen"}:
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
