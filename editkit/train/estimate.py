"""What a training will take before it begins: peak memory of a device by component, and seconds a step.

Computed: the networks' parameters, gradients, optimiser state, averages, and a pass of the method's own loss over fake
tensors (`editkit.train.rehearsal`), which gives activations, gradients, operations and their sizes. On the CPU what the C
library keeps of freed memory is replayed (`editkit.train.heap`). Measured: what the interpreter and the libraries take
(`measured.json`), and the machine's speed (`editkit.train.machines`). Calibrated on measured rows: what libraries add when they
are first used, the workspaces of kernels, and what a preview takes beyond its networks. Left out on accelerators: the
workspaces, the driver's own memory and fragmentation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from torch import nn

from editkit.data.choose import open_chosen
from editkit.data.examples import Dataset
from editkit.data.read import RESIDENT_BYTES
from editkit.models.precision import choose_device
from editkit.recipe.load import Source
from editkit.recipe.schema import Adapter, Parallel, Recipe
from editkit.train.heap import Heap
from editkit.train.machines import Machine, this_machine
from editkit.train.muon import is_hidden_matrix
from editkit.train.rehearsal import Rehearsal, rehearse

MIB, GIB = 2**20, 2**30
MEASURED = Path(__file__).parent / "measured.json"
MIN_8BIT = 4096  # numbers of a tensor from which on bitsandbytes keeps 8 bits
AVERAGES_POST_HOC = 2


@dataclass(frozen=True, slots=True)
class Component:
    """A part of the peak: its bytes on one device, and how they are known."""

    name: str
    bytes: int
    how: str


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that would lower the peak, and the bytes that it saves on one device."""

    setting: str
    saves: int


@dataclass(frozen=True)
class Estimate:
    """What a run will take of each of `processes` devices; bytes and seconds."""

    machine: Machine
    processes: int
    components: Sequence[Component]
    phases: dict[str, int]  # peak of each
    seconds_a_step: float
    steps: int
    changes: Sequence[Change] = ()

    @property
    def peak(self) -> int:
        """Bytes of one device at the worst moment."""
        return max(self.phases.values())

    @property
    def fits(self) -> bool:
        """Whether the devices have that much; processes on CPUs share one memory."""
        return self.peak * (self.processes if self.machine.device == "cpu" else 1) <= self.machine.memory

    def line(self, done: int = 0) -> str:
        """What `editkit train` says before long work, with `done` steps behind it."""
        left = self.seconds_a_step * (self.steps - done)
        end = datetime.now() + timedelta(seconds=left)
        long = end.date() != datetime.now().date()
        text = (
            f"expected: {self.peak / GIB:.2f} GiB at the peak{' of each process' if self.processes > 1 else ''}, "
            f"{_duration(self.seconds_a_step)} a step, about {_duration(left)} of steps, "
            f"until {end:{'%a %d %b %H:%M' if long else '%H:%M'}}"
        )
        if not self.fits:
            has = f"{self.machine.name} has {self.machine.memory / GIB:.1f} GiB"
            text += f"\nWARNING: this will not fit: {has}; editkit check says what to change"
        return text

    def as_dict(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        return {**asdict(self), "peak": self.peak, "fits": self.fits}


def estimate(
    recipe: Recipe, machine: Machine | None = None, *, source: Source | None = None, dataset: Dataset[Any] | None = None
) -> Estimate:
    """What a recipe takes; draws no random numbers and loads no weights.

    Args:
        recipe: the resolved one.
        machine: None = this one, which is probed.
        source: where the recipe was written, for messages.
        dataset: its training examples, where they are open already.

    Raises:
        UserError: the data or the base's configuration is not there.
    """
    return estimates(recipe, [machine or this_machine(choose_device())], source=source, dataset=dataset)[0]


def estimates(
    recipe: Recipe, machines: Iterable[Machine], *, source: Source | None = None, dataset: Dataset[Any] | None = None
) -> list[Estimate]:
    """The same for several machines from one pass; where it does not fit, with what to change, best first."""
    dataset = dataset or open_chosen(recipe.data, recipe.data.train, "train")
    passes: dict[bool, Rehearsal] = {}  # by whether attention is fused
    changed: dict[bool, list[tuple[str, Recipe, Rehearsal]]] = {}
    found = []
    for machine in machines:
        fused = machine.device != "cpu"
        traced = passes[fused] if fused in passes else passes.setdefault(fused, rehearse(recipe, source, dataset, fused))
        one = _settle(recipe, machine, traced, dataset)
        if not one.fits:
            others = changed[fused] if fused in changed else changed.setdefault(fused, _changed(recipe, source, dataset, fused))
            one = _with_changes(one, recipe, traced, others, dataset)
        found.append(one)
    return found


def optimizer_bytes(name: str, trained: dict[str, nn.Parameter]) -> int:
    """What an optimiser keeps of each parameter behind its first step, for all of them."""
    total = 0
    for key, p in trained.items():
        each = {"adamw": 8.0, "adamw8bit": 8.0, "prodigy": 16.0, "schedule_free": 8.0, "muon": 8.0}[name]
        if name == "adamw8bit" and p.numel() >= MIN_8BIT:
            each = 2 + 8 / 256  # two moments, and the scale of each block of 256
        if name == "muon" and is_hidden_matrix(key, p):
            each = 4.0
        total += math.ceil(each * p.numel())
    return total


def _shards(parallel: Parallel) -> int:
    return {"ddp": 1, "fsdp": parallel.processes, "hsdp": parallel.shard}[parallel.layout]


def _settle(recipe: Recipe, machine: Machine, found: Rehearsal, dataset: Dataset[Any]) -> Estimate:
    shards = _shards(recipe.parallel) if recipe.parallel.processes > 1 else 1
    decays = recipe.train.ema_decay if isinstance(recipe.train.ema_decay, list) else [recipe.train.ema_decay]
    averages = sum(bool(d) for d in decays)
    one = sum(4 * p.numel() for p in found.trained.values()) // shards
    state = optimizer_bytes(recipe.optim.name, found.trained) // shards
    ahead = (recipe.data.ahead + 1 if recipe.data.workers else 1) + 1  # and the one in hand
    parts = [Component(f"weights, {n}", b // (shards if "trained" in n else 1), "computed") for n, b in found.weights.items()]
    parts += [
        Component(f"EMA averages ({averages})", averages * one, "computed"),
        Component("post-hoc averages", AVERAGES_POST_HOC * one * recipe.train.post_hoc_ema, "computed"),
        Component(f"batches in hand ({ahead})", ahead * found.batch, "computed"),
    ]
    if recipe.parallel.processes > 1:
        extra = found.gradients if recipe.parallel.layout == "ddp" else found.gathered
        parts.append(Component("gradient buckets" if recipe.parallel.layout == "ddp" else "gathered blocks", extra, "computed"))
    if machine.device == "cpu":
        parts += [
            Component("interpreter and libraries", int(MIB * _measured("libraries_MiB", recipe.model.family)), "measured"),
            Component("what they add when first used", int(MIB * _measured("first_use_MiB")), "calibrated"),
            Component("rows of the data set", _resident_rows(dataset), "computed"),
        ]
    there = sum(c.bytes for c in parts)
    grads, at_peak = found.gradients // shards, found.gradients_at_peak // shards
    activations = found.peak - found.gradients_at_peak
    copy = one if recipe.optim.name == "schedule_free" else 0
    kept = workspaces = 0
    if machine.device == "cpu":
        filled, stepped = _replay(found, state)
        kept = max(0, stepped - state - at_peak - activations)
        workspaces = int(activations * _measured("workspace_share", calibrated_as(recipe)))
        sampling = int(MIB * _measured("preview_MiB", recipe.train.precision)) if found.preview else 0
        phases = {
            "filling the cache": there + filled,
            "forward and backward": there - found.resting + stepped + workspaces,
            "preview": there + copy + state + found.preview + sampling,
        }
    else:
        phases = {
            "filling the cache": there + found.filling,
            "forward and backward": there - found.resting + state + activations + at_peak,
            "update": there - found.resting + state + grads,
            "preview": there + state + copy + found.preview,
        }
    parts += [
        Component(f"optimiser state, {recipe.optim.name}", state, "computed"),
        Component("gradients", at_peak, "computed"),
        Component("activations and their working copies", activations, "computed"),
        Component("freed memory that malloc keeps", kept, "computed"),
        Component("workspaces of the kernels", workspaces, "calibrated"),
        Component("encoders, parked behind the cache", -found.resting, "computed"),
    ]
    worst = max(phases, key=lambda name: phases[name])
    parts.append(Component(f"other at the peak, in {worst}", phases[worst] - sum(c.bytes for c in parts), "computed"))
    seconds = _seconds(recipe, machine, found, averages + AVERAGES_POST_HOC * recipe.train.post_hoc_ema, state)
    shown_parts = [c for c in parts if c.bytes]
    return Estimate(machine, recipe.parallel.processes, shown_parts, phases, seconds, recipe.train.steps)


def _replay(found: Rehearsal, state: int) -> tuple[int, int]:
    """Bytes that the heap grows to: in the filling, and in two steps between which the state is made.

    Between these the freed memory is given back.
    """
    numbers = sum(p.numel() for p in found.trained.values())
    filling, steps = Heap(), Heap()
    filling.replay(found.events["filling"])
    steps.replay(((0, n), b) for n, b in found.events["step"])
    for name, p in found.trained.items():
        for half in (0, 1):
            steps.allocate(("state", name, half), state * p.numel() // numbers // 2)
    steps.replay(((1, n), b) for n, b in found.events["step"])
    return filling.peak, steps.peak


def _measured(what: str, of: str = "other") -> float:
    """A calibrated figure; that of "other" where there is none of its own."""
    known = json.loads(MEASURED.read_text(encoding="utf-8"))[what]
    return known.get(of, known["other"])


def calibrated_as(recipe: Recipe) -> str:
    """The name under which the share of the kernels' workspaces is kept."""
    return recipe.method.name + (" with an adapter" if recipe.adapter is not None else "")


def _resident_rows(dataset: Dataset[Any]) -> int:
    groups = getattr(dataset, "_groups", [])
    return min(sum(g.nbytes for g in groups), RESIDENT_BYTES)


def _seconds(recipe: Recipe, machine: Machine, found: Rehearsal, averages: int, state: int) -> float:
    work = found.work
    computing_s = sum(flops / machine.flops.get(kind, machine.flops["float32"]) for kind, flops in work.flops.items())
    a_pass = computing_s + work.moved / machine.bandwidth + work.operations * machine.overhead
    numbers = sum(p.numel() for p in found.trained.values())
    update = 12 * numbers + 2 * state + 12 * averages * numbers  # gradient read, weight read and written; state; averages
    return recipe.train.accumulate * a_pass + update / machine.bandwidth


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _changed(recipe: Recipe, source: Source | None, dataset: Any, fused: bool) -> list[tuple[str, Recipe, Rehearsal]]:
    """Recipes whose pass takes less, with that pass."""
    train = recipe.train
    tried: list[tuple[str, dict[str, Any]]] = []
    if train.batch_size > 1:
        half, more = train.batch_size // 2, train.accumulate * 2
        tried.append(
            (f"train.batch_size = {half}, accumulate = {more}", {"train": _with(train, batch_size=half, accumulate=more)})
        )
    if not train.gradient_checkpointing:
        tried.append(("train.gradient_checkpointing = true", {"train": _with(train, gradient_checkpointing=True)}))
    if recipe.adapter is None:
        tried.append(('an [adapter], such as name = "lora"', {"adapter": Adapter()}))
    return [(setting, other, rehearse(other, source, dataset, fused)) for setting, v in tried for other in [_with(recipe, **v)]]


def _with(section: Any, **values: Any) -> Any:
    return section.model_copy(update=values)


def _with_changes(
    one: Estimate, recipe: Recipe, traced: Rehearsal, changed: Sequence[tuple[str, Recipe, Rehearsal]], dataset: Any
) -> Estimate:
    """The estimate with what would lower its peak, the largest saving first."""
    tried = list(changed)
    if recipe.optim.name != "adamw8bit":
        other = _with(recipe, optim=_with(recipe.optim, name="adamw8bit", momentum=0.95))
        tried.append(('optim.name = "adamw8bit"', other, traced))
    if recipe.train.ema_decay not in (0.0, []):
        tried.append(("train.ema_decay = 0.0", _with(recipe, train=_with(recipe.train, ema_decay=0.0)), traced))
    if recipe.train.post_hoc_ema:
        tried.append(("train.post_hoc_ema = false", _with(recipe, train=_with(recipe.train, post_hoc_ema=False)), traced))
    if one.machine.device == "cuda" and recipe.parallel.layout == "ddp":
        count = max(4, recipe.parallel.processes)
        parallel = _with(recipe.parallel, processes=count, layout="fsdp")
        tried.append((f'parallel.layout = "fsdp" over {count} processes', _with(recipe, parallel=parallel), traced))
    saved = [Change(s, one.peak - _settle(other, one.machine, t, dataset).peak) for s, other, t in tried]
    return replace(one, changes=sorted((c for c in saved if c.saves > 0), key=lambda c: -c.saves))
