"""One pass of a recipe's training over fake tensors: what its networks are, and what memory and work the pass takes.

The networks are made on the meta device from the base's configurations, prepared as a run prepares them, and then taken through
filling the cache, a step and the middle of a preview (`editkit.train.tracing`). A base in fewer bits is rehearsed in bf16,
into which its kernels unpack it layer by layer, and counted by the bytes that a number takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from editkit.data.buckets import batch_sizes, make_buckets
from editkit.data.draws import Draws
from editkit.data.examples import Dataset, all_texts
from editkit.methods import method_class
from editkit.methods.protocol import Batch, Method, collate
from editkit.models import family
from editkit.models.networks import trained_networks
from editkit.models.precision import checkpoint_gradients, computing, to_channels_last
from editkit.models.stored import store_in_bf16
from editkit.recipe.load import Source, options
from editkit.recipe.schema import Recipe
from editkit.train.batches import encoded_at_once
from editkit.train.parallel import blocks_of
from editkit.train.tracing import Events, Ledger, Work, to_fake

FEW_TEXTS = 16  # for a tokenizer whose vocabulary is counted, not used
# Of one number of a linear layer, with the scales of its blocks: of 64 numbers (nf4, one fp32), of a row (a few bits).
BYTES_A_NUMBER = {"nf4": 0.5 + 4 / 64, "int8": 1.0, "fp8": 1.0}
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Rehearsal:
    """What a recipe's networks and one pass of its loss were found to be; all sizes in bytes.

    Attributes:
        weights: "trained float32", "frozen float32", "frozen nf4" ... -> bytes.
        trained: the trained parameters by name.
        resting: of the encoders that are parked behind filled caches.
        gathered: of the largest units that a sharded network brings together.
        batch: of a prepared batch.
        peak: of the pass, above what was there before.
        gradients_at_peak, gradients: of the trained parameters, at that moment and behind the pass.
        filling: peak of the encoders' pass; preview: of a sampling step and the decoding.
        events: every allocation and release of "filling" and of "step", in their order.
        work: what the pass computes.
    """

    weights: dict[str, int]
    trained: dict[str, nn.Parameter]
    resting: int
    gathered: int
    batch: int
    peak: int
    gradients_at_peak: int
    gradients: int
    filling: int
    preview: int
    events: dict[str, Events]
    work: Work


def rehearse(recipe: Recipe, source: Source | None, dataset: Dataset[Any], fused: bool) -> Rehearsal:
    """Takes a recipe through its pass without its numbers.

    Args:
        recipe: the resolved one.
        source: where it was written, for messages.
        dataset: the training examples, of which a few are looked at.
        fused: whether the device has a fused attention kernel.

    Raises:
        UserError: the base's configuration is not there.
    """
    example = dataset[0]
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    method, modules = _make(recipe, source, dataset, mode, fused)
    networks = [t for m in modules for t in (*m.parameters(), *m.buffers())]  # counted as weights; their views are no copies
    pictures = len(method.pictures_of(example))
    targets = method.targets_of(example)
    width, height, count = _largest_batch(recipe)

    def batch_of(number: int) -> tuple[Batch, Ledger]:
        with mode, computing(CPU, recipe.train.precision, _kernel(fused)), torch.no_grad():
            pixels = torch.empty(number, pictures, 3, height, width, dtype=torch.uint8)
            with Ledger([pixels, *networks]) as ledger:
                batch = method.encode(pixels)
        rows = collate([targets] * number)
        return {**batch, **rows, "text": [method.texts_of(example)[0]] * number}, ledger

    _, filling = batch_of(encoded_at_once((width, height)))
    batch, encoding = batch_of(count)
    tensors = [t for t in batch.values() if isinstance(t, torch.Tensor)]
    method.trainable.train()
    with mode, Ledger([*tensors, *networks]) as step:
        with computing(CPU, recipe.train.precision, _kernel(fused)):
            loss = method.loss(batch, Draws(recipe.seed, range(count)))
            loss.value.backward()
        del loss
        grads = [p.grad for p in method.trainable.parameters() if p.grad is not None]
        most, of_grads = step.at_peak(grads)
        nbytes = sum(g.nbytes for g in grads)
        work = step.work() if recipe.data.cache_latents else step.work() + encoding.work()
        for p in method.trainable.parameters():
            p.grad = None
        del grads
    preview = Ledger(networks)
    show = getattr(method, "rehearse_preview", None)
    if show is not None:
        sampled = min(recipe.evaluate.batch_size, max(24, recipe.evaluate.pairs, recipe.evaluate.preview_pairs))
        shown, _ = batch_of(sampled)
        method.trainable.eval()
        with mode, computing(CPU, recipe.train.precision, _kernel(fused)), torch.no_grad(), preview:
            show(shown)
    parked = method.resting if recipe.train.offload != "none" and recipe.data.cache_latents else []
    return Rehearsal(
        weights=_weights(modules, method.trainable, recipe.train.base),
        trained={n: p for n, p in method.trainable.named_parameters() if p.requires_grad},
        resting=sum(p.nbytes for m in parked for p in m.parameters()),
        gathered=_gathered(method.trainable),
        batch=sum(t.nbytes for t in tensors),
        peak=most,
        gradients_at_peak=of_grads,
        gradients=nbytes,
        filling=filling.peak,
        preview=preview.peak,
        events={"filling": filling.events, "step": step.events},
        work=work,
    )


def _make(
    recipe: Recipe, source: Source | None, dataset: Dataset[Any], mode: FakeTensorMode, fused: bool
) -> tuple[Method, list[nn.Module]]:
    """The method over fake networks, prepared as `prepare_run` does it, and all networks there are."""
    networks, kind = family(recipe.model.family), method_class(recipe.method.name)
    texts = [t for i in range(min(FEW_TEXTS, len(dataset))) for t in all_texts(dataset[i])]
    made = recipe
    if recipe.train.base in BYTES_A_NUMBER:
        made = recipe.model_copy(update={"train": recipe.train.model_copy(update={"base": "bf16"})})
    with init_empty_weights(include_buffers=True):
        model_options = options(recipe.model, networks.Options, "model", source)
        parts = networks.load(recipe.model.base, model_options, lambda: texts, weights=False)
        method: Method = kind(made, options(recipe.method, kind.Options, "method", source), parts)
        if recipe.train.weights != "fp32":
            store_in_bf16(method.trainable)
    modules = list({id(m): m for m in (*parts.modules.values(), method.trainable, *method.frozen_encoders.values())}.values())
    if recipe.train.channels_last:
        for module in parts.modules.values():
            to_channels_last(module)
    to_fake(modules, mode)
    if recipe.train.gradient_checkpointing:
        for network in trained_networks(method.trainable):
            checkpoint_gradients(network, CPU, _kernel(fused), whole=recipe.train.offload == "base")
    return method, modules


def _kernel(fused: bool) -> str:
    """The attention of the CPU; or torch's fused kernel, whose saved tensors are those of an accelerator's."""
    return "sdpa" if fused else "auto"


def _largest_batch(recipe: Recipe) -> tuple[int, int, int]:
    """Width, height and examples of the batch with the most pixels."""
    table = [(recipe.data.resolution, recipe.data.resolution)]
    if (buckets := recipe.data.buckets) is not None:
        table = make_buckets(buckets.sides, buckets.step, buckets.max_aspect)
    sizes = batch_sizes(table, recipe.data.resolution, recipe.train.batch_size)
    best = max(range(len(table)), key=lambda i: table[i][0] * table[i][1] * sizes[i])
    return (*table[best], sizes[best])


def _weights(modules: Iterable[nn.Module], trainable: nn.Module, base: str) -> dict[str, int]:
    """Bytes by what they are; those of the trainable's frozen linear layers as `train.base` has them."""
    found: dict[str, int] = {}
    packed = {
        id(layer.weight)
        for layer in trainable.modules()
        if base in BYTES_A_NUMBER and isinstance(layer, nn.Linear) and layer.weight.dtype == torch.bfloat16
    }
    seen: set[int] = set()
    for tensor in (t for m in modules for t in (*m.parameters(), *m.buffers())):
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        kind, nbytes = str(tensor.dtype).removeprefix("torch."), tensor.nbytes
        if id(tensor) in packed:
            kind, nbytes = base, int(BYTES_A_NUMBER[base] * tensor.numel())
        name = f"{'trained' if tensor.requires_grad else 'frozen'} {kind}"
        found[name] = found.get(name, 0) + nbytes
    return found


def _gathered(trainable: nn.Module) -> int:
    """Two units at once, the one that computes and the one that is fetched meanwhile; what is in no block is one unit."""
    sizes = []
    for network in trainable.children() if isinstance(trainable, nn.ModuleDict) else [trainable]:
        blocks = [sum(p.nbytes for p in b.parameters()) for b in blocks_of(network)]
        sizes += [*blocks, sum(p.nbytes for p in network.parameters()) - sum(blocks)]
    return sum(sorted(sizes)[-2:])
