"""What a recipe stands for, ready to train: data, model and method; and what is said of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights

from editkit.data.cache import weights_hash
from editkit.data.check import audit_pictures
from editkit.data.choose import open_chosen
from editkit.data.combine import Concatenated
from editkit.data.examples import Dataset, all_texts
from editkit.data.keep_out import open_kept_out, refuse_evaluation
from editkit.data.prepare import PrepareParams
from editkit.data.read import needs_building, open_dataset
from editkit.data.sampler import MixedStream, ShuffledStream, Stream
from editkit.errors import UserError
from editkit.methods import method_class
from editkit.methods.protocol import Method
from editkit.models import family
from editkit.models.networks import prepare_networks
from editkit.models.precision import check_numerics, choose_device, computed_in, describe_numerics, to_channels_last
from editkit.recipe.load import Source, load_recipe, options
from editkit.recipe.schema import Recipe
from editkit.train.estimate import estimates
from editkit.train.machines import NAMED, this_machine
from editkit.train.parallel import Layout
from editkit.train.ranks import on_first, world
from editkit.train.record import FORMAT, machine_facts


@dataclass
class Setup:
    """Everything that a recipe stands for, ready to train."""

    recipe: Recipe
    method: Method
    train: Dataset[Any]
    test: Dataset[Any]
    usable: list[list[int]]  # of each data set of the mixture, as numbers in `train`
    device: torch.device
    numerics: list[str]  # lines for the header
    made_from: dict[str, str]  # what the recipe only points at: hashes of the data and the weights, versions of libraries

    @property
    def all_usable(self) -> list[int]:
        """Of all data sets."""
        return [i for part in self.usable for i in part]


def prepare_run(recipe: Recipe, source: Source | None) -> Setup:
    """Opens the data, checks it, loads the model and makes the method; raises UserError before anything is written."""
    device = choose_device()
    check_numerics(recipe.train, device)
    fitting, other = computed_in(recipe.train, device)
    recipe = recipe.model_copy(update={"train": fitting})
    kind = method_class(recipe.method.name)
    method_options = options(recipe.method, kind.Options, "method", source)
    networks = family(recipe.model.family)
    model_options = options(recipe.model, networks.Options, "model", source)
    places = _places(recipe)
    missing = on_first(lambda: [place for place in places.values() if needs_building(place)])
    if missing:
        # A fault of the model or of the method is said before data is built, for hours perhaps.
        with init_empty_weights(include_buffers=True):
            kind(recipe, method_options, networks.load(recipe.model.base, model_options, lambda: ("",), weights=False))
        on_first(lambda: _build(missing))
    mixed = [open_dataset(m.train, "train", limit=recipe.data.limit) for m in recipe.data.mix]
    parts = [open_chosen(recipe.data, recipe.data.train, "train"), *mixed]
    test_set = open_chosen(recipe.data, recipe.data.test or recipe.data.train, "test")
    usable = []
    start = 0
    for (key, place), part in zip(places.items(), parts, strict=True):
        kinds = (kind.kind, *(getattr(kind, "mixes", ()) if key[1] == "mix" else ()))
        _check_kind(recipe, kinds, part, f'{source.place(key) if source else "recipe"}: {".".join(key)} = "{place}"')
        found = audit_pictures(part, recipe.data.max_skipped)
        if not found:
            raise UserError(f"{place}: found no example whose pictures can be read")
        if len(found) < len(part):
            print(f"{place}: {len(part) - len(found)} of {len(part)} examples are skipped: their pictures cannot be read")
        usable.append([start + i for i in found])
        start += len(part)
    if test_set.info["kind"] != kind.kind:
        place = source.place(("data", "test")) if source else "recipe"
        raise UserError(f'{place}: data.test = "{recipe.data.test}": found {test_set.info["kind"]}; expected {kind.kind}')
    for place, part in zip(places.values(), parts, strict=True):
        for note in part.info.get("notes", []):
            print(f"{place}: {note}")
    if recipe.data.keep_out:
        refuse_evaluation(dict(zip(places.values(), parts, strict=True)), open_kept_out(recipe.data.keep_out))
    train_set = parts[0] if len(parts) == 1 else Concatenated(parts)
    torch.manual_seed(recipe.seed)  # for the weights that are made anew
    model = networks.load(recipe.model.base, model_options, lambda: _texts(train_set, kind))
    method = kind(recipe, method_options, model)
    for module in model.modules.values():
        module.to(device)
        if recipe.train.channels_last:
            to_channels_last(module)
    made_from = _made_from(train_set, usable, method)  # before the weights are stored in other numbers or moved away
    notes = prepare_networks(recipe.train, method.trainable, method.parameter_groups(), recipe.optim.lr, device)
    numerics = describe_numerics(recipe.train, device, notes=[*other, *notes])
    return Setup(recipe, method, train_set, test_set, usable, device, numerics, made_from)


def _build(places: Iterable[str]) -> None:
    for place in places:
        open_dataset(place, "train")


def _places(recipe: Recipe) -> dict[tuple[str, ...], str]:
    """The training data sets by the keys that name them."""
    mixed = {("data", "mix", str(number), "train"): m.train for number, m in enumerate(recipe.data.mix)}
    return {("data", "train"): recipe.data.train, **mixed}


def check_recipe(recipe_path: str) -> dict[str, Any]:
    """Validates a recipe without training: loads it, opens its data and its model, counts, and estimates.

    Returns:
        The run in figures; "estimate" for this machine, and "elsewhere" for named ones (`editkit.train.estimate.Estimate`).
        Where this machine lacks what the recipe asks for, "estimate" is None and "refused" says why.
    """
    recipe, source = load_recipe(recipe_path)
    refused = _refusal_here(recipe)
    opened = recipe
    if refused:  # no fault of the recipe: all else is checked in numbers that every machine has
        plain = {"precision": "fp32", "attention": "auto", "base": "fp32"}
        opened = recipe.model_copy(update={"train": recipe.train.model_copy(update=plain)})
    setup = prepare_run(opened, source)
    elsewhere = list(NAMED.values())
    if refused:
        found = [None, *estimates(recipe, elsewhere, source=source, dataset=setup.train)]
    elif setup.recipe.train == recipe.train:
        found = estimates(recipe, [this_machine(setup.device), *elsewhere], source=source, dataset=setup.train)
    else:  # in other numbers here
        found = estimates(setup.recipe, [this_machine(setup.device)], source=source, dataset=setup.train)
        found += estimates(recipe, elsewhere, source=source, dataset=setup.train)
    facts = describe(setup) | {"precision": recipe.train.precision}
    return {**facts, "refused": refused, "estimate": found[0], "elsewhere": found[1:]}


def _refusal_here(recipe: Recipe) -> str:
    """What of the numerics this machine cannot do; "" for nothing."""
    try:
        check_numerics(recipe.train, choose_device())
    except UserError as error:
        return str(error)
    return ""


def describe(setup: Setup) -> dict[str, Any]:
    """The run in figures."""
    recipe = setup.recipe
    trained = sum(p.numel() for p in setup.method.trainable.parameters() if p.requires_grad)
    samples = recipe.train.steps * recipe.train.batch_size * recipe.train.accumulate * world()[1]
    examples = len(setup.all_usable)
    return {
        "recipe": recipe.name,
        "method": recipe.method.name,
        "base": recipe.model.base or "random weights",
        "trained parameters": trained,
        "training examples": examples,
        "test examples": len(setup.test),
        "samples": samples,
        "epochs": round(samples / examples, 2),
        "device": str(setup.device),
        "precision": recipe.train.precision,
    }


def _texts(dataset: Dataset[Any], method: Any) -> Iterable[str]:
    for i in range(len(dataset)):
        yield from all_texts(dataset[i])
    yield from getattr(method, "further_texts", tuple)()


def _check_kind(recipe: Recipe, kinds: Sequence[str], dataset: Dataset[Any], place: str) -> None:
    found = dataset.info["kind"]
    if found not in kinds:
        raise UserError(f'{place}: found {found}; the method "{recipe.method.name}" learns from {" and ".join(kinds)}')
    if len(dataset) == 0:
        raise UserError(f"{place}: found no training examples")


def make_stream(setup: Setup) -> Stream:
    """The order of the usable examples: shuffled, or mixed from several data sets in the recipe's shares."""
    recipe = setup.recipe
    parts = setup.train.parts if isinstance(setup.train, Concatenated) else [setup.train]
    streams: list[Stream] = []
    for number, (part, usable) in enumerate(zip(parts, setup.usable, strict=True)):
        # Row groups count only where all of their rows do.
        groups = getattr(part, "group_sizes", []) if len(usable) == len(part) else []
        window = recipe.data.window or getattr(part, "window", 0)
        streams.append(ShuffledStream(len(usable), recipe.seed + number, groups, window))
    if len(streams) == 1:
        return streams[0]
    weights = [1.0, *(m.weight for m in recipe.data.mix)]
    return MixedStream(streams, [len(u) for u in setup.usable], weights, recipe.seed)


def _made_from(dataset: Dataset[Any], usable: list[list[int]], method: Method) -> dict[str, str]:
    modules = {"trained": method.trainable, **method.frozen_encoders}
    weights = {f"{name}.{key}": tensor for name, module in modules.items() for key, tensor in module.state_dict().items()}
    libraries = {name: version(name) for name in ("torch", "numpy")}
    count = str(sum(len(part) for part in usable))
    return {"data": dataset.info["sha256"], "usable examples": count, "base": weights_hash(weights), **libraries}


def data_facts(setup: Setup) -> dict[str, Any]:
    """What run.json says of the data and the machine."""
    info = setup.train.info
    data = {k: info[k] for k in ("name", "kind", "sha256", "counts", "licences") if k in info}
    data |= {"categories": info.get("categories", {}), "skipped": len(setup.train) - len(setup.all_usable)}
    return {"data": data, "machine": machine_facts(setup.device)}


def header(setup: Setup, run: Path, layout: Layout) -> str:
    """The first line of a run."""
    facts = describe(setup)
    return (
        f"{run}: {facts['trained parameters']:,} parameters of {facts['base']} on {facts['training examples']:,} examples, "
        f"{facts['samples']:,} samples ({facts['epochs']} epochs), {facts['device']}, {facts['precision']}, {layout.name}"
    )


def metadata(setup: Setup) -> dict[str, Any]:
    """What a user of the weights needs beside them: the one preprocessing path and the default guidance."""
    recipe = setup.recipe
    return {
        "format": FORMAT,
        "name": recipe.name,
        "method": recipe.method.name,
        "base": recipe.model.base,
        "prepare": PrepareParams(recipe.data.resolution, recipe.data.crop).as_dict(),
        "sampling": {
            "steps": recipe.evaluate.steps,
            "text_guidance": recipe.evaluate.text_guidance,
            "image_guidance": recipe.evaluate.image_guidance,
        },
    }
