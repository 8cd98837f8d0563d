"""The training loop: any model whose output has `*_loss` fields, batches addressed by step, one run folder.

It knows nothing of MCR and draws nothing: pictures during training are callbacks. The step neither reads a value
back from the device nor loops over samples; numbers are fetched once per log line. A step may be cut into parts, over
processes (distributed.py) and within one (accumulation): its gradient is that of the whole. Dropout follows from
(seed, step, process, part), so it can be replayed, and there is no random state to save.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from . import checkpoint, distributed
from .config import TrainConfig
from .precision import autocast_dtype
from .progress import progress

# On the CPU in bf16 the backward pass of fused attention takes several times that of plain matrix products.
ATTENTION = {True: [SDPBackend.MATH],
             False: [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]}
GO_ON = "Go on with the same command and --resume"


class TrainingStopped(RuntimeError):
    """Training ended before its last step: a signal, a loss that is not finite, a full disk. The message says what
    to do."""

    exit_status = 1


class Trainer:
    """`Trainer(model, batches, config, run=…, device=…).fit()` trains to the last step, or resumes to it.

    `batches(start, stop)` is a generator of this process's parts of each step, a list; `batches` has `total_steps`,
    `epoch(step)` and `pair_ids(step)`. `callbacks` are called as f(trainer, record) at each log line, `validate()` at
    each checkpoint: the higher its number the better, and the best checkpoint is kept. Afterwards `log` holds every
    record of metrics.jsonl.

    Losses are means. Of a step in parts they are weighted by the output's `*_count` fields, or alike where there is
    none. A model whose pairs contrast with each other offers `contrast(image_features, text_features, rows)`; it is
    given the features of all pairs of the step, and takes the place of the output's `contrastive_loss`.
    """

    def __init__(self, model: nn.Module, batches, config: TrainConfig, *, run: Path, device: torch.device,
                 callbacks: Iterable[Callable] = (), validate: Callable[[], float] | None = None):
        self.model, self.batches, self.config = model.to(device), batches, config
        self.run, self.device, self.callbacks, self.validate = Path(run), device, list(callbacks), validate
        self.step, self.seconds, self.log = 0, 0.0, []
        self.optimizer = make_optimizer(model, config, device)
        self.autocast_dtype = autocast_dtype(config.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.autocast_dtype is torch.float16)
        self._forward = torch.compile(model) if config.compile else model

    def resume(self) -> list[str]:
        """Go back to the newest whole checkpoint of the run folder, or to the start if none was reached; returns a
        line for each checkpoint that had to be skipped. Raises CheckpointError if there are only damaged ones."""
        skipped = []
        if distributed.main_does(lambda: len(checkpoint.folders(self.run / "checkpoints"))):
            path, state, skipped = distributed.main_does(lambda: checkpoint.newest(self.run / "checkpoints"))
            distributed.together(lambda: checkpoint.load(path, self.model, self.optimizer))
            self.scaler.load_state_dict(state["scaler"])
            self.step, self.seconds = state["step"], state["seconds"]
        self.log = distributed.main_does(self._cut_log)
        return skipped

    def fit(self) -> None:
        """Train to the last step. Raises TrainingStopped: on a signal (saved), on a loss that is not finite."""
        config, total, main = self.config, self.batches.total_steps, distributed.rank() == 0
        distributed.main_does(lambda: self.run.mkdir(parents=True, exist_ok=True))
        distributed.broadcast_(*self.model.state_dict().values())
        self.model.train()
        bar = progress(total=total, initial=self.step, desc="train", unit="step", disable=not main)
        rows, waited = [], 0.0  # since the last log line
        start = mark = time.perf_counter()
        before = self.seconds
        with _stop_signals() as stop, bar, closing(self.batches(self.step, total)) as batches:
            while self.step < total:
                wait = time.perf_counter()
                parts = next(batches)
                waited += time.perf_counter() - wait
                losses, grad_norm = self.train_step(parts)
                rows.append(torch.stack([*losses.values(), grad_norm]))
                self.step += 1
                bar.update()
                stopped, done = distributed.largest(stop.received), self.step == total
                saves = self.step % config.checkpoint_every == 0 or done or stopped
                if self.step % config.log_every == 0 or saves:  # so a resumed run logs the same lines
                    record = self._record([*losses, "grad_norm"], torch.stack(rows))
                    elapsed = time.perf_counter() - mark
                    self.seconds = before + time.perf_counter() - start
                    record |= {"seconds": self.seconds, "waiting_for_data": waited / elapsed,
                               "pairs_per_second": len(rows) * config.batch_size / elapsed}
                    aside = time.perf_counter()
                    if saves and self.validate and not stopped:
                        record["validation"] = self.validate()
                        if not math.isfinite(record["validation"]):  # this step's update has broken the weights
                            self._not_finite(self.step, record)
                    self.log.append(record)
                    distributed.main_does(self._write_log)
                    bar.set_postfix(loss=f"{record['loss']:.3f}")
                    if main:
                        for callback in self.callbacks:
                            callback(self, record)
                    self.model.train()
                    start += time.perf_counter() - aside  # what validation and callbacks take is not training time
                    if saves:
                        self.save(record.get("validation"))
                    mark, rows, waited = time.perf_counter(), [], 0.0
                if stopped and not done:
                    raise TrainingStopped(f"stopped by {signal.Signals(stopped).name} after step {self.step} of "
                                          f"{total}, saved. {GO_ON}")

    def train_step(self, parts: list) -> tuple[dict[str, Tensor], Tensor]:
        """One optimizer step over the parts of this process, with all others → what they add to the losses of the
        step (summed over the processes they are its losses) and the gradient norm, as tensors still on the device.

        One part: one forward pass. Several: a gradient cache (Gao et al. 2021). The features of all parts come first,
        without a graph; the contrastive loss of all pairs gives the gradient at each feature; a second forward pass
        per part, with the same dropout, carries it on.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.batches.total_steps, self.config)
        whole = len(parts) == 1
        with torch.set_grad_enabled(whole):
            outputs = [self._run_part(part, p) for p, part in enumerate(parts)]
        weights = self._weights(outputs)
        contrasts = hasattr(self.model, "contrast")
        logged = {}
        if contrasts:
            logged["contrastive_loss"], gradients = self._contrast(outputs)
        for p, part in enumerate(parts):
            output = outputs[p] if whole else self._run_part(part, p)
            losses = {k: weights[k][p] * v for k, v in named_losses(output).items() if k in weights}
            tensors = [self.scaler.scale(sum(losses.values()))] if losses else []
            if contrasts:
                tensors += [output.image_features, output.text_features]
            torch.autograd.backward(tensors, [None] * bool(losses) + (list(gradients[p]) if contrasts else []))
            for name, value in losses.items():
                logged[name] = logged.get(name, 0) + value.detach()
        distributed.sum_(*(p.grad for p in self.model.parameters() if p.grad is not None))
        self.scaler.unscale_(self.optimizer)
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return {"loss": sum(logged.values()), **logged}, grad_norm

    def save(self, score: float | None = None) -> Path:
        """Write a checkpoint of this very step; score: what validation gave."""
        extra = {"scaler": self.scaler.state_dict(), "seconds": self.seconds}
        return distributed.main_does(lambda: checkpoint.save(self.run / "checkpoints", self.step, self.model,
                                                             self.optimizer, extra, score))

    def _run_part(self, part, p: int):
        """Forward of part p; a second call for the same part draws the same dropout."""
        key = np.random.SeedSequence([self.config.seed, self.step, distributed.rank(), p])
        torch.manual_seed(int(key.generate_state(1, np.uint64)[0] >> np.uint64(1)))
        with (torch.autocast(self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None),
              sdpa_kernel(ATTENTION[self.device.type == "cpu" and self.autocast_dtype is not None])):
            return self._forward(part)

    def _weights(self, outputs: list) -> dict[str, Tensor]:
        """For each loss (but the contrastive one, if the model offers `contrast`) the share of each part in the mean
        over the step."""
        weights = {}
        for name, loss in named_losses(outputs[0]).items():
            if name == "contrastive_loss" and hasattr(self.model, "contrast"):
                continue
            counts = [getattr(output, name.replace("_loss", "_count"), 1) for output in outputs]
            weights[name] = torch.stack([c.to(loss.dtype) if isinstance(c, Tensor) else loss.new_full((), c)
                                         for c in counts])
        totals = [counts.sum() for counts in weights.values()]
        distributed.sum_(*totals)
        return {k: counts / n.clamp(min=1) for (k, counts), n in zip(weights.items(), totals, strict=True)}

    def _contrast(self, outputs: list) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Contrast all pairs of the step, this process's rows against all → its share of the loss, and the gradient of
        the whole loss (times the scaler's scale) at the image and text features of each part."""
        own = torch.cat([torch.stack([o.image_features, o.text_features], 1).detach() for o in outputs])  # n, 2, D
        features, first = distributed.gather(own)  # N, 2, D
        features.requires_grad_()
        share, begin, rows = 0, first, []
        for output in outputs:
            rows.append(slice(begin, begin + len(output.image_features)))
            begin = rows[-1].stop
            loss = self.model.contrast(features[:, 0], features[:, 1], rows[-1])
            self.scaler.scale(loss).backward()
            share = share + loss.detach()
        distributed.sum_(features.grad)
        return share, [(features.grad[r, 0], features.grad[r, 1]) for r in rows]

    def _record(self, names: list[str], rows: Tensor) -> dict:
        """A log line from what each step since the last one gave: rows (steps, losses and gradient norm). Stops if
        something in it is not finite."""
        losses, grad_norm = rows[:, :-1], rows[:, -1]  # views: rows hold the sums afterwards
        distributed.sum_(losses)
        finite = losses[:, 0].isfinite()
        if not self.scaler.is_enabled():  # which lets its first steps overflow on purpose
            finite &= grad_norm.isfinite()
        values = torch.stack([*losses.mean(0), grad_norm[-1], finite.all().to(losses.dtype)]).tolist()  # one read
        if not values.pop():
            bad = int(finite.int().argmin())
            self._not_finite(self.step - len(rows) + bad + 1, dict(zip(names, rows[bad].tolist(), strict=True)))
        return {"step": self.step, "epoch": self.batches.epoch(self.step),
                "learning_rate": self.optimizer.param_groups[0]["lr"], **dict(zip(names, values, strict=True))}

    def _not_finite(self, step: int, values: dict) -> None:
        where = self.run / "not_finite.json"
        about = {k: str(v) for k, v in values.items()} | {"step": step}
        distributed.main_does(lambda: where.write_text(
            json.dumps(about | {"pair_ids": self.batches.pair_ids(step - 1)}, indent=1)))
        raise TrainingStopped(
            f"the loss, its gradient or a feature is not finite at step {step}; the pairs of that step are in {where}. "
            "The last checkpoint is from before: look at these pairs, or start another run with a lower learning_rate "
            f"(now {self.config.learning_rate})")

    def _write_log(self) -> None:
        path = self.run / "metrics.jsonl"
        try:
            with path.open("a") as file:
                file.write(json.dumps(self.log[-1]) + "\n")
        except OSError as error:
            raise TrainingStopped(f"{path} could not be written: {error.strerror}; the last checkpoint is whole. "
                                  f"Make room; then: {GO_ON}") from error

    def _cut_log(self) -> list[dict]:
        """Drop what was logged after the checkpoint, it will be logged again; → what stays. A last line cut short by
        a kill or a full disk is dropped as well."""
        path, kept = self.run / "metrics.jsonl", []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                break
            if record["step"] <= self.step:
                kept.append(record)
        partial = path.with_name(".metrics.jsonl.partial")
        partial.write_text("".join(json.dumps(record) + "\n" for record in kept))
        os.replace(partial, path)
        return kept


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


class _Stop:
    received = 0  # the signal's number


@contextmanager
def _stop_signals():
    """SIGTERM and Ctrl-C are noted, and acted on after the running step. Only the main thread may listen."""
    stop = _Stop()
    previous = {}

    def note(number, _frame):
        stop.received = number

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
