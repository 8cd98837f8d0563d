"""Files of our own: written whole or not at all, and read back checked, whatever has become of them meanwhile.

Every file that the kit writes and reads again goes through here: JSON, YAML and logs are read with a limit on size and
nesting and validated by pydantic; what only a library can open (Parquet, arrays, tokenizers) is compared with the
SHA-256 noted when it was written, before the library sees a byte of it. Not here: what is in which file.
"""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from .errors import DataError, KitError

LIMIT = 2**30  # bytes of a text file of ours, at most; a study's results take 30 MB
DISK_FULL = re.compile(r"No space left|\d requested and \d+ written")  # as Arrow, NumPy say it
FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or what one may have of it
DEEPEST = 20  # lists and mappings within each other, in YAML
Model = TypeVar("Model", bound=BaseModel)

try:
    import fcntl
except ImportError:  # Windows has no such lock: there, start one process at a time
    fcntl = None


class DamagedFile(DataError):
    """A file of ours that is not as it was written: which, what is wrong, what to do."""


# ------------------------------------------------------------------------------------------------------- writing


@contextmanager
def atomic(path: Path):
    """A temporary path beside `path`: renamed to it if the block succeeds, removed if it does not.

    It has one name, held by a lock: what a killed process left is taken over by the next one that writes the same
    file, and of two at once the second waits. A full disk is reported under the name of the file.
    """
    temporary = path.with_name(f".{path.name}.tmp") if fcntl else _unused_name(path)
    with _reporting(path), _own_temporary(temporary):
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:  # not `finally`: once it is renamed the name may be another's
            temporary.unlink(missing_ok=True)
            raise


def _unused_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


@contextmanager
def _own_temporary(path: Path):
    """Hold the lock of the file at `path`, which is made and empty."""
    if not fcntl:
        yield
        return
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_at(handle, path):  # else the one before us has renamed it meanwhile
                os.ftruncate(handle, 0)
                yield
                return
        finally:
            os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _reporting(path: Path):
    """A full disk in the block is an OSError that names `path`, whatever library says it and of which file (of a copy
    the system names the source); so is another OSError that names nothing, or what is written beside `path`."""
    try:
        yield
    except KitError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None)
        number = number or (errno.ENOSPC if DISK_FULL.search(str(error)) else None)
        beside = str(path.with_name(f".{path.name}."))
        named = str(getattr(error, "filename", None) or beside)
        if number is None or not (number in FULL or named.startswith(beside)):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


@contextmanager
def atomic_folder(path: Path):
    """A new folder beside `path`: it takes the place of `path`, as a whole, if the block succeeds.

    Files and names are brought to the disk first, and the files get the access that the umask gives to new ones,
    which not every library does. What a killed process left beside is removed.
    """
    beside, replaced = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")

    def undo() -> None:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)

    undo()
    with _reporting(path):
        try:
            beside.mkdir(parents=True)
            yield beside
            for file in beside.iterdir():
                file.chmod(beside.stat().st_mode & 0o666)
                sync(file)
            sync(beside)
            if path.exists():
                path.rename(replaced)
            beside.rename(path)
        except BaseException:
            undo()
            raise
        sync(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path, wait: bool = True):
    """One process at a time, on this machine or a shared disk; the lock ends with its process.

    Yields whether it is ours: always, unless another process holds it and we do not `wait`.
    """
    if not fcntl:
        yield True
        return
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def write_json(path: Path, content: Any) -> None:
    """`content` as readable JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(
            json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def sealed(content: dict) -> dict:
    """`content` with the SHA-256 of itself, for files that nobody edits: `read_model` looks whether it still fits."""
    return content | {"seal": _seal(content)}


def _seal(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def append_line(path: Path, record: dict) -> None:
    """One more line of a log, JSON; what is cut short by a kill is what `read_log` passes over."""
    with _reporting(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


# ------------------------------------------------------------------------------------------------------- reading


def read_json(path: Path, advice: str = "make the folder again") -> dict:
    """The JSON object in `path`. Raises DamagedFile in one line that ends with the advice."""
    return _object(path, _parse_json(path, read_text(path, advice), advice), advice)


def read_list(path: Path, advice: str) -> list[dict]:
    """The JSON list of objects in `path`. Raises DamagedFile as `read_json` does."""
    return validated(path, _parse_json(path, read_text(path, advice), advice), list[dict], advice)


def read_model(path: Path, model: type[Model], advice: str) -> Model:
    """The JSON object in `path` as a pydantic model. Raises DamagedFile as `read_json` does."""
    content = read_json(path, advice)
    if "seal" in content and content.pop("seal") != _seal(content):
        raise DamagedFile(f"{path} is not as it was written (seal): {advice}")
    return validated(path, content, model, advice)


def read_yaml(path: Path, advice: str) -> dict:
    """The YAML mapping in `path`. Raises DamagedFile as `read_json` does."""
    try:
        content = parse_yaml(read_text(path, advice))
    except ValueError as error:
        raise DamagedFile(f"{path} is not valid YAML ({_short(error)}): {advice}") from None
    return _object(path, content, advice)


def parse_yaml(text: str) -> Any:
    """A YAML text of our kind. ValueError for any other: among them aliases, of which a few bytes can make any size."""
    depth = 0
    try:
        # one by one: what is refused is not read on
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST or isinstance(event, yaml.AliasEvent):
                raise ValueError("aliases" if depth <= DEEPEST else "nested too deeply")
        return yaml.safe_load(text)
    except (yaml.YAMLError, OverflowError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(_short(error)) from None


def read_log(path: Path, record: type[Model], advice: str) -> list[dict]:
    """The records of a log, each of the shape of `record` at least. A last line that a kill or a full disk cut short
    is passed over; any other that is damaged is a DamagedFile."""
    if not path.exists():
        return []
    *whole, _ = read_text(path, advice).split("\n")  # nothing follows the last newline
    records = []
    for number, line in enumerate(whole, start=1):
        where = f"{path} line {number}"
        content = _object(where, _parse_json(where, line, advice), advice)
        validated(where, content, record, advice)
        records.append(content)
    return records


def read_parquet(path: Path, advice: str, trusted: bool) -> pd.DataFrame:
    """The table in `path`. What is not `trusted` to be as we wrote it is first read by a process of its own: damaged
    bytes can end Arrow's readers by a signal. Raises DamagedFile."""
    if not trusted:
        code = "import sys, pyarrow.parquet as p; p.read_table(sys.argv[1]).validate(full=True)"
        command = [sys.executable, "-I", "-c", code, str(path)]
        tried = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if tried.returncode:
            by_signal = f"its reader ends by signal {-tried.returncode}"
            how = by_signal if tried.returncode < 0 else tried.stderr.strip().split("\n")[-1]
            raise DamagedFile(f"{path} is not readable Parquet ({_short(how)}): {advice}")
    try:
        return pd.read_parquet(path)
    except Exception as error:  # Arrow has many kinds
        raise DamagedFile(f"{path} is not readable Parquet ({_short(error)}): {advice}") from None


def read_text(path: Path, advice: str) -> str:
    """The UTF-8 text in `path`, which is a file of at most LIMIT bytes. Raises DamagedFile."""
    try:
        if not path.is_file():
            raise DamagedFile(f"{path} is {'not a file' if path.exists() else 'missing'}: {advice}")
        if path.stat().st_size > LIMIT:
            raise DamagedFile(f"{path} is larger than any file of ours: {advice}")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{path} is not UTF-8 text (byte {error.start}): {advice}") from None
    except OSError as error:
        raise DamagedFile(f"{path} cannot be read ({error.strerror}): {advice}") from None


def validated(where, content: Any, shape, advice: str):
    """`content` as the pydantic model or type `shape`; DamagedFile names the first entry that does not fit."""
    try:
        return TypeAdapter(shape).validate_python(content)
    except ValidationError as error:
        raise DamagedFile(f"{where}: {first_fault(error)}: {advice}") from None


def first_fault(error: ValidationError) -> str:
    """The first thing that pydantic finds wrong, in one short line: which entry, what is wrong, what was there."""
    first = error.errors()[0]
    entry = ".".join(str(part) for part in first["loc"]) or "content"
    got = first.get("input")
    shown = "" if isinstance(got, dict | list) or got is None else f", got {_short(repr(got))}"
    return f"{entry}: {first['msg'].removeprefix('Value error, ')}{shown}"


def _parse_json(where, text: str, advice: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{where} is not valid JSON ({_short(error)}): {advice}") from None


def _object(where, content: Any, advice: str) -> dict:
    if not isinstance(content, dict):
        raise DamagedFile(f"{where} holds no entries, but {type(content).__name__}: {advice}")
    return content


def _short(reason) -> str:
    """In one line, and not the whole file."""
    text = " ".join(str(reason).split())
    return text if len(text) <= 200 else f"{text[:197]}…"


# -------------------------------------------------------------------------------------------------- fingerprints


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprints(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, by name: kept elsewhere, and compared before the files are opened again."""
    return {file.name: file_sha256(file) for file in sorted(folder.iterdir()) if file.is_file()}


def check_fingerprints(
    folder: Path, expected: dict[str, str], advice: str, exactly: bool = False
) -> None:
    """Raise DamagedFile if a file of `expected` is missing or other bytes than it was.

    exactly: also if there is another file in the folder, which a library might read.
    """
    for name, sha256 in expected.items():
        path = folder / Path(name).name
        if not path.is_file():
            raise DamagedFile(f"{path} is missing: {advice}")
        if file_sha256(path) != sha256:
            raise DamagedFile(f"{path} is not as it was written (SHA-256): {advice}")
    if exactly:
        for path in sorted(folder.iterdir()):
            if path.name not in expected:
                raise DamagedFile(f"{path} was added since: take it away")
