"""From a data set to batches: the order, the pictures or their cached encodings, and one phrasing of every text.

Threads prepare the next batches while the device computes. What has been taken, not what has been prepared, is the state: a
resumed run takes the very next batch, whatever was under way when it stopped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import torch

from editkit.data.buckets import Size, batch_sizes
from editkit.data.cache import Store, entry_key, fill, weights_hash
from editkit.data.draws import CACHED_VIEW, VIEW, Draws
from editkit.data.examples import Dataset
from editkit.data.prepare import PrepareParams, View, draw_views, prepare
from editkit.data.sampler import BatchPlan, Planned, Stream
from editkit.methods.protocol import Batch, Method, collate
from editkit.models.networks import awake
from editkit.models.precision import computing
from editkit.recipe.schema import Recipe
from editkit.train.survey import Survey

# What an encoder says of a picture depends in its last bits on how many stand beside it, so every batch of a size has the
# same number, filled up where less is missing: what a killed run left half done comes out like what was never stopped.
ENCODE_PIXELS, ENCODE_BATCH = 64 * 64 * 64, 64  # pixels and examples that are encoded together at most


@dataclass(frozen=True, slots=True)
class Taken:
    """One batch of this process.

    Attributes:
        batch: what the method's loss takes, on the device.
        draws: the random numbers of its examples.
        planned: which examples they are.
        samples: examples of all processes together.
        waited: seconds that the training stood still for the pictures.
    """

    batch: Batch
    draws: Draws
    planned: Planned
    samples: int
    waited: float


@dataclass(frozen=True, slots=True)
class _Ahead:
    planned: Planned
    samples: int
    state: Mapping[str, Any]
    prepared: Callable[[], Batch]


class BatchSource:
    """Batches in the order of a plan that all processes share; each makes its own.

    Args:
        recipe: the run's.
        method: whose pictures, texts and encoders are asked for.
        dataset: the training examples.
        survey: what was found out about them: buckets and the keys of their bytes.
        stream: the order of the survey's examples.
        device: where batches go.
        store: where encodings are kept; None = they are made in every step.
        rank: number of this process.
        world: how many processes share the work.
    """

    def __init__(
        self,
        recipe: Recipe,
        method: Method,
        dataset: Dataset[Any],
        survey: Survey,
        stream: Stream,
        device: torch.device,
        store: Store | None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._recipe = recipe
        self._method = method
        self._dataset = dataset
        self._survey = survey
        self._device = device
        self._store = store
        self._rank, self._world = rank, world
        self._params = PrepareParams(recipe.data.resolution, recipe.data.crop)
        sizes = batch_sizes(survey.buckets, recipe.data.resolution, recipe.train.batch_size)
        self._plan = BatchPlan(stream, survey.bucket_of, sizes)
        self._state = self._plan.state_dict()
        self._ahead: deque[_Ahead] = deque()
        workers = recipe.data.workers
        self._depth = recipe.data.ahead if workers else 0
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="batches") if workers else None
        self._num_views = recipe.data.cache_views or (2 if recipe.data.flip else 1)
        self._encoders = _weights_of(method)

    def take(self) -> Taken:
        """The next batch."""
        while len(self._ahead) <= self._depth:
            self._ahead.append(self._start())
        started = perf_counter()
        ahead = self._ahead.popleft()
        batch = ahead.prepared()
        waited = perf_counter() - started
        self._state = ahead.state
        batch = {k: self._to_device(v) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        pixels = batch.pop("pixels", None)
        if pixels is not None:
            batch |= self._encode(pixels)
        return Taken(batch, Draws(self._recipe.seed, ahead.planned.positions), ahead.planned, ahead.samples, waited)

    def _start(self) -> _Ahead:
        round_of_all = [self._plan.next() for _ in range(self._world)]
        mine = round_of_all[self._rank]
        samples = sum(len(p.rows) for p in round_of_all)
        if self._pool is None:
            return _Ahead(mine, samples, self._plan.state_dict(), lambda: self._prepare(mine))
        future: Future[Batch] = self._pool.submit(self._prepare, mine)
        return _Ahead(mine, samples, self._plan.state_dict(), future.result)

    def _prepare(self, planned: Planned) -> Batch:
        """Everything of a batch that needs no network; runs in a thread."""
        draws = Draws(self._recipe.seed, planned.positions, VIEW)
        views = draw_views(self._params, self._recipe.data.flip, draws)
        picks = draws.uniform(2).tolist()  # which phrasing, and which of the cached views
        examples = [self._dataset[self._survey.usable[row]] for row in planned.rows]
        if self._store is None:
            size = self._survey.buckets[planned.bucket]
            batch: Batch = {"pixels": torch.stack([self._open(e, v, size) for e, v in zip(examples, views, strict=True)])}
        else:
            chosen = [self._cached_view(view, pick) for view, (_, pick) in zip(views, picks, strict=True)]
            batch = self._look_up(planned, chosen)
        texts = [self._method.texts_of(e) for e in examples]
        batch["text"] = [t[int(pick * len(t))] for t, (pick, _) in zip(texts, picks, strict=True)]
        batch |= collate([self._method.targets_of(e) for e in examples])
        return batch

    def _open(self, example: Any, view: View, size: tuple[int, int]) -> torch.Tensor:
        return prepare([p.open() for p in self._method.pictures_of(example)], self._params, view, size)

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)

    @torch.no_grad()
    def _encode(self, pixels: torch.Tensor) -> Batch:
        with computing(self._device, self._recipe.train.precision, self._recipe.train.attention):
            return self._method.encode(pixels.to(self._device))

    def close(self) -> None:
        """Stops the threads; what they had prepared is dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def state_dict(self) -> dict[str, Any]:
        return {"plan": dict(self._state)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._plan.load_state_dict(state["plan"])
        self._state = self._plan.state_dict()
        self._ahead.clear()

    # What is kept of the encoders' work.

    def fill_cache(self) -> str:
        """Encodes what the store does not have yet; a run takes from it what it asks for.

        Returns:
            What was found and made, in a line.
        """
        if self._store is None:
            return "encodings: none kept, the pictures go through the encoders in every step (data.cache_latents = false)"
        summaries = []
        for bucket, size in enumerate(self._survey.buckets):
            rows = [r for r, b in enumerate(self._survey.bucket_of) if b == bucket]
            wanted = [(row, view) for view in range(self._num_views) for row in rows]
            if not wanted:
                continue
            summaries.append(
                fill(
                    self._store,
                    [self._key(row, view) for row, view in wanted],
                    lambda numbers, wanted=wanted: self._made([wanted[n] for n in numbers]),
                    batch_size=encoded_at_once(size),
                    label=f"encoding {size[0]} x {size[1]} px",
                )
            )
        views = f"{self._num_views} view{'s' if self._num_views > 1 else ''} of each example"
        return f"encodings, {views}: " + "; ".join(str(s) for s in summaries)

    def _view(self, row: int, number: int) -> View:
        """The cached view of that number: the centre and its mirror, or one of those that are drawn once for each example."""
        if not self._recipe.data.cache_views:
            return View(flip=bool(number))
        # By the picture, not by the row: another example that comes or goes changes nothing here.
        content = int.from_bytes(self._survey.content[row][-1][:7], "big")
        draws = Draws(self._recipe.seed, [content + number], CACHED_VIEW)
        return draw_views(self._params, self._recipe.data.flip, draws)[0]

    def _cached_view(self, view: View, pick: float) -> int:
        return int(pick * self._num_views) if self._recipe.data.cache_views else int(view.flip)

    def _key(self, row: int, number: int) -> str:
        return entry_key(
            content=self._survey.content[row],
            kind="pictures",
            prepare={"crop": self._params.crop, "size": self._survey.buckets[self._survey.bucket_of[row]]},
            view=asdict(self._view(row, number)),
            method=self._recipe.method.name,
            precision=self._recipe.train.precision,
            encoders=self._encoders,
        )

    def _made(self, wanted: Sequence[tuple[int, int]]) -> list[dict[str, torch.Tensor]]:
        """The entries of (row, view) pairs of one bucket."""
        size = self._survey.buckets[self._survey.bucket_of[wanted[0][0]]]
        opened = [self._open(self._dataset[self._survey.usable[row]], self._view(row, number), size) for row, number in wanted]
        count = encoded_at_once(size)
        made = []
        for start in range(0, len(opened), count):
            part = opened[start : start + count]
            full = torch.stack([part[i % len(part)] for i in range(count)])
            encoded = {name: tensor.cpu() for name, tensor in self._encode(full).items()}
            made += [{name: tensor[i].clone() for name, tensor in encoded.items()} for i in range(len(part))]
        return made

    def _look_up(self, planned: Planned, views: Sequence[int]) -> Batch:
        assert self._store is not None
        wanted = list(zip(planned.rows, views, strict=True))
        keys = [self._key(row, view) for row, view in wanted]
        found = self._store.get(keys)
        lost = [i for i, entry in enumerate(found) if entry is None]
        if lost:  # damaged on the disk, or another run's eviction took them
            with awake(self._method.resting, self._device):
                made = self._made([wanted[i] for i in lost])
            self._store.put({keys[i]: entry for i, entry in zip(lost, made, strict=True)})
            for i, entry in zip(lost, made, strict=True):
                found[i] = entry
        entries = [entry for entry in found if entry is not None]
        return {name: torch.stack([e[name] for e in entries]) for name in entries[0]}


def encoded_at_once(size: Size) -> int:
    """How many examples of a bucket go through the encoders together when the cache is filled."""
    return min(ENCODE_BATCH, max(1, ENCODE_PIXELS // (size[0] * size[1])))


def _weights_of(method: Method) -> str:
    frozen = {
        f"{name}.{key}": tensor
        for name, module in method.frozen_encoders.items()
        for key, tensor in module.state_dict().items()
    }
    return weights_hash(frozen)
