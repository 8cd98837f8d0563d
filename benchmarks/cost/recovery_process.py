"""The processes that recovery.py starts and kills: a run that notes which pairs it saw, and one large step.

    python -m benchmarks.cost.recovery_process train DATA RUN SEEN SETTINGS    (or by torchrun)
    python -m benchmarks.cost.recovery_process step PARTS --limit BYTES

Not here: who kills them, and what is made of what they leave (recovery.py).
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

import torch
import typer

from benchmarks.cost.subjects import Endless
from data_prep.commands import QUIET, run_app
from mcr_lib.config import resolve
from mcr_lib.engine import distributed
from mcr_lib.model import MCR, Batch
from mcr_lib.run import train_run
from mcr_lib.trainer import Trainer

MODULE = "benchmarks.cost.recovery_process"
LARGE = 4096  # pairs of the large step

app = typer.Typer(**QUIET)


@app.command()
def train(data: Path, run: Path, seen: Path, settings: str) -> None:
    """One process of a run: trains, resuming where there is something to resume, and notes which pairs each step saw in
    `seen/ATTEMPT-RANK.jsonl`."""
    take_step = Trainer.train_step
    attempt = os.environ["ATTEMPT"]

    def take_and_note(trainer: Trainer, parts: list[Batch]):
        result = take_step(trainer, parts)
        pairs = torch.cat([part.pairs for part in parts]).tolist()
        line = {"step": trainer.step, "pairs": pairs, "pid": os.getpid()}
        with (seen / f"{attempt}-{distributed.rank()}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return result

    Trainer.train_step = take_and_note
    with distributed.process_group():
        train_run(
            data,
            run,
            resolve("smoke", json.loads(settings)),
            device=torch.device("cpu"),
            resume=(run / "config.yaml").exists(),
            command="benchmarks/cost/recovery.py",
        )


@app.command()
def step(parts: int, limit: int = 0) -> None:
    """One training step of LARGE random pairs, in `parts` parts, within `limit` bytes of memory (0: none); prints JSON.
    The model is the demo profile's."""
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    torch.set_num_threads(2)
    config = resolve("demo", {"accumulation": parts, "precision": "fp32", "batch_size": LARGE})
    batches = _make_parts(config.model, parts)
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    trainer = Trainer(MCR(config.model), Endless(), config.train, run=Path("unused"), device=cpu)
    losses, norm = trainer.train_step(batches)
    measured = {
        "parts": parts,
        "grad_norm": norm.item(),
        **{name: loss.item() for name, loss in losses.items()},
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(measured))


def _make_parts(model, parts: int) -> list[Batch]:
    """LARGE pairs of noise, cut into parts."""
    generator = torch.Generator().manual_seed(0)
    size = model.img_size
    ids = torch.randint(5, model.vocab_size, (LARGE, model.max_text_length), generator=generator)
    whole = [
        torch.randn(LARGE, 1, size, size, generator=generator),
        ids,
        torch.ones_like(ids),
        torch.rand(LARGE, model.num_patches, generator=generator),
        torch.rand(ids.shape, generator=generator),
    ]
    pieces = [tensor.chunk(parts) for tensor in whole]
    return [Batch(*part) for part in zip(*pieces, strict=True)]


if __name__ == "__main__":
    sys.exit(run_app(app, MODULE))
