"""Mutation testing: is each small fault that could be made in a file found by the file's tests?

`python -m benchmarks.mutation [--only mcr_lib/losses.py] [--out FILE.json] [--again]`. A mutant is the file with one
thing changed: a comparison, an operator, a number, a truth value, a condition turned round, a call or an error left
out. It is killed if a test fails or the tests do not end in time. Mutants that no test can tell from the original are
listed with the reason in equivalent.yaml. What is said to a reader alone (strings) is not changed.
"""

import ast
import copy
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
import yaml

from data_prep.machine import progress

ROOT = Path(__file__).parent.parent
EQUIVALENT = Path(__file__).with_name("equivalent.yaml")
TESTS = {  # the tests of a file; those that train or load full-size models are left out
    "mcr_lib/masking.py": ["tests/test_masking.py"],
    "mcr_lib/losses.py": ["tests/test_losses.py"],
    "mcr_lib/ranking.py": [
        "tests/test_retrieval.py",
        "tests/test_index.py",
        "-k",
        "not of_a_run and not built_anew and not at_once and not have_grown and not larger_than and not a_kill",
    ],
    "data_prep/patients.py": ["tests/test_patients.py", "tests/test_data_prep_folder.py"],
    "mcr_lib/engine/pretrained.py": ["tests/test_weights.py", "-k", "not full_size and not a_run"],
}
LOADED = "torch timm transformers pandas scipy.sparse.csgraph PIL.Image hypothesis pytest pyarrow"
SWAPS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd,
}  # fmt: skip


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in a node's place."""
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            new = copy.deepcopy(node)
            new.ops[i] = SWAPS[type(op)]()
            yield new
    elif isinstance(node, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(node.op) in SWAPS:
        new = copy.deepcopy(node)
        new.op = SWAPS[type(node.op)]()
        yield new
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield ast.Constant(node.value + 1 if isinstance(node.value, int) else node.value * 2 or 1.0)
    elif isinstance(node, ast.Raise) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield ast.Pass()
    elif isinstance(node, (ast.If, ast.IfExp)) and not isinstance(
        node.test, (ast.Compare, ast.UnaryOp)
    ):
        new = copy.deepcopy(node)
        new.test = ast.UnaryOp(ast.Not(), new.test)
        yield new


def places(
    node: ast.AST, where: str = ""
) -> Iterator[tuple[str, ast.AST, str, int | None, ast.AST]]:
    """Function, parent, field, position and node of all that runs: no annotation, no type alias."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "type_params", "format_spec"):
            continue
        for i, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST):
                named = isinstance(child, (ast.FunctionDef, ast.ClassDef))
                inside = child.name if named else where
                yield inside, node, field, i, child
                yield from places(child, inside)


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """Every mutant's name, which stays where lines move, and its source."""
    tree, names = ast.parse(source), Counter()
    for where, parent, field, i, node in places(tree):
        for new in changes(node):
            before, after = (ast.unparse(part).split("\n")[0] for part in (node, new))
            name = f"{where or 'module'}: {before} -> {after}"
            names[name] += 1
            put(parent, field, i, new)
            yield (
                name + (f" #{names[name]}" if names[name] > 1 else ""),
                ast.unparse(ast.fix_missing_locations(tree)),
            )
            put(parent, field, i, node)


def put(parent: ast.AST, field: str, i: int | None, node: ast.AST) -> None:
    if i is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[i] = node


def passes(root: Path, arguments: list[str], limit: float) -> bool:
    """Whether the tests pass in the copy at `root` within `limit` seconds, in a child that has the libraries loaded."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(root)
        sys.path.insert(0, str(root))
        sys.dont_write_bytecode = (
            True  # a mutant of the same second and size would be taken for the last one
        )
        for module in [
            module
            for module in sys.modules
            if module.split(".")[0] in ("data_prep", "mcr_lib", "benchmarks")
        ]:
            del sys.modules[module]  # the original
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        import pytest

        os._exit(
            int(pytest.main([*arguments, "-x", "-p", "no:cacheprovider", f"--rootdir={root}"]))
        )
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def try_file(
    name: str, tests: list[str], root: Path, known: dict[str, str], again: list[str] | None = None
) -> dict:
    """The file's row: mutants, killed, equivalent with a reason each, survivors, share of the meaningful killed.

    again: those that survived earlier; then they alone are tried, and the others are counted as killed.
    """
    path = root / name
    source = path.read_text()
    start = time.monotonic()
    if not passes(root, tests, 1200):
        raise SystemExit(f"the tests of {name} fail without a mutation")
    limit = 30 + 4 * (time.monotonic() - start)
    made = list(mutants(source))
    unknown = known.keys() - {mutant for mutant, _ in made}
    if unknown:
        raise SystemExit(f"equivalent.yaml: {name} has no mutant {sorted(unknown)[0]!r}")
    meaningful = [one for one in made if one[0] not in known]
    tried = [one for one in meaningful if again is None or one[0] in again]
    survivors = []
    for mutant, text in progress(tried, desc=name):
        path.write_text(text)
        if passes(root, tests, limit):
            survivors.append(mutant)
    path.write_text(source)
    killed = len(meaningful) - len(survivors)
    share = round(killed / len(meaningful), 3)
    return {
        "mutants": len(made),
        "killed": killed,
        "share": share,
        "equivalent": known,
        "survivors": survivors,
    }


def main(
    only: Annotated[list[str] | None, typer.Option(help="these files; may be repeated")] = None,
    out: Annotated[
        Path | None, typer.Option(help="JSON file of results, files added to it")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="only what survived in OUT, after tests were added")
    ] = False,
) -> None:
    """Make every mutant of the files that must not be wrong and run their tests on it."""
    for module in LOADED.split():
        importlib.import_module(module)
    known = yaml.safe_load(EQUIVALENT.read_text())
    results = json.loads(out.read_text())["files"] if out and out.exists() else {}
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    about = {"command": "python -m benchmarks.mutation", "commit": commit.stdout.strip()}
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder) / "kit"
        left_out = shutil.ignore_patterns(".*", "runs", "data", "__pycache__", "results")
        shutil.copytree(ROOT, copied, ignore=left_out)
        for name, tests in TESTS.items():
            if not only or name in only:
                earlier = results[name]["survivors"] if again else None
                results[name] = try_file(name, tests, copied, known.get(name, {}), earlier)
                print(name, json.dumps(results[name], indent=1, ensure_ascii=False))
                if out:
                    out.write_text(
                        json.dumps({**about, "files": results}, indent=1, ensure_ascii=False) + "\n"
                    )


if __name__ == "__main__":
    typer.run(main)
