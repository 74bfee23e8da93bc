"""Batches against the pictures that they are made from: prepared, cached, damaged, cut, resumed and shared."""

from __future__ import annotations

import copy
import hashlib
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from editkit.data.buckets import choose_bucket, make_buckets
from editkit.data.draws import CACHED_VIEW, VIEW, Draws
from editkit.data.examples import EditPair
from editkit.data.pictures import Picture, PictureError
from editkit.data.prepare import PrepareParams, View, prepare
from editkit.data.read import open_dataset
from editkit.data.store import Store
from editkit.methods.instruct_edit import InstructEdit
from editkit.recipe.schema import Buckets
from editkit.train.batches import Taken
from editkit.train.survey import survey
from tests.data.test_cache import flip
from tests.train.photos import (
    SEED,
    SHAPES,
    assert_same,
    batches_of,
    method_of,
    photo,
    recipe_of,
    take,
    write_photos,
)  # fmt: skip

LIMIT = 200 * 2**20
ROUNDING = 2e-6  # of encoding the same picture beside others
COUNT = len(SHAPES)
Entry = dict[str, torch.Tensor]
FLIPS = {"cache_latents": True, "flip": 0.5}
CROPS = {"cache_latents": True, "crop": "random", "flip": 0.5, "cache_views": 3}
PLAIN = {"cache_latents": False, "flip": 0.5}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """For the tests that change none of them."""
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def method(tiny_sd: Path) -> InstructEdit:
    return method_of(tiny_sd, recipe_of())


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store(tmp_path / "store", limit_bytes=LIMIT) as opened:
        yield opened


@torch.no_grad()
def encoded(method: InstructEdit, where: str, row: int, view: View, size: tuple[int, int], crop: str) -> Entry:
    """What one example should be, from its files."""
    pair = open_dataset(where)[row]
    pixels = prepare([pair.source.open(), pair.target.open()], PrepareParams(32, crop), view, size)
    return {name: tensor[0] for name, tensor in method.encode(pixels[None]).items()}


def is_close(a: Entry, b: Entry) -> bool:
    return all(a[k].shape == b[k].shape and torch.allclose(a[k], b[k], atol=ROUNDING, rtol=0) for k in b)


def entries(taken: list[Taken]) -> list[tuple[int, int, Entry, str]]:
    """(row, position, tensors, text) of every example of the batches."""
    found = []
    for t in taken:
        for i, (row, at) in enumerate(zip(t.planned.rows, t.planned.positions, strict=True)):
            tensors = {k: v[i] for k, v in t.batch.items() if isinstance(v, torch.Tensor)}
            found.append((row, at, tensors, t.batch["text"][i]))
    return found


def sizes_of(where: str, method: InstructEdit) -> list[tuple[int, int]]:
    """The bucket of every example."""
    looked = survey(open_dataset(where), range(COUNT), method, recipe_of().data)
    return [looked.buckets[b] for b in looked.bucket_of]


@pytest.mark.parametrize("crop", ["center", "random"])
def test_a_batch_is_what_prepare_makes_of_its_pictures_in_its_buckets_size(
    photos: str, method: InstructEdit, crop: str
) -> None:
    taken = take(batches_of(recipe_of(**PLAIN, crop=crop), method, photos), 12)
    sizes = sizes_of(photos, method)
    assert len({sizes[row] for t in taken for row in t.planned.rows}) >= 3
    for t in taken:
        (size,) = {sizes[row] for row in t.planned.rows}
        assert t.batch["mean"].shape == (len(t.planned.rows), 4, size[1] // 4, size[0] // 4)
        assert t.samples == len(t.planned.rows)
    texts = set()
    for row, at, tensors, text in entries(taken):
        draws = Draws(SEED, [at], VIEW)
        coin, x, y = draws.uniform(3)[0].tolist()
        view = View(coin < 0.5, x, y) if crop == "random" else View(coin < 0.5)
        assert is_close(tensors, encoded(method, photos, row, view, sizes[row], crop))
        phrasing = int(draws.uniform(1)[0, 0] * 2)
        assert text == open_dataset(photos)[row].instructions[phrasing]
        texts.add(phrasing)
    assert texts == {0, 1}


class WithReferences(InstructEdit):
    """A method that is shown further pictures, as they come."""

    def pictures_of(self, example: EditPair) -> list[Picture]:
        return [example.source, *example.references, example.target]

    def encode(self, pixels: torch.Tensor) -> Entry:
        return {"pixels": pixels}


def test_several_references_are_in_batches_of_their_kind_in_their_buckets_size(tmp_path: Path, method: InstructEdit) -> None:
    where = write_photos(tmp_path)
    for folder, some in (("extra", range(COUNT)), ("more", range(0, COUNT, 2))):
        (tmp_path / folder).mkdir()
        for number in some:
            photo(100 + number, SHAPES[-number - 1][0]).save(tmp_path / folder / f"{number:02d}.png")
    spec = Path(where).read_text().replace('target = "after"', 'target = "after"\nreferences = ["extra", "more"]')
    Path(where).write_text(spec)
    shown = copy.copy(method)
    shown.__class__ = WithReferences
    taken = take(batches_of(recipe_of(**PLAIN), shown, where), 16)
    seen = set()
    for t in taken:
        assert t.batch["pixels"].shape[1] in (3, 4)
        for row, at, tensors, _ in entries([t]):
            pair = open_dataset(where)[row]
            pixels = tensors["pixels"]
            size = (pixels.shape[-1], pixels.shape[-2])
            assert size == choose_size(pair.target.size())
            coin = Draws(SEED, [at], VIEW).uniform(3)[0, 0]
            pictures = [p.open() for p in (pair.source, *pair.references, pair.target)]
            assert torch.equal(pixels, prepare(pictures, PrepareParams(32), View(bool(coin < 0.5)), size))
            seen.add((row, len(pictures)))
    assert seen == {(row, 4 if row % 2 == 0 else 3) for row in range(COUNT)}


def choose_size(size: tuple[int, int]) -> tuple[int, int]:
    table = make_buckets([32], 8, Buckets(sides=[32], step=8).max_aspect)
    return table[choose_bucket(size, table)]


@pytest.mark.parametrize("buckets", [None, Buckets(sides=[32], step=8), Buckets(sides=[16, 32], step=8, max_aspect=3.0)])
def test_cached_and_uncached_batches_are_equal(photos: str, method: InstructEdit, store: Store, buckets: Buckets) -> None:
    cached = batches_of(recipe_of(**FLIPS, buckets=buckets), method, photos, store)
    assert made(cached.fill_cache()) == (0, 2 * COUNT)
    plain = batches_of(recipe_of(**PLAIN, buckets=buckets), method, photos)
    assert_same(take(cached, 12), take(plain, 12), atol=ROUNDING)


def made(said: str) -> tuple[int, int]:
    """(found, made) over all buckets."""
    words = said.replace(",", "").split()
    return tuple(sum(int(words[i - 1]) for i, w in enumerate(words) if w == key) for key in ("found", "made"))


def test_the_cached_views_of_random_crops_are_drawn_once_and_all_of_them_come(
    photos: str, method: InstructEdit, store: Store
) -> None:
    source = batches_of(recipe_of(**CROPS), method, photos, store)
    assert made(source.fill_cache()) == (0, 3 * COUNT)
    sizes = sizes_of(photos, method)
    dataset = open_dataset(photos)
    expected = {}
    for row in range(COUNT):
        content = hashlib.sha256(method.pictures_of(dataset[row])[-1].read_bytes()).digest()
        for number in range(3):
            draws = Draws(SEED, [int.from_bytes(content[:7], "big") + number], CACHED_VIEW)
            coin, x, y = draws.uniform(3)[0].tolist()
            expected[row, number] = encoded(method, photos, row, View(coin < 0.5, x, y), sizes[row], "random")
    seen = defaultdict(set)
    for row, _, tensors, _ in entries(take(source, 150)):
        which = [number for number in range(3) if is_close(tensors, expected[row, number])]
        assert which, "every batch holds one of the three"
        seen[row].update(which)
    assert dict(seen) == {row: {0, 1, 2} for row in range(COUNT)}


def test_views_of_different_examples_differ(photos: str, method: InstructEdit, store: Store) -> None:
    views = batches_of(recipe_of(**CROPS), method, photos, store)._view
    assert len({views(row, number) for row in range(COUNT) for number in range(3)}) == 3 * COUNT


def test_one_changed_picture_is_one_example_encoded_anew(tmp_path: Path, method: InstructEdit, store: Store) -> None:
    where = write_photos(tmp_path / "photos")
    fill = lambda: made(batches_of(recipe_of(**FLIPS), method, where, store).fill_cache())  # noqa: E731
    assert fill() == (0, 2 * COUNT)
    assert fill() == (2 * COUNT, 0)
    path = tmp_path / "photos" / "before" / "04.png"
    photo(99, SHAPES[4][0]).save(path)
    assert fill() == (2 * COUNT - 2, 2)
    batches = take(batches_of(recipe_of(**FLIPS), method, where, store), 12)
    assert_same(batches, take(batches_of(recipe_of(**PLAIN), method, where), 12), atol=ROUNDING)


def test_what_is_made_otherwise_is_never_taken_from_the_store(
    photos: str, tiny_sd: Path, method: InstructEdit, store: Store
) -> None:
    def fill(of: InstructEdit = method, *, precision: str = "fp32", **data: Any) -> tuple[int, int]:
        return made(batches_of(recipe_of(precision=precision, **data), of, photos, store).fill_cache())

    centre = {"cache_latents": True}
    assert fill(**centre) == (0, COUNT)
    smaller = {"resolution": 16, "buckets": Buckets(sides=[16], step=8)}
    assert fill(**centre, **smaller) == (0, COUNT)
    assert fill(**centre, crop="random", cache_views=1) == (0, COUNT)
    assert fill(**centre, precision="bf16") == (0, COUNT)
    other = method_of(tiny_sd, recipe_of())
    with torch.no_grad():
        next(other.frozen_encoders["vae"].parameters()).view(-1)[0] += 1e-3
    assert fill(other, **centre) == (0, COUNT)
    assert fill(**centre) == (COUNT, 0)
    assert fill(**FLIPS) == (COUNT, COUNT), "the centre is the same with a mirror beside it"


def test_entries_that_are_lost_in_mid_run_are_made_again(
    photos: str, method: InstructEdit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "store"
    expected = take(batches_of(recipe_of(**PLAIN, workers=2), method, photos), 14)
    draw = random.Random(0)
    with Store(folder, limit_bytes=LIMIT) as store:
        source = batches_of(recipe_of(**FLIPS, workers=2), method, photos, store)
        source.fill_cache()
        first = [source.take() for _ in range(2)]
        kept = store.get([source._key(row, view) for row in range(COUNT) for view in (0, 1)])
        for entry in kept[::2]:
            assert entry is not None
            flip(folder, entry["mean"].numpy().tobytes(), draw)
        rest = take(source, 12)
        assert_same([*first, *rest], expected, atol=ROUNDING)
        assert "damaged entries are dropped" in capsys.readouterr().out
        used = [source._key(row, view) for row in range(COUNT) for view in (0, 1)]
        assert store.missing(used) == [], "and what was made again is kept"


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("ahead", [1, 4])
@pytest.mark.parametrize("data", [PLAIN, CROPS], ids=["plain", "cached"])
def test_workers_change_nothing(
    photos: str, method: InstructEdit, store: Store, data: dict[str, Any], workers: int, ahead: int
) -> None:
    kept = store if data["cache_latents"] else None
    alone = batches_of(recipe_of(**data), method, photos, kept)
    if kept:
        alone.fill_cache()
    expected = take(alone, 20)
    assert_same(take(batches_of(recipe_of(**data, workers=workers, ahead=ahead), method, photos, kept), 20), expected)


@pytest.mark.parametrize("workers", [0, 3])
def test_a_state_goes_on_with_the_next_batch_whatever_was_prepared(photos: str, method: InstructEdit, workers: int) -> None:
    recipe = recipe_of(**PLAIN, workers=workers, ahead=4)
    expected = take(batches_of(recipe, method, photos), 14)
    source = batches_of(recipe, method, photos)
    states = [source.state_dict()]
    for _ in range(6):
        source.take()
        states.append(source.state_dict())
    for done, state in enumerate(states):
        again = batches_of(recipe, method, photos)
        again.take()
        again.load_state_dict(state)
        assert_same(take(again, 3), expected[done : done + 3])
    source.load_state_dict(states[2])  # a roll-back, with batches under way
    assert_same(take(source, 3), expected[2:5])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_disappears_in_mid_run_is_named(tmp_path: Path, method: InstructEdit, workers: int) -> None:
    where = write_photos(tmp_path)
    source = batches_of(recipe_of(**PLAIN, workers=workers), method, where)
    source.take()
    gone = tmp_path / "after" / "03.png"
    gone.unlink()
    with pytest.raises(PictureError, match=r"after/03\.png: is missing"):
        take(source, COUNT)


@pytest.mark.parametrize("world", [2, 4])
def test_the_processes_share_the_batches_of_one(photos: str, method: InstructEdit, world: int) -> None:
    recipe = recipe_of(**PLAIN, workers=1)
    rounds = 5
    alone = take(batches_of(recipe, method, photos), rounds * world)
    of_ranks = [take(batches_of(recipe, method, photos, rank=r, world=world), rounds) for r in range(world)]
    positions = [p for taken in of_ranks for t in taken for p in t.planned.positions]
    assert len(set(positions)) == len(positions), "no example is taken twice"
    together = [of_ranks[r][i] for i in range(rounds) for r in range(world)]
    for i, t in enumerate(together):
        first = i // world * world
        assert t.samples == sum(len(a.planned.rows) for a in alone[first : first + world])
        t_alone = alone[i]
        assert t.planned == t_alone.planned
        for name in ("source", "mean", "std"):
            assert torch.equal(t.batch[name], t_alone.batch[name])


def test_the_cost_of_no_cache_is_said(photos: str, method: InstructEdit) -> None:
    assert "in every step" in batches_of(recipe_of(**PLAIN), method, photos).fill_cache()
