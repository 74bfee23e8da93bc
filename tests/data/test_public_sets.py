"""Every data spec of the repository that reads somebody else's data, on a small file of exactly that shape."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from editkit.data.examples import CaptionedImage, EditPair
from editkit.data.formats import RowDataset
from editkit.data.pictures import Picture
from editkit.data.read import open_dataset
from editkit.data.spec import load_spec
from editkit.errors import UserError
from tests.data import more_shapes  # noqa: F401  (it registers its shapes)
from tests.data.doctor.looked import check_dataset
from tests.data.shapes import SHAPES, Pair
from tests.tiny import picture

SPECS = Path(__file__).parents[2] / "data_specs"
FOREIGN = sorted(p.stem for p in SPECS.glob("*.toml") if load_spec(p)[0].read is not None)


def placed(name: str, root: Path) -> tuple[str, list[Pair]]:
    """The spec beside data of its shape; every share for testing is set to 0, so that train is all."""
    (root / "data_specs").mkdir(exist_ok=True)
    for path in SPECS.glob("*.toml"):
        shutil.copy(path, root / "data_specs")
    path = root / "data_specs" / f"{name}.toml"
    head, _, tail = path.read_text(encoding="utf-8").partition("\n[split]\n")
    path.write_text(head + "\n[split]\ntest = 0.0\n" + "\n".join(tail.splitlines()[1:]), encoding="utf-8")
    return str(path), SHAPES[name](root)


def seen(found: Picture) -> tuple[int, ...]:
    """The colour in the lower right corner, where `picture` has its own."""
    return found.open().getpixel((30, 30))  # ty: ignore[invalid-return-type]


def colour(name: str) -> tuple[int, ...]:
    return picture(name).getpixel((30, 30))  # ty: ignore[invalid-return-type]


def test_every_spec_has_a_shape() -> None:
    assert sorted(SHAPES) == FOREIGN


@pytest.mark.parametrize("name", FOREIGN)
def test_the_spec_reads_what_the_data_set_holds(name: str, tmp_path: Path) -> None:
    path, expected = placed(name, tmp_path)
    spec, _ = load_spec(path)
    dataset = open_dataset(path, "test" if spec.role == "evaluation" else "train")
    assert isinstance(dataset, RowDataset)
    assert len(dataset) == len(expected)
    for index, pair in enumerate(expected):
        same(dataset[index], pair)
    assert list(dataset.texts()) == [tuple(pair.texts) for pair in expected]
    assert not check_dataset(dataset).items
    assert dataset.info["licences"][spec.licence]["count"] == len(expected)


def same(example: Any, pair: Pair) -> None:
    shown = example.image if isinstance(example, CaptionedImage) else example.source
    texts = example.captions if isinstance(example, CaptionedImage) else example.instructions
    assert np.allclose(seen(shown), colour(pair.source), atol=3)
    assert list(texts) == pair.texts
    assert (pair.target is not None) == isinstance(example, EditPair)
    if pair.target is not None:
        assert np.allclose(seen(example.target), colour(pair.target), atol=3)
    for name, value in pair.more.items():
        found = getattr(example, name)
        if name == "references":
            assert [seen(p) for p in found] == [colour(c) for c in value]
        elif name == "mask":
            assert [found.open().getpixel((x, 16))[0] for x in (2, 29)] == list(value)
        else:
            assert found == value, name


@pytest.mark.parametrize("name", FOREIGN)
def test_an_absent_data_set_is_one_line_that_says_how_to_get_it(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(SPECS, tmp_path / "data_specs")
    spec, _ = load_spec(tmp_path / "data_specs" / f"{name}.toml")
    with pytest.raises(UserError) as refused:
        open_dataset(f"data_specs/{name}.toml", "test" if spec.role == "evaluation" else "train")
    said = str(refused.value)
    assert "\n" not in said
    if not name.startswith("example_"):
        assert spec.name in said or (spec.read is not None and spec.read.repo in said)
        assert "get it" in said or "hf download" in said or "found nothing at" in said


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_unverified_is_a_key_of_the_spec(name: str) -> None:
    values = tomllib.loads((SPECS / f"{name}.toml").read_text(encoding="utf-8"))
    if "extends" in values:
        parent = tomllib.loads((SPECS / values["extends"]).read_text(encoding="utf-8"))
        values = parent | values | {"read": parent["read"] | values.get("read", {})}
    for key in values.get("unverified", []):
        table: Any = values
        for part in key.split("."):
            assert part in table, f"{name}: {key}"
            table = table[part]


@pytest.mark.parametrize("name", [n for n in FOREIGN if not n.startswith("example_")])
def test_a_public_spec_says_whose_it_is(name: str) -> None:
    spec, _ = load_spec(SPECS / f"{name}.toml")
    assert spec.read is not None
    assert spec.credit
    assert spec.licence
    assert spec.homepage or spec.get
    assert spec.read.repo or spec.get


@pytest.mark.parametrize("name", [n for n in FOREIGN if load_spec(SPECS / f"{n}.toml")[0].role == "evaluation"])
def test_an_evaluation_set_cannot_be_trained_on(name: str, tmp_path: Path) -> None:
    path, _ = placed(name, tmp_path)
    with pytest.raises(UserError, match='role = "evaluation"'):
        open_dataset(path, "train")


def test_splits_of_the_hub_and_sessions_stay_apart(tmp_path: Path) -> None:
    path, _ = placed("magicbrush", tmp_path)
    dev = open_dataset(path, "test")
    assert len(dev) == 1
    assert dev[0].instructions == ("night",)
