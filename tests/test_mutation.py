"""The measurements of the tests themselves: what a mutant is, which is killed, which lines count as run."""

import json

import pytest
import yaml

from benchmarks import RESULTS, covered, mutation

SOURCE = '''
def clip(x: int = 0, most=3):
    """Text and annotations stay."""
    if not x > most:
        print(f"{x:>9}")
        return x
    return most if most and True else -x
'''


def test_a_mutant_changes_one_thing():
    found = [name for name, _ in mutation.mutants(SOURCE)]
    assert found == [
        "clip: 0 -> 1",
        "clip: 3 -> 4",
        "clip: not x > most -> x > most",
        "clip: x > most -> x >= most",
        "clip: print(f'{x:>9}') -> pass",
        "clip: most if most and True else -x -> most if not (most and True) else -x",
        "clip: most and True -> most or True",
        "clip: True -> False",
        "clip: -x -> x",
    ]


@pytest.fixture
def kit(tmp_path):
    """A file and its tests, which do not look between 1 and 9."""
    (tmp_path / "clip.py").write_text("def clip(x):\n    return x if x < 3 else 3\n")
    test = "from clip import clip\n\n\ndef test_clip():\n    assert clip(1) == 1 and clip(9) == 3\n"
    (tmp_path / "test_clip.py").write_text(test)
    return tmp_path


def test_what_no_test_finds_survives_unless_its_reason_is_written_down(kit):
    known = {"clip: x < 3 -> x <= 3": "at 3 both give 3"}
    row = mutation.try_file("clip.py", ["test_clip.py"], kit, known)
    assert row["survivors"] == ["clip: 3 -> 4"] and row["equivalent"] == known
    assert (row["mutants"], row["killed"]) == (3, 1)
    (kit / "test_clip.py").write_text(
        "from clip import clip\n\ndef test():\n    assert clip(3.5) == 3\n"
    )
    row = mutation.try_file("clip.py", ["test_clip.py"], kit, known, again=row["survivors"])
    assert (row["killed"], row["survivors"]) == (2, [])
    with pytest.raises(SystemExit, match="no mutant 'clip: 7 -> 8'"):
        mutation.try_file("clip.py", ["test_clip.py"], kit, {"clip: 7 -> 8": "gone"})


def test_tests_that_do_not_end_kill(kit):
    (kit / "test_clip.py").write_text("import time\n\n\ndef test_clip():\n    time.sleep(60)\n")
    assert not mutation.passes(kit, ["test_clip.py"], 0.5)


def test_what_was_measured_is_enough():
    found = json.loads((RESULTS / "mutation.json").read_text())["files"]
    assert found.keys() == mutation.TESTS.keys()
    for name, row in found.items():
        assert row["share"] >= 0.9, name
    for reasons in yaml.safe_load(mutation.EQUIVALENT.read_text()).values():
        assert all(len(reason) > 10 for reason in reasons.values())
    assert json.loads((RESULTS / "coverage.json").read_text())["total"]["percent"] >= covered.LEAST


def test_lines_are_counted_file_by_file():
    class Measured:
        def analysis2(self, path):
            missing = [4] if path.endswith("gray.py") else []
            return path, [1, 2, 3, 4], [], missing, "4" * len(missing)

    rows = covered.count(Measured())
    assert rows["data_prep/gray.py"] == {"lines": 4, "run": 3, "percent": 75.0, "missing": "4"}
    assert rows["mcr_lib/engine/checkpoint.py"]["percent"] == 100
