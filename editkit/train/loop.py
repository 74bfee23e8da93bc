"""The loop: one for every method and family, one process or many.

Draw a batch, ask the method for the loss, accumulate, clip, step, average; then log, save, preview, in that order, so that a
failing preview costs nothing. Randomness depends on the seed, the step and the example alone: a resumed run draws what the
uninterrupted one would have drawn.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from editkit.errors import UserError
from editkit.methods.protocol import Method
from editkit.models.precision import computing
from editkit.models.stored import Bf16Weights
from editkit.progress import progress
from editkit.recipe.schema import Recipe
from editkit.train import state
from editkit.train.batches import Taken
from editkit.train.checkpoint import Place
from editkit.train.ema import PostHocAverage, WeightAverage
from editkit.train.optim import evaluating, lr_factor, make_optimizer, set_lr
from editkit.train.parallel import Layout

SPIKE_HISTORY = 50  # gradient norms whose median is what is usual
POST_HOC = "post hoc "  # before the name of an average that is kept for `editkit.train.post_hoc`


class Batches(Protocol):
    """Where batches come from (see `editkit.train.batches`)."""

    def take(self) -> Taken: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Hooks:
    """What happens around the loop; each is called between steps.

    Attributes:
        log: takes a line of figures that depend on the recipe alone.
        pace: takes a line of figures that depend on the machine: seconds, rates, memory.
        save: takes the step and the state.
        preview: takes the step.
        failed: takes what went wrong and the batches of that step.
        rolled_back: brings back the last checkpoint's state.
        snapshot: takes the averages from which others are made after the training.
    """

    log: Callable[[Mapping[str, Any]], None]
    pace: Callable[[Mapping[str, Any]], None]
    save: Callable[[int, Mapping[str, Any]], object]
    preview: Callable[[int], None]
    failed: Callable[[Mapping[str, Any], Sequence[Taken]], None]
    rolled_back: Callable[[], Mapping[str, Any]]
    snapshot: Callable[[PostHocAverage], None]


class Trainer:
    """Everything with state: the weights, the optimiser, the averages, the place in the data, and how far it has come."""

    def __init__(self, recipe: Recipe, method: Method, batches: Batches, device: torch.device, layout: Layout) -> None:
        self._recipe = recipe
        self._method = method
        self._batches = batches
        self._device = device
        self._layout = layout
        self.step = 0  # optimiser steps done
        self.samples = 0  # examples seen by all processes
        self.seconds = 0.0  # spent in steps, over all sessions
        self.stop_requested = False
        self._skip: set[int] = set()  # steps whose batch is passed over, since it led to numbers that are not finite
        self._norms: list[float] = []
        layout.shard(method)
        named = dict(method.trainable.named_parameters())
        pretrained = bool(recipe.model.base) and recipe.adapter is None
        self._optimizer = make_optimizer(method.parameter_groups(), recipe.optim, named, pretrained=pretrained)
        if recipe.train.weights != "fp32":
            Bf16Weights(self._optimizer, stochastic=recipe.train.weights == "bf16-stochastic", seed=recipe.seed)
        self._parameters = [p for group in self._optimizer.param_groups for p in group["params"] if p.requires_grad]
        # fp16 has gradients below its smallest number; the loss is scaled so that they are not lost.
        self._scaler = torch.amp.GradScaler(device.type, enabled=recipe.train.precision == "fp16")
        self._average = WeightAverage(method.trainable, recipe.train.ema_decay)
        self._post_hoc = PostHocAverage(method.trainable) if recipe.train.post_hoc_ema else None
        self._window = _Window()

    def run(self, hooks: Hooks) -> None:
        """Trains until `train.steps`.

        Raises:
            KeyboardInterrupt: `stop_requested` was set; the step in hand was finished and saved.
        """
        options = self._recipe.train
        with progress(options.steps, f"training {self._recipe.name}", done=self.step) as bar:
            if self.step:  # resumed behind a save; whether its preview was made before the kill nobody knows
                self._show(hooks)
            while self.step < options.steps:
                before, started = self.step, time.perf_counter()
                logs = self._one_step(hooks)
                if self.step <= before:  # rolled back
                    bar.advance(self.step - before)
                    continue
                self._window.elapsed += time.perf_counter() - started
                self.seconds += time.perf_counter() - started
                bar.advance(1, loss=f"{self._window.means.get('loss', math.nan):.4f}", samples_s=f"{self._window.rate:.0f}")
                last = self.step == options.steps
                if self.step % options.log_every == 0 or last:
                    self._write_lines(hooks, logs)
                stopping = self._layout.any(self.stop_requested) and not last
                if stopping or last or (options.save_every and self.step % options.save_every == 0):
                    hooks.save(self.step, self.state_dict())
                if stopping:
                    raise KeyboardInterrupt
                self._show(hooks)

    def _show(self, hooks: Hooks) -> None:
        every, steps = self._recipe.train.preview_every, self._recipe.train.steps
        if every and self.step % every == 0 and self.step < steps:
            with self.shown():
                hooks.preview(self.step)

    def dry_step(self) -> None:
        """One step of training, for a dry run."""
        self._one_step(None)

    def _one_step(self, hooks: Hooks | None) -> dict[str, Any]:
        """One optimiser step; `step` and `samples` move on."""
        options = self._recipe.train
        self._method.trainable.train()
        lr = set_lr(self._optimizer, lr_factor(self.step, options.steps, self._recipe.optim))
        taken = []
        parts = []
        for part in range(options.accumulate):
            taken.append(self._batches.take())
            self._window.waited += taken[-1].waited
            self._seed_dropout(part)
            last = part == options.accumulate - 1
            numbers = computing(self._device, options.precision, options.attention)
            with self._layout.gradients(synchronise=last), numbers:
                loss = self._method.loss(taken[-1].batch, taken[-1].draws)
                self._scaler.scale(loss.value / options.accumulate).backward()
            parts.append({"loss": loss.value.detach(), **loss.logs})
        self._scaler.unscale_(self._optimizer)
        norm = self._layout.clip(self._parameters, self._recipe.optim.max_grad_norm)
        figures = self._layout.mean(parts, norm)
        self.samples += sum(t.samples for t in taken)
        wrong = self._what_is_wrong(figures["loss"], norm)
        passed_over = wrong is not None or self.step in self._skip
        self._window.add({} if passed_over else figures, sum(t.samples for t in taken))
        if wrong is None:
            self._update(hooks)
        elif hooks is None:
            raise UserError(f"the first step cannot be taken: {wrong}")
        else:
            self._handle(wrong, taken, hooks)
        self.step += 1
        return {"lr": lr, **({"grad_norm": norm} if math.isfinite(norm) else {})}  # JSON has no other numbers

    def _seed_dropout(self, part: int) -> None:
        """Dropout layers draw from the device's global stream."""
        seed = _mix(self._recipe.seed, self.step, part * self._layout.world + self._layout.rank)
        if self._device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # torch.manual_seed looks for every other device, each time
        else:
            torch.manual_seed(seed)

    def _update(self, hooks: Hooks | None) -> None:
        if self.step not in self._skip:
            self._scaler.step(self._optimizer)
            self._average.update()
            if self._post_hoc is not None:
                self._post_hoc.update()
                if hooks is not None and self._post_hoc.snapshot_due(self.step + 1, self._recipe.train.steps):
                    hooks.snapshot(self._post_hoc)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)

    def _what_is_wrong(self, loss: float, norm: float) -> str | None:
        """A reason not to touch the weights."""
        if self.step in self._skip:
            return None
        # Under fp16 a gradient may overflow while the scale is being found: the scaler skips that step and lowers it.
        if not math.isfinite(loss) or not (math.isfinite(norm) or self._scaler.is_enabled()):
            return f"the loss is {loss:g} and the gradient norm {norm:g}"
        factor = self._recipe.train.spike_factor
        if factor and len(self._norms) == SPIKE_HISTORY and norm > factor * statistics.median(self._norms):
            return f"the gradient norm is {norm:g}, {norm / statistics.median(self._norms):.0f} times the usual"
        self._norms = [*self._norms[1 - SPIKE_HISTORY :], norm]
        return None

    def _handle(self, wrong: str, taken: Sequence[Taken], hooks: Hooks) -> None:
        """Keeps the weights as they are, writes down what led there, and does what the recipe says."""
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        step, action = self.step + 1, self._recipe.train.on_nonfinite
        hooks.failed({"step": step, "why": wrong, "action": action}, taken)
        if action == "stop":
            raise UserError(
                f"step {step}: {wrong}; the weights were not touched, the batch is in the run under failures/; resume with "
                'train.on_nonfinite = "skip" or "rollback", or start again with a lower optim.lr or train.precision = "fp32"'
            )
        if action == "rollback":
            skipped = self._skip | {self.step}
            self.load_state_dict(hooks.rolled_back())
            self._skip |= skipped
            self.step -= 1  # the step counter moves on behind every step

    def _write_lines(self, hooks: Hooks, logs: Mapping[str, Any]) -> None:
        where = {"kind": "train", "step": self.step}
        hooks.log({**where, "samples": self.samples, **self._window.means, **logs})
        hooks.pace(
            {
                **where,
                "time_s": round(self.seconds, 3),
                "samples_per_s": round(self._window.rate, 2),
                "data_wait": round(self._window.waited / self._window.elapsed, 4),
            }
        )
        self._window = _Window()

    @contextlib.contextmanager
    def shown(self, average: Mapping[str, torch.Tensor] | None = None) -> Generator[None, None, None]:
        """Puts the weights to look at and to export in place while the block runs.

        Args:
            average: one by parameter name; None = the first of `train.ema_decay`, or the weights where there is none.
        """
        training = self._method.trainable.training
        self._method.trainable.eval()
        try:
            with evaluating(self._optimizer), self._average.applied(average):
                yield
        finally:
            self._method.trainable.train(training)

    def _averages(self) -> dict[str, Mapping[str, torch.Tensor]]:
        kept = dict(self._average.state_dict()["averages"])
        if self._post_hoc is not None:
            kept |= {POST_HOC + sigma: a for sigma, a in self._post_hoc.state_dict()["averages"].items()}
        return kept

    def state_dict(self) -> dict[str, Any]:
        return {
            **state.capture(self._method.trainable, self._optimizer, self._averages()),
            "step": self.step,
            "samples": self.samples,
            "seconds": self.seconds,
            "updates": self._average.state_dict()["updates"],
            "post_hoc_updates": self._post_hoc.state_dict()["updates"] if self._post_hoc is not None else 0,
            "scaler": self._scaler.state_dict(),
            "batches": self._batches.state_dict(),
            "window": self._window.state_dict(),
            "norms": list(self._norms),
            "skip": sorted(self._skip),
        }

    def places(self) -> Place:
        """Where a checkpoint's tensors are loaded to."""
        return state.places(self._method.trainable, self._optimizer, self._averages())

    def load_state_dict(self, saved: Mapping[str, Any], released: frozenset[str] = frozenset()) -> None:
        """Goes on from a state.

        Args:
            saved: what `state_dict` gave.
            released: options of the optimiser that stay as the recipe says now.
        """
        state.restore(saved, self._method.trainable, self._optimizer, self._averages(), released)
        self.step, self.samples, self.seconds = saved["step"], saved["samples"], saved["seconds"]
        self._average.load_state_dict({"updates": saved["updates"], "averages": self._average.state_dict()["averages"]})
        if self._post_hoc is not None:
            self._post_hoc.load_state_dict(
                {"updates": saved["post_hoc_updates"], "averages": self._post_hoc.state_dict()["averages"]}
            )
        self._scaler.load_state_dict(saved["scaler"])
        self._batches.load_state_dict(saved["batches"])
        self._window = _Window()
        self._window.load_state_dict(saved["window"])
        self._norms = list(saved["norms"])
        self._skip = set(saved["skip"])


class _Window:
    """Figures since the last log line; times are of the steps alone, without what is saved and previewed between them."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}  # name -> [sum, number of steps]
        self._samples = 0
        self.elapsed = 0.0
        self.waited = 0.0

    def add(self, figures: Mapping[str, float], samples: int) -> None:
        for name, value in figures.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = [total + value, count + 1]
        self._samples += samples

    @property
    def means(self) -> dict[str, float]:
        return {name: total / count for name, (total, count) in self._sums.items()}

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self._samples / self.elapsed

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self._sums, "samples": self._samples, "elapsed": self.elapsed, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sums, self._samples = dict(state["sums"]), state["samples"]
        self.elapsed, self.waited = state["elapsed"], state["waited"]


def _mix(seed: int, step: int, part: int) -> int:
    """A seed for one forward pass that no other pass shares."""
    return ((seed * 1_000_003 + step) * 1_009 + part) % (2**63)
