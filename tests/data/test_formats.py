"""Other people's data: three layouts, and everything that can be wrong with them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import datasets
import pytest
from PIL import Image

from editkit.data.check import audit_pictures
from editkit.data.read import open_dataset
from editkit.errors import UserError
from tests.data.doctor.looked import check_dataset
from tests.tiny import encoded, picture

HEAD = 'format = 1\nname = "mine"\nkind = "edit_pairs"\nlicence = "CC0"\n[split]\ntest = 0.0\n[read]\n'


def spec(folder: Path, body: str) -> str:
    (folder / "mine.toml").write_text(HEAD + body)
    return str(folder / "mine.toml")


def folder_data(root: Path, rows: list[dict], name: str = "metadata.jsonl") -> str:
    data = root / "edits"
    data.mkdir()
    for i, colour in enumerate(("red", "green", "blue", "black")):
        picture(colour).save(data / f"{i}.png")
    (data / name).write_text("".join(json.dumps(r) + "\n" for r in rows))
    return spec(
        root, 'layout = "folder"\npath = "edits"\n[read.columns]\nsource = "before"\ntarget = "after"\ninstruction = "text"\n'
    )


GOOD = [
    {"before": "0.png", "after": "1.png", "text": "make it green"},
    {"before": "2.png", "after": "3.png", "text": ["a", "b"]},
]


def test_a_folder_with_metadata(tmp_path: Path) -> None:
    dataset = open_dataset(folder_data(tmp_path, GOOD))
    assert len(dataset) == 2
    assert dataset[0].instructions == ("make it green",)
    assert dataset[1].instructions == ("a", "b")
    assert dataset[0].target.open().tobytes() == picture("green").tobytes()
    assert check_dataset(dataset).items == []


def test_a_csv_table(tmp_path: Path) -> None:
    where = folder_data(tmp_path, [])
    (tmp_path / "edits" / "metadata.jsonl").unlink()
    (tmp_path / "edits" / "metadata.csv").write_text('before,after,text\n0.png,1.png,"make it green, please"\n')
    assert open_dataset(where)[0].instructions == ("make it green, please",)


def test_two_folders_with_the_same_names(tmp_path: Path) -> None:
    for side, colour in (("in", "red"), ("out", "blue")):
        (tmp_path / side).mkdir()
        picture(colour).save(tmp_path / side / "a.png")
    (tmp_path / "out" / "a.txt").write_text("make it blue\n")
    dataset = open_dataset(spec(tmp_path, 'layout = "pairs"\nsource = "in"\ntarget = "out"\n'))
    assert dataset[0].instructions == ("make it blue",)
    assert check_dataset(dataset).items == []


@pytest.mark.parametrize("saved", ["parquet", "disk"])
def test_a_hugging_face_data_set_with_any_column_names(tmp_path: Path, saved: str) -> None:
    rows = {
        "input_image": [{"bytes": encoded(picture("red")), "path": None}],
        "edit_prompt": ["make it blue"],
        "edited_image": [{"bytes": encoded(picture("blue")), "path": None}],
    }
    features = datasets.Features(
        {"input_image": datasets.Image(), "edit_prompt": datasets.Value("string"), "edited_image": datasets.Image()}
    )
    table = datasets.Dataset.from_dict(rows, features=features)
    if saved == "disk":
        table.save_to_disk(tmp_path / "hf")
    else:
        (tmp_path / "hf").mkdir()
        table.to_parquet(tmp_path / "hf" / "train.parquet")
    columns = 'source = "input_image"\ntarget = "edited_image"\ninstruction = "edit_prompt"\n'
    dataset = open_dataset(spec(tmp_path, f'layout = "hf"\npath = "hf"\n[read.columns]\n{columns}'))
    assert dataset[0].source.open().tobytes() == picture("red").tobytes()
    assert dataset[0].instructions == ("make it blue",)


def test_a_wrong_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    rows = [{"before": "0.png", "aftr": "1.png", "text": "x"}]
    with pytest.raises(UserError, match=r'target: found no column "after"; did you mean "aftr"\?'):
        open_dataset(folder_data(tmp_path, rows))


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    where = folder_data(tmp_path, GOOD)
    (tmp_path / "edits" / "metadata.jsonl").write_text('{"before": "0.png"\n')
    with pytest.raises(UserError, match=r"metadata\.jsonl:1: not valid JSON"):
        open_dataset(where)


def test_the_doctor_names_every_fault(tmp_path: Path) -> None:
    rows = [
        {"before": "0.png", "after": "missing.png", "text": "x"},
        {"before": "0.png", "after": "0.png", "text": "x"},
        {"before": "0.png", "after": "small.png", "text": "x"},
        {"before": "0.png", "after": "notes.png", "text": "x"},
        {"before": "0.png", "after": "1.png", "text": "  "},
    ]
    where = folder_data(tmp_path, rows)
    Image.new("RGB", (16, 16), "green").save(tmp_path / "edits" / "small.png")  # with no edges that could move
    (tmp_path / "edits" / "notes.png").write_text("notes")
    found = {(f.kind, f.index) for f in check_dataset(open_dataset(where)).items}
    assert found == {
        ("orphan", 0), ("identical pair", 1), ("size mismatch", 2), ("unreadable", 3), ("empty text", 4), ("orphan", -1),
    }  # fmt: skip


def test_training_refuses_broken_pictures_unless_told_how_many(tmp_path: Path) -> None:
    where = folder_data(tmp_path, [*GOOD, {"before": "0.png", "after": "none.png", "text": "x"}])
    with pytest.raises(UserError, match=r"1 examples have pictures that cannot be used, data.max_skipped allows 0: .*none.png"):
        audit_pictures(open_dataset(where), 0)
    assert audit_pictures(open_dataset(where), 1) == [0, 1]


def test_the_hash_follows_the_bytes(tmp_path: Path) -> None:
    where = folder_data(tmp_path, GOOD)
    before = open_dataset(where).info["sha256"]
    assert open_dataset(where).info["sha256"] == before
    picture("white").save(tmp_path / "edits" / "3.png")
    assert open_dataset(where).info["sha256"] != before


def test_splits_are_stable_and_apart(tmp_path: Path) -> None:
    data = tmp_path / "edits"
    data.mkdir()
    picture("red").save(data / "0.png")
    (data / "metadata.jsonl").write_text(
        "".join(json.dumps({"source": "0.png", "target": "0.png", "instruction": str(i)}) + "\n" for i in range(200))
    )
    where = spec(tmp_path, 'layout = "folder"\npath = "edits"\n')
    Path(where).write_text(Path(where).read_text().replace("test = 0.0", "test = 0.25"))
    train, test = (open_dataset(where, s) for s in ("train", "test"))
    keys = [{d[i].key for i in range(len(d))} for d in (train, test)]
    assert not keys[0] & keys[1]
    assert len(keys[0] | keys[1]) == 200
    assert 25 <= len(test) <= 75


def test_our_own_folder_is_verified_and_travels_to_workers(workplace: Path) -> None:
    from editkit.build import build

    text = (
        'format = 1\nname = "small"\nkind = "captioned_images"\n[build]\nbuilder = "avatars"\ntrain = 3\ntest = 1\nsize = 16\n'
    )
    (workplace / "small.toml").write_text(text)
    folder = build("small.toml")
    dataset = pickle.loads(pickle.dumps(open_dataset("small.toml")))
    assert dataset[2].captions
    assert audit_pictures(dataset, 0) == [0, 1, 2]
    (workplace / "small.toml").write_text(text.replace("train = 3", "train = 4"))
    with pytest.raises(UserError, match="was built from another version"):
        open_dataset("small.toml")
    shard = next((folder / "data").glob("train-*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match="not what was built"):
        audit_pictures(open_dataset(str(folder)), 0)
