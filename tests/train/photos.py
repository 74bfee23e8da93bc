"""A small data set of real picture files of several sizes and shapes, and batches from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from editkit.data.draws import Draws
from editkit.data.examples import Dataset
from editkit.data.read import open_dataset
from editkit.data.sampler import ShuffledStream
from editkit.data.store import Store
from editkit.methods.instruct_edit import InstructEdit
from editkit.models.stable_diffusion.load import Options, load
from editkit.recipe.schema import Buckets, Data, Method, Model, Optim, Recipe, Train
from editkit.train.batches import BatchSource, Taken
from editkit.train.survey import survey

CPU = torch.device("cpu")
SEED = 5
# (source, target) in px; the source of some has another shape than the target.
SHAPES = [
    ((64, 64), (64, 64)), ((40, 64), (40, 64)), ((64, 40), (64, 40)), ((32, 32), (32, 32)), ((90, 50), (50, 90)),
    ((20, 20), (20, 20)), ((64, 64), (64, 39)), ((24, 40), (24, 40)), ((200, 40), (100, 100)), ((40, 24), (40, 24)),
    ((33, 35), (33, 35)), ((48, 80), (48, 80)), ((31, 64), (31, 64)),
]  # fmt: skip

SPEC = """\
format = 1
name = "photos"
kind = "edit_pairs"
licence = "CC0"
[read]
layout = "pairs"
source = "before"
target = "after"
[split]
test = 0.0
"""


def photo(number: int, size: tuple[int, int]) -> Image.Image:
    """Soft random shapes, so that no two places of it are alike."""
    coarse = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def write_photos(folder: Path) -> str:
    """Writes the pairs and their spec; returns where the spec is."""
    for side in ("before", "after"):
        (folder / side).mkdir(parents=True)
    for number, (source, target) in enumerate(SHAPES):
        photo(2 * number, source).save(folder / "before" / f"{number:02d}.png")
        photo(2 * number + 1, target).save(folder / "after" / f"{number:02d}.png")
        (folder / "after" / f"{number:02d}.txt").write_text(f"make it {number}\nturn it into {number}\n")
    (folder / "photos.toml").write_text(SPEC)
    return str(folder / "photos.toml")


def recipe_of(*, batch_size: int = 3, precision: str = "fp32", **data: Any) -> Recipe:
    """A recipe of 32 px with buckets; `data` overrides keys of [data]."""
    values = {"train": "photos.toml", "resolution": 32, "buckets": Buckets(sides=[32], step=8), "workers": 0, **data}
    return Recipe(
        name="photos",
        seed=SEED,
        method=Method(name="instruct_edit"),
        model=Model(family="stable_diffusion"),
        data=Data(**values),
        optim=Optim(lr=1e-3),
        train=Train(steps=10, batch_size=batch_size, precision=precision),
    )


def method_of(base: Path, recipe: Recipe) -> InstructEdit:
    return InstructEdit(recipe, InstructEdit.Options(), load(str(base), Options()))


def batches_of(
    recipe: Recipe, method: InstructEdit, where: str, store: Store | None = None, rank: int = 0, world: int = 1
) -> BatchSource:
    """Batches of everything that the spec has; filled, where there is a store."""
    dataset: Dataset[Any] = open_dataset(where)
    looked = survey(dataset, range(len(dataset)), method, recipe.data)
    stream = ShuffledStream(len(dataset), recipe.seed)
    return BatchSource(recipe, method, dataset, looked, stream, CPU, store, rank, world)


def take(source: BatchSource, count: int) -> list[Taken]:
    try:
        return [source.take() for _ in range(count)]
    finally:
        source.close()


def assert_same(found: Sequence[Taken], expected: Sequence[Taken], atol: float = 0.0) -> None:
    """The same examples in the same order with the same tensors and texts, and the random numbers that are theirs."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.planned == b.planned
        assert a.samples == b.samples
        assert a.batch.keys() == b.batch.keys()
        assert a.batch["text"] == b.batch["text"]
        assert torch.equal(a.draws.uniform(3), Draws(SEED, b.planned.positions).uniform(3))
        for name, tensor in b.batch.items():
            if isinstance(tensor, torch.Tensor):
                torch.testing.assert_close(a.batch[name], tensor, atol=atol, rtol=0)
