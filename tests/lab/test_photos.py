"""The photographs that come inside packages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from editkit.build.pipeline import build_spec
from editkit.data.read import open_dataset
from editkit.lab.photos import PHOTOGRAPHS

SPEC = 'format = 1\nname = "photos"\nkind = "captioned_images"\n[build]\nbuilder = "photos"\n'


def test_whole_photographs_with_words_and_licences(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITKIT_CACHE", str(workplace / "cache"))
    Path("photos.toml").write_text(SPEC, encoding="utf-8")
    folder = build_spec(Path("photos.toml"), None)
    manifest = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    assert manifest["counts"] == {"train": 6, "test": 2}
    assert all(entry["credit"] for entry in manifest["licences"].values())
    for split, photographs in PHOTOGRAPHS.items():
        for example, photograph in zip(open_dataset(str(folder), split), photographs, strict=True):
            picture = example.image.open()
            assert min(picture.size) >= 300
            assert example.captions == photograph.captions
            assert example.licence == photograph.licence
            assert picture.convert("HSV").getchannel("S").getextrema()[1] > 100  # in colour


def test_no_photograph_is_in_both_splits() -> None:
    files = [(p.package, p.file) for split in PHOTOGRAPHS.values() for p in split]
    assert len(files) == len(set(files))
