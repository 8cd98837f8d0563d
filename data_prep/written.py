"""Which files in a data set folder's images/ are ours, and taking out those that no pair needs any more.

Only what the manifest or this record names is ever removed: the record, writing.json, is written before the first image
and removed after the last, so that a killed run's images are known as well. Whatever else stands there is left alone.
"""

from contextlib import ExitStack, contextmanager
from pathlib import Path

import pandas as pd

from .errors import DataError
from .own_files import fcntl, locked, read_json, write_json

RECORD, LOCK = "writing.json", ".lock"
SUFFIXES = (".jpg", ".png")  # of what is stored
MAY_GO = 0.05  # of the pairs: more are taken out only by --remove
ADVICE = "remove it and run the same data_prep command again"


@contextmanager
def only_writer(out: Path):
    """Hold the folder: of two preparations of it at once the second waits for the first."""
    with ExitStack() as stack:
        if not stack.enter_context(locked(out / LOCK, wait=False)):
            print(f"another process is writing {out}: waiting for it")
            stack.enter_context(locked(out / LOCK))
        yield


def record(out: Path, earlier: pd.DataFrame | None, targets: pd.Series) -> None:
    """Note which images this run may write, beside those of earlier runs."""
    names = set(_recorded(out))
    if earlier is not None:
        names.update(earlier.image_path)
    names.update(f"images/{target}{suffix}" for target in targets for suffix in SUFFIXES)
    write_json(out / RECORD, {"images": sorted(names)})


def check_removal(
    out: Path, earlier: pd.DataFrame | None, pair_ids: pd.Series, allowed: bool
) -> int:
    """How many pairs of the manifest are not among `pair_ids`. Raises DataError if they are many and not `allowed`."""
    if earlier is None:
        return 0
    gone = int((~earlier.pair_id.isin(set(pair_ids))).sum())
    if gone > MAY_GO * len(earlier) and not allowed:
        raise DataError(
            f"{gone:,} of the {len(earlier):,} pairs in {out} would be taken out, since the table no longer has them: "
            "--append keeps them and adds the table's rows, --remove takes them out; nothing is changed"
        )
    return gone


def remove_surplus(out: Path, kept: pd.Series) -> int:
    """Remove the images that are recorded as ours and that no pair names; → how many there were."""
    keep, removed = set(kept), 0
    root = (out / "images").resolve()
    for name in _recorded(out):
        file = out / name
        if name in keep or not file.parent.resolve().is_relative_to(root):
            continue
        if file.is_file() or file.is_symlink():
            file.unlink()
            removed += 1
    (out / RECORD).unlink(missing_ok=True)
    return removed


def _recorded(out: Path) -> list[str]:
    path = Path(out) / RECORD
    names = read_json(path, ADVICE).get("images") if path.exists() else []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path} names no images: {ADVICE}")
    return [name for name in names if ".." not in Path(name).parts]


def remove_leftovers(out: Path) -> None:
    """Remove the temporary files of killed writers, in the folder and its images/; those of living ones are locked."""
    for file in [*out.glob(".*.tmp"), *(out / "images").rglob(".*.tmp")]:
        _remove_if_dead(file)


def _remove_if_dead(file: Path) -> None:
    if not fcntl or not file.is_file() or file.is_symlink():
        return
    with file.open("rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        file.unlink(missing_ok=True)
