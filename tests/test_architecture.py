"""The shape of the code: which way imports run, how long files are, and that a name has one meaning."""

import ast
import statistics
from collections import Counter
from functools import cache
from pathlib import Path

from tests.conftest import LONG, QUICK

ROOT = Path(__file__).parent.parent


# Lowest first. A module imports its own layer and those below. Layers that share a line do not import each other.
LAYERS = (
    ("errors faults json_value ranges yaml_text settings storage terminal",),
    ("conversation coverage completeness offline_page speech",),
    ("llm",),
    ("roles progress",),
    ("data",),
    ("parallel",),
    ("models",),
    ("sampling",),
    ("rollouts",),
    ("training",),
    ("publishing",),
    ("planning",),
    ("benchmark",),
    ("report",),
    ("sweep",),
    ("cli __main__ command train evaluate export chat plan rate salvage tokenizer",),
    ("demo",),
)
LAYER = {
    f"aloe_jax.{name}": (height, part)
    for height, line in enumerate(LAYERS)
    for part, names in enumerate(line)
    for name in names.split()
}


def files(*folders: str) -> list[Path]:
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_program(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


MODULES = {name_of(file): file for file in files("aloe_jax", "datagen")}


def imports(file: Path) -> set[str]:
    """Our modules that a file imports: anywhere, also inside functions and under TYPE_CHECKING.

    What a file imports only when it is run as a program is the program's business, not the module's.
    """
    names = set()
    module = parsed(file)
    library = [node for node in module.body if not is_program(node)]
    for node in ast.walk(ast.Module(library, [])):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}:{node.lineno}: imports name the whole path"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in MODULES else node.module)
    # A module's packages are imported before it; a file's own packages have been.
    around = {name.rsplit(".", count)[0] for name in names for count in range(1, name.count(".") + 1)}
    names |= {package for package in around if not name_of(file).startswith(f"{package}.")}
    return (names & MODULES.keys()) - {name_of(file)}


GRAPH = {name: imports(file) for name, file in MODULES.items()}


def layer(module: str) -> tuple[int, int] | None:
    """(height, which of the layers on that line) of a module of aloe_jax; None for the package itself."""
    if module == "aloe_jax":
        return None
    found = LAYER[".".join(module.split(".")[:2])]
    return max(found, LAYER["aloe_jax.__main__"]) if module.endswith(".__main__") else found  # a command


def ours() -> list[str]:
    return [module for module in GRAPH if module.startswith("aloe_jax.")]


def test_every_module_has_a_layer():
    assert {".".join(module.split(".")[:2]) for module in ours()} <= LAYER.keys()


def test_imports_run_one_way():
    upward = []
    for module in ours():
        for target in GRAPH[module]:
            if target == "aloe_jax":
                continue
            if target.startswith("datagen"):
                upward.append(f"{module} imports {target}")
                continue
            (height, part), (other, other_part) = layer(module), layer(target)
            if other > height or (other == height and other_part != part):
                upward.append(f"{module} imports {target}")
    assert not upward, "\n".join(sorted(upward))


def reachable(module: str) -> set[str]:
    """What a module imports, directly or through others."""
    found, waiting = set(), [module]
    while waiting:
        new = GRAPH[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def test_no_imports_in_circles():
    reached = {module: reachable(module) for module in GRAPH}
    circles = {frozenset(other for other in reached[module] if module in reached[other]) for module in GRAPH}
    circles.discard(frozenset())
    assert not circles, "\n".join(", ".join(sorted(circle)) for circle in circles)


def lines(file: Path) -> int:
    return len(file.read_text().splitlines())


def test_files_are_short():
    lengths = {file: lines(file) for file in files("aloe_jax", "datagen")}
    assert statistics.median(lengths.values()) <= 200
    long = {str(file.relative_to(ROOT)): length for file in files("aloe_jax", "datagen", "tests", "docs", "examples")
            if (length := lines(file)) > 600}  # fmt: skip
    assert not long


def test_settings_files_are_short():
    assert not {file.name: lines(file) for file in (ROOT / "configs").rglob("*.yaml") if lines(file) > 25}


def test_no_file_is_called_utils():
    assert not [file for file in files("aloe_jax", "datagen", "tests") if file.stem in ("utils", "util", "helpers")]


def test_a_class_name_exists_once():
    names = Counter(
        node.name for file in MODULES.values() for node in ast.walk(parsed(file)) if isinstance(node, ast.ClassDef)
    )
    assert max(names.values()) == 1, ", ".join(sorted(name for name, count in names.items() if count > 1))


def test_nobody_asks_which_implementation_a_model_has():
    """Both implementations of ModelSpec answer for themselves."""
    found = [
        f"{name}:{node.lineno}"
        for name, file in MODULES.items()
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("isinstance", "issubclass")
        and any(isinstance(part, ast.Name) and part.id.endswith("ModelSpec") for part in ast.walk(node.args[1]))
    ]
    assert not found, "\n".join(found)


def test_helpers_of_tests_import_no_tests():
    found = [
        f"{file.relative_to(ROOT)} imports {node.module}"
        for file in files("tests")
        if not file.name.startswith("test_")
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.ImportFrom) and ".test_" in f"{node.module}.{node.names[0].name}"
    ]
    assert not found, "\n".join(found)


def test_lists_of_test_files_name_files_that_exist():
    tests = ROOT / "tests"
    assert not [name for name in (*LONG, *QUICK) if not (tests / name).exists()]
    packages = {file.parent.name for file in tests.rglob("test_*.py")} - {"tests", "fuzz", "gcs", "tpu"}
    assert packages <= {name.split("/")[0] for name in QUICK}, "`make check` runs something of every package"


def private_names() -> set[str]:
    """Private names that our own code defines: functions, classes, attributes, parameters."""
    found = set()
    for file in files("aloe_jax", "datagen", "tests"):
        for node in ast.walk(parsed(file)):
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    found.add(node.name)
                case ast.Name(ctx=ast.Store()):
                    found.add(node.id)
                case ast.Attribute(ctx=ast.Store()):
                    found.add(node.attr)
                case ast.arg():
                    found.add(node.arg)
    return found


# Public, whatever their first letter: an exit without clean-up, and the named tuples of the standard library.
PUBLIC = {"_exit", "_replace", "_asdict", "_fields", "_MEIPASS"}


def test_no_test_reads_what_a_library_keeps_to_itself():
    """As far as names go: an attribute `_name` of which no `_name` is defined in our own code is a library's."""
    known = private_names() | PUBLIC
    # Peers are run in environments of their own: to time their step, or to keep what they compute.
    peers = {ROOT / "tests" / "golden", ROOT / "tests" / "benchmarks" / "peers"}
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno} {node.attr}"
        for file in files("tests")
        if not peers & set(file.parents)
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        and node.attr not in known
    ]  # fmt: skip
    assert not found, "\n".join(found)
