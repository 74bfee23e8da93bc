"""Recipes whose data come from several places, or from a URL, trained to the end."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from editkit.data import read
from editkit.data.read import ParquetDataset
from editkit.data.sampler import MixedStream, ShuffledStream
from editkit.errors import UserError
from editkit.recipe.load import load_recipe
from editkit.train.run import train
from editkit.train.setup import check_recipe, make_stream, prepare_run
from tests.data.test_streaming import COUNT, GROUP, behind, captioned, write_folder
from tests.train.photos import SHAPES, write_photos

RECIPE = """\
format = 1
name = "mixed"
[method]
name = "instruct_edit"
[model]
family = "stable_diffusion"
base = "{base}"
[data]
train = "{first}"
resolution = 32
flip = 0.5
cache_texts = true
[data.buckets]
sides = [32]
step = 8
[[data.mix]]
train = "{second}"
weight = 0.5
[optim]
lr = 1e-3
[train]
steps = 4
batch_size = 4
log_every = 1
[evaluate]
steps = 1
"""


def write_recipe(base: Path, first: str, second: str) -> str:
    Path("mixed.toml").write_text(RECIPE.format(base=base, first=first, second=second))
    return "mixed.toml"


def test_a_mixture_of_a_url_and_a_folder_of_photos_trains_to_the_end(workplace: Path, tiny_sd: Path) -> None:
    first = write_folder(workplace / "edits")
    second = write_photos(workplace / "photos")
    with behind("memory", first) as where:
        run = train(write_recipe(tiny_sd, where, second), [])
    assert (run / "model" / "model_index.json").is_file()
    facts = json.loads((run / "run.json").read_text())
    assert facts["state"] == "done"
    data = facts["data"]
    assert (data["name"], data["kind"], data["skipped"]) == ("edits + photos", "edit_pairs", 0)
    assert data["counts"] == {"train": COUNT + len(SHAPES), "test": 6}
    assert data["licences"] == {
        "CC0": {"count": COUNT // 2 + len(SHAPES), "credit": "Ann"},
        "CC BY 4.0": {"count": COUNT // 2, "credit": "Bea"},
    }
    assert data["categories"] == {"train": {"add": 30, "colour": 30}}
    rows = list(csv.DictReader((run / "data.csv").open()))
    assert [r["key"] for r in rows[::2]] == [f"pair-{i:03d}" for i in range(COUNT)] + [f"{i:02d}" for i in range(len(SHAPES))]
    lines = [json.loads(s) for s in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line][:4] == [1, 2, 3, 4]
    paces = [json.loads(s) for s in (run / "pace.jsonl").read_text().splitlines()]
    assert all(0 <= pace["data_wait"] <= 1 for pace in paces)


def test_the_shares_of_the_recipe_are_those_of_the_order(workplace: Path, tiny_sd: Path) -> None:
    first = write_folder(workplace / "edits")
    recipe, source = load_recipe(write_recipe(tiny_sd, str(first), write_photos(workplace / "photos")))
    stream = make_stream(prepare_run(recipe, source))
    assert isinstance(stream, MixedStream)
    found = Counter(stream.at(i) >= COUNT for i in range(1000))
    assert found == {False: 667, True: 333}, "one photo for every two of the others"


def test_kinds_that_differ_are_refused_with_file_line_and_key(workplace: Path, tiny_sd: Path) -> None:
    first, second = write_folder(workplace / "edits"), write_folder(workplace / "captions", captioned)
    recipe = write_recipe(tiny_sd, str(first), str(second))
    line = 1 + RECIPE.splitlines().index("[[data.mix]]")
    with pytest.raises(UserError, match=rf'^mixed\.toml:{line}: data\.mix\.0\.train = "{second}": found captioned_images; '):
        train(recipe, [])
    line = 1 + RECIPE.splitlines().index('train = "{first}"')
    with pytest.raises(UserError, match=rf"^mixed\.toml:{line}: data\.train = "):
        train(write_recipe(tiny_sd, str(second), str(first)), [])
    assert not Path("runs").exists()


def test_a_recipe_whose_data_lie_behind_a_url_is_checked(workplace: Path, tiny_sd: Path) -> None:
    folder = write_folder(workplace / "edits")
    with behind("http", folder) as where:
        facts = check_recipe(write_recipe(tiny_sd, where, str(folder)))
    assert facts["training examples"] == 2 * COUNT


def test_a_part_without_one_readable_picture_is_refused(workplace: Path, tiny_sd: Path) -> None:
    first, second = write_folder(workplace / "edits"), write_photos(workplace / "photos")
    for path in (workplace / "photos" / "after").glob("*.png"):
        path.write_bytes(b"")
    recipe, source = load_recipe(write_recipe(tiny_sd, str(first), second), ["data.max_skipped=99"])
    with pytest.raises(UserError, match=r"photos\.toml: found no example whose pictures can be read"):
        prepare_run(recipe, source)


@pytest.mark.parametrize("limit", [0, 42])
def test_larger_than_memory_the_order_goes_by_windows(
    workplace: Path, tiny_sd: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    folder = write_folder(workplace / "edits")
    text = Path(write_recipe(tiny_sd, str(folder), "")).read_text().replace('[[data.mix]]\ntrain = ""\nweight = 0.5\n', "")
    Path("mixed.toml").write_text(text)
    monkeypatch.setattr(read, "RESIDENT_BYTES", 4 * ParquetDataset(folder, "train")._groups[0].nbytes)
    recipe, source = load_recipe("mixed.toml", [f"data.limit={limit}"])
    stream = make_stream(prepare_run(recipe, source))
    assert isinstance(stream, ShuffledStream)
    count = limit or COUNT
    order = [stream.at(i) for i in range(count)]
    assert sorted(order) == list(range(count))
    for start in range(0, count - 2 * GROUP, 2 * GROUP):
        assert len({row // GROUP for row in order[start : start + 2 * GROUP]}) <= 3, "two groups at a time, and a short one"
