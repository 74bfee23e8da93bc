"""Pictures and shards inside tar files, whole or in parts."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editkit.data.archives import WebDatasetRows, find_archives, members_of, picture_of
from editkit.data.read import open_dataset
from editkit.errors import UserError
from tests.data.shapes import jsonl, tar
from tests.tiny import encoded, picture

FILES = {f"a/{n}.png": encoded(picture(c)) for n, c in enumerate(("red", "green", "blue"))}


@settings(max_examples=20)
@given(parts=st.integers(2, 40))
def test_parts_read_as_the_whole_does(tmp_path_factory: pytest.TempPathFactory, parts: int) -> None:
    folder = tmp_path_factory.mktemp("parts")
    tar(folder / "x.tar", FILES, parts)
    archives = find_archives(folder, "*.tar*")
    assert [a.name for a in archives] == ["x.tar"]
    assert {m.name: m.read() for m in members_of(archives)} == FILES


def test_a_picture_in_an_archive_travels_to_workers(tmp_path: Path) -> None:
    tar(tmp_path / "x.tar", FILES, 3)
    member = next(iter(members_of(find_archives(tmp_path, "*"))))
    found = pickle.loads(pickle.dumps(picture_of(member)))
    assert found.open().tobytes() == picture("red").tobytes()
    assert found.name == "x.tar:a/0.png"


def test_a_compressed_archive_is_refused_with_what_unpacks_it(tmp_path: Path) -> None:
    tar(tmp_path / "x.tar", FILES)
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress((tmp_path / "x.tar").read_bytes()))
    with pytest.raises(UserError, match=r"x\.tar\.gz: is compressed.*unpack it: tar -xzf"):
        find_archives(tmp_path, "*.gz")
    (tmp_path / "x.tar.gz").rename(tmp_path / "x.tar.gz.part-aa")
    with pytest.raises(UserError, match=r"cat .*x\.tar\.gz\.\* \| tar -xzf -"):
        find_archives(tmp_path, "*.gz*")


def test_a_missing_part_is_one_line(tmp_path: Path) -> None:
    tar(tmp_path / "x.tar", FILES, 4)
    for number in (3, 2, 1):
        (tmp_path / f"x.tar.split.{number:03d}").unlink()
    with pytest.raises(UserError, match=r"x\.tar: cannot be read as a tar file .*are all of its parts there"):
        list(members_of(find_archives(tmp_path, "*")))


def test_a_webdataset_groups_neighbours_by_their_name(tmp_path: Path) -> None:
    members = {"a/1.in.png": b"1", "a/1.out.png": b"2", "a/1.txt": "blå".encode(), "a/2.in.png": b"3", "b/2.in.png": b"4"}
    tar(tmp_path / "0.tar", members)
    rows = WebDatasetRows(find_archives(tmp_path, "*.tar"))
    assert [(r["__key__"], sorted(k for k in r if k != "__key__")) for r in (rows[i] for i in range(len(rows)))] == [
        ("a/1", ["in.png", "out.png", "txt"]),
        ("a/2", ["in.png"]),
        ("b/2", ["in.png"]),
    ]
    assert rows[0]["txt"] == "blå"


def test_pictures_beside_archives_are_found_too_and_absent_ones_are_named(tmp_path: Path) -> None:
    tar(tmp_path / "data/x.tar", {"a.png": FILES["a/0.png"]})
    picture("blue").save(tmp_path / "data/b.png")
    rows = [{"source": "a.png", "target": name, "instruction": "x"} for name in ("b.png", "c.png")]
    jsonl(tmp_path / "data/metadata.jsonl", *rows)
    head = 'format = 1\nname = "mine"\nkind = "edit_pairs"\n[split]\ntest = 0.0\n[read]\nlayout = "folder"\npath = "data"\n'
    (tmp_path / "mine.toml").write_text(head + 'archives = "*.tar"\n')
    dataset = open_dataset(str(tmp_path / "mine.toml"))
    assert dataset[0].source.open().tobytes() == picture("red").tobytes()
    assert dataset[0].target.open().tobytes() == picture("blue").tobytes()
    with pytest.raises(UserError, match=r"c\.png: is missing"):
        dataset[1].target.open()
