"""The kit's own files after a crash, an editor or a stranger: settings, logs, manifests, checkpoints, indexes."""

import json
import random
import shutil
import warnings
from abc import abstractmethod
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image

from benchmarks.study.tables import format_studies
from data_prep import folder, own_files, run_files
from data_prep.running import cut_log
from mcr_lib.config import read_config, resolve
from mcr_lib.engine import checkpoint
from mcr_lib.index import Index

from . import Kind, Loss
from .damage import damage, damage_text

STUDY = Path(__file__).parents[2] / "benchmarks" / "results" / "study_phantom_settled_steps.json"


class OneFile(Kind):
    """A text file of ours, damaged by line, entry or byte."""

    file = ""

    def __init__(self, folder):
        super().__init__(folder)
        self.path = folder / self.file
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.text = self.write()

    @abstractmethod
    def write(self) -> str:
        """What the file says when it is whole."""

    @abstractmethod
    def read(self) -> None:
        """As the kit reads it."""

    def case(self, rng):
        self.path.write_bytes(damage_text(rng, self.text))
        self.read()
        return False


class Config(OneFile):
    name, cases, file = "own file, config.yaml", 5_000, "config.yaml"

    def write(self):
        return yaml.safe_dump(resolve("smoke").model_dump(), sort_keys=False)

    def read(self):
        read_config(self.path)


class Log(OneFile):
    name, cases, file = "own file, metrics.jsonl", 4_000, "metrics.jsonl"

    def write(self):
        records = ({"step": step, "loss": 1 / step, "seconds": 0.5 * step} for step in range(1, 30))
        return "".join(json.dumps(record) + "\n" for record in records)

    def read(self):
        kept = cut_log(self.path, 30)
        steps = [record["step"] for record in kept]
        if len(steps) < self.text.count("\n") - 1 and b"\0" not in self.path.read_bytes():
            whole = self.path.read_bytes().count(b"\n")
            if len(steps) < whole - 2:
                raise Loss(f"{whole} lines became {len(steps)}")


class Manifest(OneFile):
    name, cases, file = "own file, manifest.json", 3_000, "manifest.json"

    def write(self):
        content = dict.fromkeys(run_files.Manifest.model_fields, 1) | {
            "profile": "smoke",
            "precision": "fp32",
            "command": "python -m mcr_lib train",
            "commit": "0" * 40,
            "data": {"name": "phantom", "sha256": "0" * 64, "synthetic": True, "text_policy": "f"},
            "data_folder": "data",
            "weights_sha256": "0" * 64,
            "files": {},
        }
        return json.dumps(content, indent=2)

    def read(self):
        run_files.read_manifest(self.folder)


class DataSet(OneFile):
    name, cases, file = "own file, dataset.json", 3_000, "dataset.json"

    def write(self):
        (self.folder / "images").mkdir()
        rows = []
        for number in range(6):
            path = f"images/{number}.png"
            Image.effect_noise((8, 8), 50).save(self.folder / path)
            row = dict.fromkeys(folder.COLUMNS, "") | {"image_path": path, "split": "train"}
            ids = {key: f"{key}{number}" for key in ("pair_id", "study_id", "patient_id")}
            rows.append(row | ids | {"view": "frontal", "report": "clear lungs"})
        about = dict(name="fuzz", licence="none", synthetic=True, text_policy="findings", source={})
        folder.finish(self.folder, rows, funnel={"rows": 6}, quarantine=[], **about)
        return self.path.read_text()

    def read(self):
        folder.read_about(self.folder)
        folder.describe_data(self.folder)


class DataSetTable(DataSet):
    """manifest.parquet, which is read by a process of its own where it is not as it was written."""

    name, cases = "own file, manifest.parquet", 60

    def case(self, rng):
        path = self.folder / "manifest.parquet"
        whole = path.read_bytes()
        path.write_bytes(damage(rng, whole))
        try:
            folder.read(self.folder)
        finally:
            path.write_bytes(whole)
        return False


class State(OneFile):
    name, cases, file = "own file, state.json", 3_000, "checkpoints/step-00000002/state.json"

    def write(self):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        shutil.rmtree(self.path.parent)
        for step in (1, 2):
            extra = {"seconds": 1.5, "scaler": {}}
            checkpoint.save(self.path.parents[1], step, model, optimizer, extra, score=0.5)
        return self.path.read_text()

    def read(self):
        path, state, skipped = checkpoint.find_newest(self.path.parents[1])
        checkpoint.find_best(self.path.parents[1])
        if path.name != self.path.parent.name:
            if not skipped:
                raise Loss("an older checkpoint is used, and nobody is told")
        elif state["step"] != 2 or state["seconds"] != 1.5:
            raise Loss(f"another state is believed: {state['step']}, {state['seconds']}")


class SearchIndex(Kind):
    """Any file of an index; what is believed must be what was written."""

    name, cases = "own file, search index", 4_000

    def __init__(self, folder):
        super().__init__(folder)
        features = torch.nn.functional.normalize(torch.randn(7, 4), dim=1)
        names = (
            "pair_id",
            "study_id",
            "patient_id",
            "image_path",
            "view",
            "report",
            "labels",
            "split",
        )
        table = pd.DataFrame({name: [f"{name} {row}" for row in range(7)] for name in names})
        self.index = Index(features, features.roll(1, 0), table, "weights", {"split": None})
        self.index.save(folder / "index")
        self.whole = {file.name: file.read_bytes() for file in (folder / "index").iterdir()}

    def case(self, rng):
        place = self.folder / "index"
        name = rng.choice(list(self.whole))
        content = self.whole[name]
        is_text = name.endswith("json") and rng.random() < 0.7
        damaged = damage_text(rng, content.decode()) if is_text else damage(rng, content)
        (place / name).write_bytes(damaged)
        try:
            index = Index.load(place)
        except ValueError:  # as it says; search builds another then
            return True
        finally:
            (place / name).write_bytes(content)
        for side, features in self.index.features.items():
            if not torch.equal(index.features[side], features):
                raise Loss(f"other vectors of {side}")
        if not index.table.equals(self.index.table):
            raise Loss("another table")
        if (index.model_hash, index.made_for) != (self.index.model_hash, self.index.made_for):
            raise Loss("made for something else")
        return False


class Study(OneFile):
    name, cases, file = "own file, study.json", 500, "study.json"

    def write(self):
        return STUDY.read_text()

    def read(self):
        format_studies([self.path])


class Yaml(Kind):
    """Settings on the command line, and YAML made to do damage."""

    name, cases = "own file, YAML", 3_000

    def case(self, rng: random.Random):
        anchors = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
        bombs = "a0: &a0 x\n" + anchors, "[" * 5000, "{a: " * 2000, "? " * 3000, "- " * 3000
        text = rng.choice((*bombs, "a: 1\nb: [1, 2]\nc: {d: e}\n"))
        try:
            own_files.parse_yaml(damage_text(rng, text).decode("utf-8", "replace"))
        except ValueError:
            return True
        return False


warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
np.seterr(all="ignore")
KINDS = [Config, Log, Manifest, DataSet, DataSetTable, State, SearchIndex, Study, Yaml]
