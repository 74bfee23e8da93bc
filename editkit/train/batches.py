"""From a data set to batches: the order, the pictures or their cached encodings, and one phrasing of every text."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from editkit.data.cache import cache_key, cached, weights_hash
from editkit.data.examples import Dataset, Example
from editkit.data.prepare import PrepareParams, View, draw_view, prepare
from editkit.data.sampler import ShuffledStream
from editkit.methods.protocol import Batch, Method
from editkit.models.precision import computing
from editkit.progress import progress
from editkit.recipe.schema import Recipe

ENCODE_BATCH = 64


class BatchSource:
    """Batches by position in the shuffled stream, so that a resumed run goes on with the very next example.

    Args:
        usable: indices of the examples that can be opened.
    """

    def __init__(
        self, recipe: Recipe, method: Method, dataset: Dataset[Any], usable: Sequence[int], device: torch.device
    ) -> None:
        self._recipe = recipe
        self._method = method
        self._dataset = dataset
        self._usable = list(usable)
        self._device = device
        self._params = PrepareParams(recipe.data.resolution, recipe.data.crop)
        # Decoding lets go of the interpreter's lock, so threads are enough.
        self._map = ThreadPoolExecutor(recipe.data.workers).map if recipe.data.workers else map
        self._stream = ShuffledStream(len(self._usable), recipe.seed)
        self._cache = self._fill_cache() if recipe.data.cache_latents else None

    def take(self, position: int, count: int, generator: torch.Generator) -> Batch:
        """Examples `position` … of the stream as one batch; flips, crops and phrasings are drawn from `generator`."""
        rows = self._stream.take(position, count)
        examples = [self._dataset[self._usable[row]] for row in rows]
        views = [draw_view(self._params, self._recipe.data.flip, generator) for _ in rows]
        if self._cache is not None:
            flips = [int(view.flip) for view in views]
            batch: Batch = {k: v[rows, flips] for k, v in self._cache.items()}
        else:
            opened = self._map(self._open, examples, views)
            pixels = torch.stack(list(opened))
            batch = self._encode(pixels)
        texts = [self._method.texts_of(e) for e in examples]
        draws = torch.rand(count, generator=generator).tolist()
        batch["text"] = [t[int(draw * len(t))] for t, draw in zip(texts, draws, strict=True)]
        targets = [self._method.targets_of(e) for e in examples]
        batch.update({name: torch.stack([t[name] for t in targets]) for name in targets[0]})
        return {k: v.to(self._device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}

    def _open(self, example: Example, view: View) -> torch.Tensor:
        return prepare(self._method.images_of(example), self._params, view)

    @torch.no_grad()
    def _encode(self, pixels: torch.Tensor) -> Batch:
        with computing(self._device, self._recipe.train.precision, self._recipe.train.attention):
            return self._method.encode(pixels.to(self._device))

    def _fill_cache(self) -> dict[str, torch.Tensor]:
        """Encodes every example, and mirrored too when the recipe flips: tensors (examples, views, ...)."""
        views = [View()] + ([View(flip=True)] if self._recipe.data.flip else [])
        frozen = {
            f"{name}.{key}": tensor
            for name, module in self._method.frozen_encoders.items()
            for key, tensor in module.state_dict().items()
        }
        key = cache_key(
            data=self._dataset.info["sha256"],
            usable=len(self._usable),
            limit=self._recipe.data.limit,
            prepare=self._params.as_dict(),
            views=len(views),
            method=self._recipe.method.name,
            precision=self._recipe.train.precision,
            encoders=weights_hash(frozen),
        )
        return cached(key, lambda: self._encode_all(views))

    def _encode_all(self, views: Sequence[View]) -> dict[str, torch.Tensor]:
        done: dict[str, list[torch.Tensor]] = {}
        with progress(len(self._usable), "encoding the pictures once") as bar:
            for start in range(0, len(self._usable), ENCODE_BATCH):
                examples = [self._dataset[i] for i in self._usable[start : start + ENCODE_BATCH]]
                encoded = [self._encode(torch.stack([self._open(e, v) for e in examples])) for v in views]
                for name in encoded[0]:
                    done.setdefault(name, []).append(torch.stack([e[name].cpu() for e in encoded], dim=1))
                bar.advance(len(examples))
        return {name: torch.cat(parts) for name, parts in done.items()}
