"""`builder = "scenes"`: data sets of captioned scenes and of edits, with the credits that their art asks for."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from editkit.build import build
from editkit.data.read import open_dataset
from editkit.errors import UserError
from editkit.lab.scene_words import EDITS

SPEC = """
format = 1
name = "small"
kind = "{kind}"
licence = "CC BY-SA 4.0"

[build]
builder = "scenes"
train = 40
test = 8
size = {size}
"""


@pytest.mark.parametrize(("kind", "size"), [("captioned_images", 32), ("edit_pairs", 64)])
def test_a_built_set_has_its_size_licences_and_credits(workplace: Path, kind: str, size: int) -> None:
    Path("small.toml").write_text(SPEC.format(kind=kind, size=size))
    folder = build("small.toml")
    facts = json.loads((folder / "dataset.json").read_text())
    assert facts["counts"] == {"train": 40, "test": 8}
    assert "OpenMoji" in facts["licences"]["CC BY-SA 4.0"]["credit"]
    assert "OpenMoji" in (folder / "README.md").read_text()
    dataset = open_dataset("small.toml")
    example = dataset[0]
    picture = example.target if kind == "edit_pairs" else example.image
    assert picture.open().size == (size, size)
    if kind == "edit_pairs":
        assert set(Counter(dataset[i].category for i in range(40))) == set(EDITS)


def test_other_sizes_are_one_line(workplace: Path) -> None:
    Path("small.toml").write_text(SPEC.format(kind="edit_pairs", size=48))
    with pytest.raises(UserError, match=r"size.*32.*64"):
        build("small.toml")
