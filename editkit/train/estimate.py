"""What a training will take before it begins: peak memory of a device by component, and seconds a step.

Computed: the networks' parameters, gradients, optimiser state, averages, and a pass of the method's own loss over fake
tensors (`editkit.train.tracing`), which gives activations, gradients, operations and their sizes. On the CPU what the C
library keeps of freed memory is replayed (`editkit.train.heap`). Measured: what the interpreter and the libraries take
(`measured.json`), and the machine's speed (`editkit.train.machines`). Left out: the workspaces inside a kernel, the judge
of a preview, and on accelerators the driver's own memory and fragmentation.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Generator, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from editkit.data.buckets import batch_sizes, make_buckets
from editkit.data.draws import Draws
from editkit.data.examples import Dataset
from editkit.data.read import RESIDENT_BYTES, open_dataset
from editkit.methods import method_class
from editkit.methods.protocol import Batch, Method
from editkit.models import family
from editkit.models.precision import choose_device, computing, to_channels_last
from editkit.recipe.load import Source, options
from editkit.recipe.schema import Adapter, Parallel, Recipe
from editkit.train.heap import Heap
from editkit.train.machines import Machine, this_machine
from editkit.train.muon import is_hidden_matrix
from editkit.train.parallel import blocks_of
from editkit.train.tracing import Ledger, Work, gradients, to_fake

MIB, GIB = 2**20, 2**30
MEASURED = Path(__file__).parent / "measured.json"
ENCODE_BATCH = 64  # of `editkit.train.batches`: squares that are encoded at once when the cache is filled
FEW_TEXTS = 16  # for a tokenizer whose vocabulary is counted, not used
MIN_8BIT = 4096  # numbers of a tensor from which on bitsandbytes keeps 8 bits
AVERAGES_POST_HOC = 2
CPU = torch.device("cpu")


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


@dataclass(frozen=True)
class _Traced:
    """What a recipe's networks and one pass of its loss were found to be."""

    weights: dict[str, int]  # "trained float32", "frozen float32" ... -> bytes
    trained: dict[str, nn.Parameter]
    gathered: int  # bytes of the largest unit that a sharded network brings together
    batch: int  # bytes of a prepared batch
    peak: int  # of the pass, above what was there before
    gradients_at_peak: int
    gradients: int
    filling: int  # peak of the encoders' pass
    preview: int
    step_events: list[tuple[Any, int]]
    other_events: dict[str, list[tuple[Any, int]]]
    work: Work


def estimate(
    recipe: Recipe, machine: Machine | None = None, *, source: Source | None = None, dataset: Dataset[Any] | None = None
) -> Estimate:
    """What a recipe takes; draws no random numbers and loads no weights.

    Args:
        recipe: the resolved one.
        machine: None = this one, probed in half a second.
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
    dataset = dataset or open_dataset(recipe.data.train, "train", limit=recipe.data.limit)
    passes: dict[bool, _Traced] = {}  # by whether attention is fused
    changed: dict[bool, list[tuple[str, Recipe, _Traced]]] = {}
    found = []
    for machine in machines:
        fused = machine.device != "cpu"
        traced = passes[fused] if fused in passes else passes.setdefault(fused, _trace(recipe, source, dataset, fused))
        one = _settle(recipe, machine, traced, dataset)
        if not one.fits:
            others = changed[fused] if fused in changed else changed.setdefault(fused, _changed(recipe, source, dataset, fused))
            one = _with_changes(one, recipe, traced, others, dataset)
        found.append(one)
    return found


@contextlib.contextmanager
def _numbers(recipe: Recipe, fused: bool) -> Generator[None, None, None]:
    """The run's autocast and attention; an accelerator has a fused kernel, whose saved tensors are those of the CPU's own."""
    kernel = sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]) if fused else contextlib.nullcontext()
    with computing(CPU, recipe.train.precision), kernel:
        yield


def _trace(recipe: Recipe, source: Source | None, dataset: Dataset[Any], fused: bool) -> _Traced:
    example = dataset[0]
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    networks, kind = family(recipe.model.family), method_class(recipe.method.name)
    texts = [t for i in range(min(FEW_TEXTS, len(dataset))) for t in _texts(dataset[i])]
    with init_empty_weights(include_buffers=True):
        model_options = options(recipe.model, networks.Options, "model", source)
        parts = networks.load(recipe.model.base, model_options, lambda: texts, weights=False)
        method: Method = kind(recipe, options(recipe.method, kind.Options, "method", source), parts)
    modules = {id(m): m for m in (*parts.modules.values(), method.trainable, *method.frozen_encoders.values())}
    if recipe.train.channels_last:
        for module in parts.modules.values():
            to_channels_last(module)
    to_fake(modules.values(), mode)
    pictures = len(method.pictures_of(example))
    targets = method.targets_of(example)
    width, height, count = _largest_batch(recipe)

    def batch_of(number: int) -> tuple[Batch, Ledger]:
        with mode, _numbers(recipe, fused), torch.no_grad():
            pixels = torch.empty(number, pictures, 3, height, width, dtype=torch.uint8)
            with Ledger([pixels]) as ledger:
                batch = method.encode(pixels)
        rows = {name: torch.stack([target] * number) for name, target in targets.items()}
        return {**batch, **rows, "text": [method.texts_of(example)[0]] * number}, ledger

    squares = max(1, ENCODE_BATCH * recipe.data.resolution**2 // (width * height))
    _, filling = batch_of(squares)
    batch, encoding = batch_of(count)
    tensors = [t for t in batch.values() if isinstance(t, torch.Tensor)]
    draws = Draws(recipe.seed, range(count))
    method.trainable.train()
    with mode, Ledger(tensors) as ledger:
        with _numbers(recipe, fused):
            loss = method.loss(batch, draws)
            loss.value.backward()
        del loss
        grads = list(gradients(method.trainable))
        most, of_grads = ledger.at_peak(grads)
        nbytes = sum(g.nbytes for g in grads)
        work = ledger.work() if recipe.data.cache_latents else ledger.work() + encoding.work()
        for p in method.trainable.parameters():
            p.grad = None
        del grads
    preview = Ledger()
    rehearse = getattr(method, "rehearse_preview", None)
    if rehearse is not None:
        sampled = min(recipe.evaluate.batch_size, max(24, recipe.evaluate.pairs, recipe.evaluate.preview_pairs))
        shown, _ = batch_of(sampled)
        method.trainable.eval()
        with mode, _numbers(recipe, fused), torch.no_grad(), preview:
            rehearse(shown)
    trained = {n: p for n, p in method.trainable.named_parameters() if p.requires_grad}
    return _Traced(
        _weights(modules.values()), trained, _gathered(method.trainable), sum(t.nbytes for t in tensors), most, of_grads,
        nbytes, filling.peak, preview.peak, ledger.events,
        {"filling": filling.events, "preview": preview.events}, work,
    )  # fmt: skip


def _texts(example: Any) -> Sequence[str]:
    return getattr(example, "captions", None) or example.instructions


def _largest_batch(recipe: Recipe) -> tuple[int, int, int]:
    """Width, height and examples of the batch with the most pixels."""
    table = [(recipe.data.resolution, recipe.data.resolution)]
    if (buckets := recipe.data.buckets) is not None:
        table = make_buckets(buckets.sides, buckets.step, buckets.max_aspect)
    sizes = batch_sizes(table, recipe.data.resolution, recipe.train.batch_size)
    best = max(range(len(table)), key=lambda i: table[i][0] * table[i][1] * sizes[i])
    return (*table[best], sizes[best])


def _weights(modules: Iterable[nn.Module]) -> dict[str, int]:
    found: dict[str, int] = {}
    seen: set[int] = set()
    for tensor in (t for m in modules for t in (*m.parameters(), *m.buffers())):
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        name = f"{'trained' if tensor.requires_grad else 'frozen'} {str(tensor.dtype).removeprefix('torch.')}"
        found[name] = found.get(name, 0) + tensor.nbytes
    return found


def _gathered(trainable: nn.Module) -> int:
    """Two units at once, the one that computes and the one that is fetched meanwhile; what is in no block is one unit."""
    sizes = []
    for network in trainable.children() if isinstance(trainable, nn.ModuleDict) else [trainable]:
        blocks = [sum(p.nbytes for p in b.parameters()) for b in blocks_of(network)]
        sizes += [*blocks, sum(p.nbytes for p in network.parameters()) - sum(blocks)]
    return sum(sorted(sizes)[-2:])


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


def _settle(recipe: Recipe, machine: Machine, traced: _Traced, dataset: Dataset[Any]) -> Estimate:
    shards = _shards(recipe.parallel) if recipe.parallel.processes > 1 else 1
    decays = recipe.train.ema_decay if isinstance(recipe.train.ema_decay, list) else [recipe.train.ema_decay]
    averages = sum(bool(d) for d in decays)
    one = sum(4 * p.numel() for p in traced.trained.values()) // shards
    state = optimizer_bytes(recipe.optim.name, traced.trained) // shards
    ahead = (recipe.data.ahead + 1 if recipe.data.workers else 1) + 1  # and the one in hand
    parts = [Component(f"weights, {n}", b // (shards if "trained" in n else 1), "computed") for n, b in traced.weights.items()]
    parts += [
        Component(f"optimiser state, {recipe.optim.name}", state, "computed"),
        Component(f"EMA averages ({averages})", averages * one, "computed"),
        Component("post-hoc averages", AVERAGES_POST_HOC * one * recipe.train.post_hoc_ema, "computed"),
        Component(f"batches in hand ({ahead})", ahead * traced.batch, "computed"),
    ]
    if recipe.parallel.processes > 1:
        extra = traced.gradients if recipe.parallel.layout == "ddp" else traced.gathered
        parts.append(Component("gradient buckets" if recipe.parallel.layout == "ddp" else "gathered blocks", extra, "computed"))
    if machine.device == "cpu":
        parts += [
            Component("interpreter and libraries", _measured("libraries_MiB"), "measured"),
            Component("what they add when first used, and kernels' workspaces", _measured("first_use_MiB"), "calibrated"),
            Component("rows of the data set", _resident_rows(dataset), "computed"),
        ]
    there = sum(c.bytes for c in parts)
    grads = traced.gradients // shards
    at_peak = traced.gradients_at_peak // shards
    copy = one if recipe.optim.name == "schedule_free" else 0
    phases = {
        "filling the cache": there - state + traced.filling,
        "forward and backward": there + traced.peak - traced.gradients_at_peak + at_peak,
        "update": there + grads,
        "preview": there + copy + traced.preview,
    }
    kept = 0
    if machine.device == "cpu":
        heap, after = _replay(traced, state)
        kept = max(0, heap - (traced.peak + state))
        phases["forward and backward"] += kept
        phases["preview"] = max(phases["preview"], there + copy + after - state)
    parts += [
        Component("gradients", at_peak, "computed"),
        Component("activations and their working copies", traced.peak - traced.gradients_at_peak, "computed"),
        Component("freed memory that malloc keeps", kept, "computed"),
    ]
    worst = max(phases.values())
    rest = worst - sum(c.bytes for c in parts)
    if rest > 0:
        parts.append(Component(f"more at the peak of {max(phases, key=lambda n: phases[n])}", rest, "computed"))
    seconds = _seconds(recipe, machine, traced, averages + AVERAGES_POST_HOC * recipe.train.post_hoc_ema, state)
    shown = [c for c in parts if c.bytes]
    return Estimate(machine, recipe.parallel.processes, shown, phases, seconds, recipe.train.steps)


def _replay(traced: _Traced, state: int) -> tuple[int, int]:
    """Resident bytes of two steps with the optimiser's state made between them, and of the preview behind them."""
    heap = Heap()
    heap.replay((("filling", n), b) for n, b in traced.other_events["filling"])
    left = _names_left(traced.other_events["filling"])
    for name in left:
        heap.release(("filling", name))
    for step in (0, 1):
        heap.replay(((step, n), b) for n, b in traced.step_events)
        if step == 0:
            size = sum(p.numel() for p in traced.trained.values())
            for number, p in enumerate(traced.trained.values()):
                for half in (0, 1):
                    heap.allocate(("state", number, half), state * p.numel() // size // 2)
        for name in _names_left(traced.step_events):
            heap.release((step, name))
    peak = heap.peak
    heap.peak = 0
    heap.replay((("preview", n), b) for n, b in traced.other_events["preview"])
    return peak, heap.peak


def _names_left(events: Iterable[tuple[Any, int]]) -> list[Any]:
    alive: dict[Any, None] = {}
    for name, nbytes in events:
        if nbytes > 0:
            alive[name] = None
        else:
            del alive[name]
    return list(alive)


def _measured(what: str) -> int:
    return int(json.loads(MEASURED.read_text(encoding="utf-8"))[what] * MIB)


def _resident_rows(dataset: Dataset[Any]) -> int:
    groups = getattr(dataset, "_groups", [])
    return min(sum(g.nbytes for g in groups), RESIDENT_BYTES)


def _seconds(recipe: Recipe, machine: Machine, traced: _Traced, averages: int, state: int) -> float:
    work = traced.work
    computing_s = sum(flops / machine.flops.get(kind, machine.flops["float32"]) for kind, flops in work.flops.items())
    a_pass = computing_s + work.moved / machine.bandwidth + work.operations * machine.overhead
    numbers = sum(p.numel() for p in traced.trained.values())
    update = 12 * numbers + 2 * state + 12 * averages * numbers  # gradient read, weight read and written; state; averages
    return recipe.train.accumulate * a_pass + update / machine.bandwidth


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _changed(recipe: Recipe, source: Source | None, dataset: Any, fused: bool) -> list[tuple[str, Recipe, _Traced]]:
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
    return [(setting, other, _trace(other, source, dataset, fused)) for setting, v in tried for other in [_with(recipe, **v)]]


def _with(section: Any, **values: Any) -> Any:
    return section.model_copy(update=values)


def _with_changes(
    one: Estimate, recipe: Recipe, traced: _Traced, changed: Sequence[tuple[str, Recipe, _Traced]], dataset: Any
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
