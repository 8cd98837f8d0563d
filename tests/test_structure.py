"""The house: who may import whom, how long things may be, and who draws."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ["data_prep", "mcr_lib", "kit", "benchmarks"]  # each may import those before it
FOLDERS = {layer: ROOT / ("notebooks/kit" if layer == "kit" else layer) for layer in LAYERS}
METHOD = (  # in reading order
    "config masking encoders heads decoders losses model tokenizer data trainer features run"
).split()


def imported_modules(path: Path) -> set[str]:
    """Absolute names of what a file imports, at its top or inside its functions."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *filter(None, [node.module])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def files_of(layer: str) -> list[Path]:
    return sorted(FOLDERS[layer].rglob("*.py"))


@pytest.mark.parametrize("layer", LAYERS)
def test_nothing_imports_upwards(layer):
    above = LAYERS[LAYERS.index(layer) + 1 :]
    for path in files_of(layer):
        roots = {name.split(".")[0] for name in imported_modules(path)}
        assert not roots & set(above), f"{path} imports {roots & set(above)}"


def test_the_method_imports_in_reading_order():
    """Of the method, each file may import those before it, the engine and the measurement."""
    for position, name in enumerate(METHOD):
        later = {f"mcr_lib.{other}" for other in METHOD[position + 1 :]}
        found = imported_modules(ROOT / "mcr_lib" / f"{name}.py") & later
        assert not found, f"{name}.py imports {found}"


def test_the_model_touches_no_file_device_clock_or_figure():
    for name in METHOD[:7]:
        if name != "config":  # which reads YAML
            roots = {
                module.split(".")[0] for module in imported_modules(ROOT / f"mcr_lib/{name}.py")
            }
            assert not roots & {"os", "pathlib", "time", "matplotlib", "data_prep"}, name


def test_who_draws():
    for path in files_of("mcr_lib"):
        roots = {name.split(".")[0] for name in imported_modules(path)}
        assert not roots & {"matplotlib", "seaborn", "ipywidgets"}, path  # the lessons' kit draws


def test_it_is_read_in_one_sitting():
    """Counted as `ruff format` leaves it, which `make lint` checks."""
    lines = {path: path.read_text().count("\n") for path in files_of("mcr_lib")}
    assert sum(lines.values()) <= 4000
    assert sum(lines[ROOT / f"mcr_lib/{name}.py"] for name in METHOD) <= 1800
    assert max(lines.values()) <= 300, max(lines, key=lines.get)


def test_no_function_is_longer_than_a_screen():
    for path in files_of("mcr_lib"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= 50, f"{path.name}: {node.name} has {length} lines"


def test_every_file_says_what_it_is():
    for layer in LAYERS:
        for path in files_of(layer):
            assert ast.get_docstring(ast.parse(path.read_text())), path
