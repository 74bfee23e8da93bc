"""The optimisers by name, their parameter groups, and the schedule of the learning rate."""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import re
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from editkit.errors import UserError
from editkit.recipe.schema import Optim
from editkit.train.muon import MuonAndAdamW, is_hidden_matrix

LISTED = 6  # parameter names in a message

MUON_ON_PRETRAINED = (
    'note: optim.name = "muon" moves weights that were most likely trained by Adam away from what they know; '
    "it is made for training from scratch, or for an [adapter] on a frozen base"
)


def make_optimizer(
    groups: Sequence[Mapping[str, Any]],
    options: Optim,
    named: Mapping[str, nn.Parameter] | None = None,
    *,
    pretrained: bool = False,
) -> torch.optim.Optimizer:
    """The optimiser that a recipe names; every group keeps its base rate under "base_lr".

    Args:
        groups: of the method: "params", and "lr" where it is not the recipe's.
        options: the recipe's table.
        named: `method.trainable.named_parameters()` as a mapping; needed for `optim.groups` and for muon.
        pretrained: whether weights of a pretrained base are trained themselves, which muon is not made for.

    Raises:
        UserError: a pattern that fits nothing, rates that the optimiser cannot have, or a package that is not installed.
    """
    ready = split_groups([{"lr": options.lr, **group} for group in groups], options, named)
    if options.name == "muon":
        if pretrained:
            print(MUON_ON_PRETRAINED)
        optimizer: Any = _muon(ready, options, named)
    else:
        optimizer = {"adamw": _adamw, "adamw8bit": _adamw8bit, "prodigy": _prodigy, "schedule_free": _schedule_free}[
            options.name
        ](ready, options)
    for group in optimizer.param_groups:
        group.setdefault("base_lr", group["lr"])
    return optimizer


def split_groups(
    groups: Sequence[Mapping[str, Any]], options: Optim, named: Mapping[str, nn.Parameter] | None
) -> list[dict[str, Any]]:
    """The method's groups, cut where `optim.groups` or `optim.decay_vectors` gives some of their parameters other values.

    Args:
        groups: "params" and "lr".
        options: the recipe's table.
        named: every trained parameter by its name; None where `optim.groups` is empty.

    Returns:
        Groups that are not empty, in an order that depends on the recipe and the network alone.

    Raises:
        UserError: a pattern fits no trained parameter, or only such as an earlier one has.
    """
    names = {id(p): n for n, p in (named or {}).items()}
    taken = [0] * len(options.groups)
    cut: list[dict[str, Any]] = []
    for group in groups:
        parts: dict[tuple[int, bool], list[nn.Parameter]] = {}
        for parameter in group["params"]:
            rule = len(options.groups)
            if options.groups and parameter.requires_grad:
                rule = next((i for i, g in enumerate(options.groups) if re.search(g.match, names[id(parameter)])), rule)
            if rule < len(options.groups):
                taken[rule] += 1
            is_plain = not options.decay_vectors and parameter.dim() < 2
            parts.setdefault((rule, is_plain), []).append(parameter)
        for (rule, is_plain), parameters in sorted(parts.items(), key=lambda part: part[0]):
            own = options.groups[rule] if rule < len(options.groups) else None
            changed: dict[str, Any] = {}
            if own is not None and own.lr is not None:
                changed["lr"] = own.lr
            if own is not None and own.weight_decay is not None:
                changed["weight_decay"] = own.weight_decay
            if is_plain:
                changed["weight_decay"] = 0.0
            cut.append({**group, **changed, "params": parameters})
    for rule, count in zip(options.groups, taken, strict=True):
        if count == 0:
            raise UserError(_fits_nothing(rule.match, list((named or {}).keys())))
    return cut


def _fits_nothing(match: str, names: list[str]) -> str:
    fitting = [n for n in names if re.search(match, n)]
    if fitting:
        return f'optim.groups: match = "{match}" fits only what an earlier table has ({", ".join(fitting[:LISTED])})'
    step = max(1, len(names) // LISTED)
    return f'optim.groups: match = "{match}" fits no trained parameter; they are called {", ".join(names[::step][:LISTED])} ...'


def _adamw(groups: list[dict[str, Any]], options: Optim) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, betas=options.betas, eps=options.eps, weight_decay=options.weight_decay, fused=True)


def _adamw8bit(groups: list[dict[str, Any]], options: Optim) -> torch.optim.Optimizer:
    """AdamW whose two moments are kept in 8 bits, block by block (Dettmers et al. 2022); small tensors keep 32."""
    kind = _package("bitsandbytes.optim", options.name).AdamW8bit
    return kind(groups, lr=options.lr, betas=options.betas, eps=options.eps, weight_decay=options.weight_decay)


def _prodigy(groups: list[dict[str, Any]], options: Optim) -> torch.optim.Optimizer:
    """Prodigy (Mishchenko and Defazio 2024): Adam that estimates its own rate; bias correction as for diffusion models."""
    kind = _package("prodigyopt", options.name).Prodigy
    rates = sorted({group["lr"] for group in groups})
    if len(rates) > 1:
        found = ", ".join(f"{rate:g}" for rate in rates)
        raise UserError(f"optim.name: prodigy estimates one rate for all; found groups with {found}; give all optim.lr")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints which kind of weight decay it has
        return kind(
            groups,
            lr=options.lr,
            betas=options.betas,
            eps=options.eps,
            weight_decay=options.weight_decay,
            use_bias_correction=True,
            safeguard_warmup=options.warmup > 0,  # or the small rates of the warm-up would count as progress
        )


def _schedule_free(groups: list[dict[str, Any]], options: Optim) -> torch.optim.Optimizer:
    """Schedule-free AdamW (Defazio et al. 2024). Its average weighs each step by its rate, so ours may warm it up."""
    kind = _package("schedulefree", options.name).AdamWScheduleFree
    optimizer = kind(groups, lr=options.lr, betas=options.betas, eps=options.eps, weight_decay=options.weight_decay)
    optimizer.train()
    return optimizer


def _muon(groups: list[dict[str, Any]], options: Optim, named: Mapping[str, nn.Parameter] | None) -> torch.optim.Optimizer:
    hidden = {id(p) for n, p in (named or {}).items() if is_hidden_matrix(n, p)}
    matrices = [{**g, "params": [p for p in g["params"] if id(p) in hidden]} for g in groups]
    others = [{**g, "params": [p for p in g["params"] if id(p) not in hidden]} for g in groups]
    matrices, others = ([g for g in part if g["params"]] for part in (matrices, others))
    if not matrices:
        raise UserError('optim.name: found no matrix inside a block of the network, and muon trains nothing else; use "adamw"')
    return MuonAndAdamW(matrices, others, options)


def _package(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UserError(
            f'optim.name: "{name}" needs {package}, which cannot be imported ({error}); pip install "editkit[optimizers]"'
        ) from error


@contextlib.contextmanager
def evaluating(optimizer: torch.optim.Optimizer) -> Generator[None, None, None]:
    """The weights to look at and to export, while the block runs: those of schedule-free are not those that it trains.

    The trained ones come back bit by bit, so that a preview changes no step; while the block runs there is a copy of them.
    With every other optimiser it does nothing.
    """
    if not hasattr(optimizer, "eval"):
        yield
        return
    switch: Any = optimizer
    kept = [(p, p.detach().clone()) for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    switch.eval()
    try:
        yield
    finally:
        switch.train()
        with torch.no_grad():
            for parameter, value in kept:
                parameter.copy_(value)


def lr_factor(step: int, total: int, options: Optim) -> float:
    """What the base rate is multiplied with at `step` (0 = the first) of `total`: warm-up, then the schedule."""
    if step < options.warmup:
        return (step + 1) / options.warmup
    start = options.warmup
    if options.schedule == "wsd":
        start = max(start, total - round(options.decay_share * total))
    progress = max(0, step - start) / max(1, total - start)
    if options.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    if options.schedule in ("linear", "wsd"):
        return max(0.0, 1 - progress)
    return 1.0


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Sets every group's rate; returns the first one's."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return optimizer.param_groups[0]["lr"]
