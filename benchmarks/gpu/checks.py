"""Whether the Trainer computes on this device what it computes on a CPU in float32, and every way of computing a step
(compiled, in parts, recomputed, gone on with) what the plain one does. Not here: how fast (__main__.py)."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.cost.memory import recompute_blocks
from benchmarks.cost.subjects import LENGTHS, make_batch
from data_prep.errors import KitError
from mcr_lib.config import resolve
from mcr_lib.engine import checkpoint
from mcr_lib.engine.precision import precision_name
from mcr_lib.model import MCR, Batch
from mcr_lib.trainer import Trainer

CLOSE = {"rtol": 1e-3, "atol": 1e-4}  # of losses and gradients in float32
PAIRS, STEPS = 8, 8


class Batches:
    """The same batch at every step, cut into `parts`."""

    total_steps = STEPS

    def __init__(self, batch: Batch, parts: int = 1):
        rows = torch.arange(len(batch.images)).tensor_split(parts)
        self.parts = [_rows_of(batch, row) for row in rows] if parts > 1 else [batch]

    def epoch(self, step: int) -> float:
        return 0.0

    def pair_ids(self, step: int) -> list[str]:
        return []

    def __call__(self, start: int, stop: int):
        for _ in range(start, stop):
            yield self.parts


def _rows_of(batch: Batch, rows: torch.Tensor) -> Batch:
    names = ("images", "input_ids", "attention_mask", "image_noise", "text_noise")
    rows = rows.to(batch.images.device)
    return replace(batch, places=None, **{name: getattr(batch, name)[rows] for name in names})


class Checks:
    """Each method that begins with `check_` raises AssertionError, or returns what it saw."""

    def __init__(self, profile: str, device: torch.device):
        settings = {"steps": STEPS, "checkpoint_every": 4, "log_every": 1, "precision": "fp32"}
        self.config, self.device = resolve(profile, settings | {"compile": False}), device
        torch.backends.cudnn.allow_tf32 = False  # float32 is compared
        torch.manual_seed(0)
        self.model = MCR(self.config.model)

    def trainer(
        self, device=None, run: Path = Path(), parts: int = 1, callbacks=(), **train
    ) -> Trainer:
        """Of a copy of the model, on batches of reports of uneven length."""
        where = device or self.device
        batch = make_batch(self.config.model, PAIRS, where, LENGTHS["openi"])
        config = self.config.train.model_copy(update=train)
        how = {"run": run, "device": where, "callbacks": callbacks}
        return Trainer(copy.deepcopy(self.model), Batches(batch, parts), config, **how)

    def step(self, prepare=lambda model: None, **how) -> dict[str, torch.Tensor]:
        """Losses of the first step of the prepared model, and the gradients it takes, by name."""
        trainer = self.trainer(**how, clip_norm=1e9)
        prepare(trainer.model)
        found = {}

        def keep(optimizer, *_):
            for name, p in trainer.model.named_parameters():
                found[f"gradient of {name}"] = p.grad.detach().float().cpu().clone()

        trainer.optimizer.register_step_pre_hook(keep)
        trainer.model.train()
        losses, _ = trainer.train_step(trainer.batches.parts)
        return {name: loss.float().cpu() for name, loss in losses.items()} | found

    def agree(self, other: dict) -> str:
        """What `other` differs by from the plain step on this device."""
        plain, largest = self.step(), 0.0
        for name, value in plain.items():
            torch.testing.assert_close(
                other[name], value, **CLOSE, msg=lambda m, n=name: f"{n}: {m}"
            )
            largest = max(largest, (other[name] - value).abs().max().item())
        return f"largest difference {largest:.1e}"

    def check_float32_equals_the_cpu(self) -> str:
        return self.agree(self.step(device=torch.device("cpu")))

    def check_gradient_cache(self) -> str:
        return self.agree(self.step(parts=4))

    def check_recomputed(self) -> str:
        return self.agree(self.step(prepare=recompute_blocks))

    def check_compiled(self) -> str:
        return self.agree(self.step(compile=True))

    def check_precisions_learn(self) -> str:
        names = ("fp32", "bf16", "fp16") if self.device.type == "cuda" else ("auto",)
        said = []
        for precision in names:
            trainer = self.trainer(run=self.folder / precision, precision=precision)
            trainer.fit()
            first, last = trainer.log[0]["loss"], trainer.log[-1]["loss"]
            assert last < first, f"{precision}: loss {first} → {last}"
            said.append(f"{precision_name(trainer.autocast_dtype)} {first:.3f} → {last:.3f}")
        return ", ".join(said)

    def check_resumed(self) -> str:
        def stop(trainer, _):
            if trainer.step == 6:
                raise KeyboardInterrupt

        whole, cut = self.trainer(run=self.folder / "whole"), self.folder / "cut"
        whole.fit()
        try:
            self.trainer(run=cut, callbacks=[stop]).fit()
        except KeyboardInterrupt:
            again = self.trainer(run=cut)
            again.resume()
            assert again.step == 4
            again.fit()
        hashes = {checkpoint.weights_sha256(self.folder / name) for name in ("whole", "cut")}
        assert len(hashes) == 1, "the weights differ"
        return "the same weights, bit for bit"

    def run(self) -> dict[str, str]:
        """→ what each check saw, or how it failed."""
        results = {}
        with tempfile.TemporaryDirectory() as folder:
            self.folder = Path(folder)
            for name in [name for name in dir(self) if name.startswith("check_")]:
                try:
                    results[name] = f"ok: {getattr(self, name)()}"
                except (AssertionError, RuntimeError, KitError) as error:
                    results[name] = f"FAILED: {' '.join(str(error).split())[:300]}"
                print(f"{name}: {results[name]}", flush=True)
        return results
