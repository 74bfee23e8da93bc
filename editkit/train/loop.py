"""The loop: one for every method and family.

Draw a batch, ask the method for the loss, accumulate, clip, step, average; then log, save, preview, in that order, so that a
failing preview costs nothing. Randomness depends on the seed and the step alone: a resumed run draws what the uninterrupted
one would have drawn.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from editkit.errors import UserError
from editkit.methods.protocol import Batch, Method
from editkit.models.precision import computing
from editkit.models.stored import Bf16Weights
from editkit.progress import progress
from editkit.recipe.schema import Recipe
from editkit.train.ema import WeightAverage
from editkit.train.optim import lr_factor, make_optimizer, set_lr


class Batches(Protocol):
    """Where batches come from (see `editkit.train.batches`)."""

    def take(self, position: int, count: int, generator: torch.Generator) -> Batch: ...


@dataclass(frozen=True, slots=True)
class Hooks:
    """What happens around the loop; each is called between steps."""

    log: Callable[[Mapping[str, Any]], None]
    save: Callable[[int, Mapping[str, Any]], object]
    preview: Callable[[int], None]


class Trainer:
    """Everything with state: the weights, the optimiser, the average, and how far it has come."""

    def __init__(self, recipe: Recipe, method: Method, device: torch.device) -> None:
        self._recipe = recipe
        self._method = method
        self._device = device
        self.step = 0  # optimiser steps done
        self.seconds = 0.0  # spent in steps, over all sessions
        self.stop_requested = False
        self._optimizer = make_optimizer(method.parameter_groups(), recipe.optim)
        if recipe.train.weights != "fp32":
            Bf16Weights(self._optimizer, stochastic=recipe.train.weights == "bf16-stochastic", seed=recipe.seed)
        self._parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        # fp16 has gradients below its smallest number; the loss is scaled so that they are not lost.
        self._scaler = torch.amp.GradScaler(device.type, enabled=recipe.train.precision == "fp16")
        self.average = WeightAverage(method.trainable, recipe.train.ema_decay)

    @property
    def samples(self) -> int:
        """Examples seen; the position in the data."""
        return self.step * self._recipe.train.batch_size * self._recipe.train.accumulate

    def run(self, batches: Batches, hooks: Hooks) -> None:
        """Trains until `train.steps`.

        Raises:
            KeyboardInterrupt: `stop_requested` was set; the step in hand was finished and saved.
        """
        options = self._recipe.train
        window = _Window()
        with progress(options.steps, f"training {self._recipe.name}", done=self.step) as bar:
            while self.step < options.steps:
                started = time.perf_counter()
                logs = self._one_step(batches, window)
                self.step += 1
                window.elapsed += time.perf_counter() - started
                self.seconds += time.perf_counter() - started
                bar.advance(1, loss=f"{window.loss:.4f}", samples_s=f"{window.rate(options.batch_size):.0f}")
                last = self.step == options.steps
                if self.step % options.log_every == 0 or last:
                    hooks.log(self._line(logs, window))
                    window = _Window()
                if self.stop_requested and not last:
                    hooks.save(self.step, self.state_dict())
                    raise KeyboardInterrupt
                if options.save_every and self.step % options.save_every == 0 and not last:
                    hooks.save(self.step, self.state_dict())
                if options.preview_every and self.step % options.preview_every == 0 and not last:
                    self._with_average(hooks.preview)
        hooks.save(self.step, self.state_dict())

    def dry_step(self, batches: Batches) -> None:
        """One step of training, for a dry run."""
        self._one_step(batches, _Window())

    def _one_step(self, batches: Batches, window: _Window) -> dict[str, Any]:
        recipe = self._recipe
        self._method.trainable.train()
        lr = set_lr(self._optimizer, lr_factor(self.step, recipe.train.steps, recipe.optim))
        logs: dict[str, Any] = {"lr": lr}
        for part in range(recipe.train.accumulate):
            generator = torch.Generator().manual_seed(_mix(recipe.seed, self.step, part))
            torch.manual_seed(_mix(recipe.seed + 1, self.step, part))  # dropout layers draw from the global stream
            waited = time.perf_counter()
            batch = batches.take(self.samples + part * recipe.train.batch_size, recipe.train.batch_size, generator)
            window.waited += time.perf_counter() - waited
            with computing(self._device, recipe.train.precision, recipe.train.attention):
                loss = self._method.loss(batch, generator)
            self._scaler.scale(loss.value / recipe.train.accumulate).backward()
            window.add(loss.value.item())
            logs.update({k: float(v) for k, v in loss.logs.items()})
        self._scaler.unscale_(self._optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, recipe.optim.max_grad_norm).item()
        # Under fp16 a gradient may overflow while the scale is being found: the scaler skips that step and lowers it.
        if not math.isfinite(window.last) or not (math.isfinite(norm) or self._scaler.is_enabled()):
            raise UserError(
                f"step {self.step + 1}: the loss is {window.last} and the gradient norm {norm}; the weights were not touched; "
                'resume from the last checkpoint with a lower optim.lr or train.precision = "fp32"'
            )
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self.average.update()
        return {**logs, "grad_norm": norm}

    def _line(self, logs: Mapping[str, Any], window: _Window) -> dict[str, Any]:
        return {
            "kind": "train",
            "step": self.step,
            "samples": self.samples,
            "time_s": round(self.seconds, 3),
            "loss": window.loss,
            **logs,
            "samples_per_s": round(window.rate(self._recipe.train.batch_size), 2),
            "data_wait": round(window.waited / window.elapsed, 4),
        }

    def _with_average(self, action: Callable[[int], None]) -> None:
        self._method.trainable.eval()
        with self.average.applied():
            action(self.step)

    def state_dict(self) -> dict[str, Any]:
        trained = {n: p.detach() for n, p in self._method.trainable.named_parameters() if p.requires_grad}
        return {
            "step": self.step,
            "seconds": self.seconds,
            "weights": trained,
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "average": self.average.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step, self.seconds = state["step"], state["seconds"]
        parameters = dict(self._method.trainable.named_parameters())
        with torch.no_grad():
            for name, value in state["weights"].items():
                parameters[name].copy_(value)
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.average.load_state_dict(state["average"])


class _Window:
    """Figures since the last log line; times are of the steps alone, without what is saved and previewed between them."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self.elapsed = 0.0
        self.waited = 0.0
        self.last = float("nan")

    def add(self, loss: float) -> None:
        self._losses.append(loss)
        self.last = loss

    @property
    def loss(self) -> float:
        return sum(self._losses) / len(self._losses)

    def rate(self, batch_size: int) -> float:
        """Samples a second."""
        return batch_size * len(self._losses) / self.elapsed


def _mix(seed: int, step: int, part: int) -> int:
    """A seed for one forward pass that no other pass shares."""
    return ((seed * 1_000_003 + step) * 1_009 + part) % (2**63)
