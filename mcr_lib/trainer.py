"""The training loop: any model whose output has `*_loss` fields, batches addressed by step, one run folder.

It knows nothing of MCR and draws nothing: pictures during training are callbacks. The step neither reads a value back
from the device nor loops over samples; numbers are fetched once per log line. A step cut into parts is
engine/large_batch.py. Dropout follows from (seed, step, process, part): there is no random state to save."""

from __future__ import annotations

import math
import signal
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from data_prep.errors import KitError
from data_prep.machine import progress
from data_prep.own_files import append_line, write_json
from data_prep.running import Clock, StopSignal, cut_log

from .config import TrainConfig
from .engine import checkpoint, compiling, distributed, large_batch
from .engine.large_batch import named_losses
from .engine.precision import autocast_dtype, bf16_is_fast

FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
GO_ON = "Go on with the same command and --resume"


class TrainingStopped(KitError):
    """Training ended before its last step: a signal, a loss that is not finite, a full disk."""

    exit_status = 1

    @property
    def told_elsewhere(self) -> bool:
        return distributed.rank() > 0


class Trainer:
    """`Trainer(model, batches, config, run=…, device=…).fit()` trains to the last step.
    `batches(start, stop)` is a generator of this process's parts of each step, a list; `batches`
    has `total_steps`, `epoch(step)` and `pair_ids(step)`. `callbacks` are called as f(trainer,
    record) at each log line, `validate()` at each checkpoint: the higher its number the better, and
    the best checkpoint is kept. Afterwards `log` holds every record of metrics.jsonl."""

    def __init__(self, model, batches, config, *, run, device, callbacks=(), validate=None):
        self.model, self.batches, self.config = model.to(device), batches, config
        self.run, self.device = Path(run), device
        self.callbacks, self.validate = list(callbacks), validate
        self.step, self.seconds, self.log = 0, 0.0, []
        self.optimizer = make_optimizer(model, config, device)
        self.autocast_dtype = autocast_dtype(config.precision, device)
        if config.precision == "bf16" and not bf16_is_fast(device):
            distributed.notice_once("precision=bf16 is slow here; precision=auto is not")
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.autocast_dtype == torch.half)
        if config.compile:
            compiling.compile_blocks(model)

    def resume(self) -> list[str]:
        """Go back to the newest whole checkpoint of the run folder, or to the start. → a line for
        each checkpoint that had to be skipped. Raises CheckpointError if all are damaged."""
        folder, skipped = self.run / "checkpoints", []
        if distributed.run_on_main(lambda: len(checkpoint.list_folders(folder))):
            path, state, skipped = distributed.run_on_main(lambda: checkpoint.find_newest(folder))
            distributed.run_everywhere(lambda: checkpoint.load(path, self.model, self.optimizer))
            self.scaler.load_state_dict(state["scaler"])
            self.step, self.seconds = state["step"], state["seconds"]
        self.log = distributed.run_on_main(lambda: cut_log(self.run / "metrics.jsonl", self.step))
        return skipped

    def fit(self) -> None:
        """Train to the last step. Raises TrainingStopped on a signal (saved) or a loss not finite."""
        config, total, main = self.config, self.batches.total_steps, distributed.rank() == 0
        distributed.run_on_main(lambda: self.run.mkdir(parents=True, exist_ok=True))
        distributed.broadcast_from_main(*self.model.state_dict().values())
        self.model.train()
        steps = progress(
            total=total, initial=self.step, desc="train", unit="step", disable=not main
        )
        clock, recent = Clock(self.seconds), []  # of each step since the last log: losses, norm
        with StopSignal() as stop, steps, closing(self.batches(self.step, total)) as batches:
            while self.step < total:
                with clock.waiting():
                    parts = next(batches)
                with compiling.compiler_errors():
                    losses, grad_norm = self.train_step(parts)
                recent.append(torch.stack([*losses.values(), grad_norm]))
                self.step += 1
                steps.update()

                stopped = distributed.all_reduce_max(stop.received)
                saves = self.step % config.checkpoint_every == 0 or self.step == total or stopped
                if saves or self.step % config.log_every == 0:  # a resumed run logs the same lines
                    record = self._record([*losses, "grad_norm"], torch.stack(recent), clock)
                    with clock.paused():
                        self._finish_record(record, validates=saves and not stopped)
                    steps.set_postfix(loss=f"{record['loss']:.3f}")
                    if saves:
                        self.save(record.get("validation"))
                    recent = []
                    clock.start_lap()
                if stopped and self.step < total:
                    how = f"stopped by {signal.Signals(stopped).name} after step {self.step}"
                    raise TrainingStopped(f"{how} of {total}, saved. {GO_ON}")
        if total == 0:  # fitted, not trained
            self.save(self.validate() if self.validate else None)

    def train_step(self, parts: list) -> tuple[dict[str, Tensor], Tensor]:
        """One optimizer step over this process's parts, with those of all other processes. → what
        they add to the step's losses (summed over the processes they are its losses) and the
        gradient norm, as tensors still on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.batches.total_steps, self.config)
        if len(parts) == 1 and distributed.world_size() == 1:
            losses = named_losses(self.forward(parts[0]))
            self.scaler.scale(sum(losses.values())).backward()
            losses = {name: loss.detach() for name, loss in losses.items()}
        else:
            losses = large_batch.backward(self.model, self.forward, parts, self.scaler.scale)
        self.scaler.unscale_(self.optimizer)
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return {"loss": sum(losses.values()), **losses}, grad_norm

    def forward(self, part, number: int = 0):
        """The model's output for part `number` of this step; called again it draws the same dropout."""
        key = np.random.SeedSequence([self.config.seed, self.step, distributed.rank(), number])
        torch.manual_seed(int(key.generate_state(1, np.uint64)[0] >> np.uint64(1)))
        dtype = self.autocast_dtype
        # a CPU's fused attention is slow in bf16, its backward most: there plain products, in bf16
        kernels = [SDPBackend.MATH] if self.device.type == "cpu" and dtype is not None else FUSED
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
        autocast = torch.autocast(self.device.type, dtype, enabled=dtype is not None)
        with autocast, sdpa_kernel(kernels):
            return self.model(part)

    def save(self, score: float | None = None) -> Path:
        """Write a checkpoint of this very step; score: what validation gave."""
        folder = self.run / "checkpoints"
        extra = {"scaler": self.scaler.state_dict(), "seconds": self.seconds}
        return distributed.run_on_main(
            lambda: checkpoint.save(folder, self.step, self.model, self.optimizer, extra, score)
        )

    def _record(self, names: list[str], recent: Tensor, clock: Clock) -> dict:
        """A log line from the losses and norm (steps, names) of each step since the last one.
        Raises TrainingStopped if something in it is not finite."""
        losses, grad_norm = recent[:, :-1].contiguous(), recent[:, -1]
        distributed.all_reduce_sum(losses)
        finite = losses[:, 0].isfinite()
        if not self.scaler.is_enabled():  # fp16's first steps overflow on purpose
            finite &= grad_norm.isfinite()
        all_finite = finite.all().to(losses.dtype)
        read = torch.stack([*losses.mean(0), grad_norm[-1], all_finite])
        *values, good = read.tolist()  # the only read of the device
        if not good:
            bad = int(finite.int().argmin())
            step = self.step - len(recent) + bad + 1
            values = [*losses[bad].tolist(), float(grad_norm[bad])]
            self._stop_not_finite(step, dict(zip(names, values, strict=True)))
        elapsed, waited = clock.lap()
        self.seconds = clock.seconds
        record = {"step": self.step, "epoch": self.batches.epoch(self.step)}
        record["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        record |= dict(zip(names, values, strict=True))
        pairs = len(recent) * self.config.batch_size
        speed = {"waiting_for_data": waited, "pairs_per_second": pairs / elapsed}
        return record | {"seconds": self.seconds} | speed

    def _finish_record(self, record: dict, validates: bool) -> None:
        """Validate if it is time, write the record, show it to the callbacks."""
        if validates and self.validate:
            with torch.compiler.set_stance("force_eager"):  # other sizes, seldom: not worth it
                record["validation"] = self.validate()
            if not math.isfinite(record["validation"]):  # this step's update has broken the weights
                self._stop_not_finite(self.step, record)
        self.log.append(record)
        distributed.run_on_main(self._write_log)
        if distributed.rank() == 0:
            for callback in self.callbacks:
                callback(self, record)
        self.model.train()

    def _stop_not_finite(self, step: int, values: dict) -> None:
        where = self.run / "not_finite.json"
        about = {name: str(value) for name, value in values.items()}
        about |= {"step": step, "pair_ids": self.batches.pair_ids(step - 1)}
        distributed.run_on_main(lambda: write_json(where, about))
        what = f"the loss, its gradient or a feature is not finite at step {step}"
        advice = f"or start another run with a learning_rate below {self.config.learning_rate}"
        raise TrainingStopped(
            f"{what}; the pairs of that step are in {where}. The last checkpoint is from before: "
            f"look at these pairs, {advice}"
        )

    def _write_log(self) -> None:
        path = self.run / "metrics.jsonl"
        try:
            append_line(path, self.log[-1])
        except OSError as error:
            why = f"{path} could not be written: {error.strerror}"
            raise TrainingStopped(f"{why}; the last checkpoint is whole. {GO_ON}") from error


def make_optimizer(model: nn.Module, config: TrainConfig, device) -> torch.optim.AdamW:
    """Fused AdamW; biases, norms and scalars are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = {"params": [p for p in parameters if p.ndim >= 2]}
    others = {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}
    how = {"lr": config.learning_rate, "betas": config.betas, "weight_decay": config.weight_decay}
    return torch.optim.AdamW([matrices, others], fused=device.type in ("cuda", "cpu"), **how)


def learning_rate(step: int, total: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine to zero, or the same rate to the end."""
    warmup = config.warmup * total
    if step < warmup or config.schedule == "constant":
        return config.learning_rate * min(1.0, (step + 1) / max(1, warmup))
    done = (step - warmup) / max(1, total - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
