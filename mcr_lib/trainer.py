"""The training loop: any model whose output has `*_loss` fields, batches addressed by step, one run folder.

It knows nothing of MCR and draws nothing: pictures during training are callbacks. The step neither reads a value
back from the device nor loops over samples; numbers are fetched once per log line.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from . import checkpoint
from .config import TrainConfig
from .progress import progress

# On the CPU the backward pass of fused attention takes several times that of plain matrix products.
ATTENTION = {True: [SDPBackend.MATH],
             False: [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]}


class TrainingStopped(RuntimeError):
    """Training ended before its last step: interrupted, or a loss that is not finite. The message says what to do."""

    exit_status = 1


class Trainer:
    """`Trainer(model, batches, config, run=…, device=…).fit()` trains to the last step, or resumes to it.

    `batches(start, stop)` yields a list of parts per step and has `total_steps` and `epoch(step)`; `callbacks` are
    called as f(trainer, record) at each log line. Afterwards `log` holds every record of metrics.jsonl.
    """

    def __init__(self, model: nn.Module, batches, config: TrainConfig, *, run: Path, device: torch.device,
                 callbacks: Iterable[Callable] = ()):
        self.model, self.batches, self.config = model.to(device), batches, config
        self.run, self.device, self.callbacks = Path(run), device, list(callbacks)
        self.step, self.seconds, self.log = 0, 0.0, []
        self.optimizer = make_optimizer(model, config, device)
        self.autocast_dtype = autocast_dtype(config.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.autocast_dtype is torch.float16)
        self._forward = torch.compile(model) if config.compile else model

    def resume(self) -> list[str]:
        """Go back to the newest whole checkpoint of the run folder; returns a line for each one it had to skip."""
        path, state, skipped = checkpoint.newest(self.run / "checkpoints")
        checkpoint.load_model(path, self.model)
        checkpoint.load_optimizer(path, self.optimizer)
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.seconds = state["step"], state["seconds"]
        log = self.run / "metrics.jsonl"
        if log.exists():  # what was logged after the checkpoint will be logged again
            records = [json.loads(line) for line in log.read_text().splitlines()]
            self.log = [r for r in records if r["step"] <= self.step]
            log.write_text("".join(json.dumps(r) + "\n" for r in self.log))
        return skipped

    def fit(self) -> None:
        """Train to the last step. Raises TrainingStopped on a signal (saved) or a loss that is not finite."""
        config, total = self.config, self.batches.total_steps
        self.run.mkdir(parents=True, exist_ok=True)
        self.model.train()
        bar = progress(total=total, initial=self.step, desc="train", unit="step")
        waited, sums, since = 0.0, {}, self.step
        last_pairs = None
        start = mark = time.perf_counter()
        before = self.seconds
        with _stop_signals() as stop, (self.run / "metrics.jsonl").open("a") as log, bar:
            batches = iter(self.batches(self.step, total))
            while self.step < total:
                wait = time.perf_counter()
                parts = next(batches)
                waited += time.perf_counter() - wait
                losses, grad_norm = self.train_step(parts)
                last_pairs = [part.pairs for part in parts]
                self.step += 1
                sums = {k: sums.get(k, 0) + v for k, v in losses.items()}
                bar.update()
                done = self.step == total
                if self.step % config.log_every == 0 or done or stop.received:
                    record = self._record({k: v / (self.step - since) for k, v in sums.items()}, grad_norm)
                    elapsed = time.perf_counter() - mark
                    self.seconds = before + time.perf_counter() - start
                    record |= {"seconds": self.seconds, "waiting_for_data": waited / elapsed,
                               "pairs_per_second": (self.step - since) * config.batch_size / elapsed}
                    self._check_finite(record, last_pairs)
                    self.log.append(record)
                    log.write(json.dumps(record) + "\n")
                    log.flush()
                    bar.set_postfix(loss=f"{record['loss']:.3f}")
                    aside = time.perf_counter()
                    for callback in self.callbacks:
                        callback(self, record)
                    self.model.train()
                    start += time.perf_counter() - aside  # what callbacks take is not training time
                    mark, waited, sums, since = time.perf_counter(), 0.0, {}, self.step
                if self.step % config.checkpoint_every == 0 or done or stop.received:
                    self.save()
                if stop.received and not done:
                    raise TrainingStopped(f"stopped by {stop.received} after step {self.step} of {total}, saved. "
                                          "Go on with the same command and --resume")

    def train_step(self, parts: list) -> tuple[dict[str, Tensor], Tensor]:
        """One optimizer step over the parts of a batch → losses (mean over parts) and gradient norm, as
        tensors still on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.batches.total_steps, self.config)
        logged: dict[str, Tensor] = {}
        for part in parts:
            with (torch.autocast(self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None),
                  sdpa_kernel(ATTENTION[self.device.type == "cpu"])):
                losses = named_losses(self._forward(part))
            total = sum(losses.values()) / len(parts)
            self.scaler.scale(total).backward()
            for name, value in {"loss": total * len(parts), **losses}.items():
                logged[name] = logged.get(name, 0) + value.detach() / len(parts)
        self.scaler.unscale_(self.optimizer)
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return logged, grad_norm

    def save(self) -> Path:
        """Write a checkpoint of this very step."""
        extra = {"scaler": self.scaler.state_dict(), "seconds": self.seconds}
        return checkpoint.save(self.run / "checkpoints", self.step, self.model, self.optimizer, extra)

    def _record(self, means: dict[str, Tensor], grad_norm: Tensor) -> dict:
        values = torch.stack([*means.values(), grad_norm]).tolist()  # one read from the device
        return {"step": self.step, "epoch": self.batches.epoch(self.step),
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                **dict(zip([*means, "grad_norm"], values, strict=True))}

    def _check_finite(self, record: dict, pairs: list[Tensor]) -> None:
        if math.isfinite(record["loss"]):
            return
        where = self.run / "not_finite.json"
        where.write_text(json.dumps({**{k: str(v) for k, v in record.items()},
                                     "pairs": torch.cat(pairs).tolist() if pairs[0] is not None else None}))
        raise TrainingStopped(f"the loss is {record['loss']} at step {self.step}; the rows of its last batch are in "
                              f"{where}. The last checkpoint is from before; try a lower learning_rate")


def named_losses(output) -> dict[str, Tensor]:
    """The `*_loss` fields of an output dataclass that are not None; their sum is what is minimised (open_clip)."""
    return {f.name: getattr(output, f.name) for f in fields(output)
            if f.name.endswith("_loss") and getattr(output, f.name) is not None}


def make_optimizer(model: nn.Module, config: TrainConfig, device: torch.device) -> torch.optim.AdamW:
    """Fused AdamW; biases, norms and scalars are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
              {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=device.type in ("cuda", "cpu"))


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine to zero."""
    warmup = config.warmup * total
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """What to compute matrix products in; None: float32. 'auto' is bf16 on CUDA and on CPUs with bf16 instructions."""
    if precision == "auto":
        fast = device.type == "cuda" or (device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported())
        return torch.bfloat16 if fast else None
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[precision]


class _Stop:
    received: str | None = None


@contextmanager
def _stop_signals():
    """SIGTERM and Ctrl-C are noted, and acted on after the running step. Only the main thread may listen."""
    stop = _Stop()
    previous = {}

    def note(number, _frame):
        stop.received = signal.Signals(number).name

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    except ValueError:
        pass  # not the main thread: the caller's own handling stays
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
