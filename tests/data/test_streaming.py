"""Our own folders on the disk and behind URLs: the same examples, in bounded memory, or one clear line."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.registry import _registry

from editkit.build.rows import parquet_schema, to_row
from editkit.cli import main
from editkit.data import read
from editkit.data.check import audit_pictures
from editkit.data.combine import Concatenated
from editkit.data.examples import CaptionedImage, EditPair, Example
from editkit.data.pictures import Picture
from editkit.data.read import ParquetDataset, open_dataset
from editkit.data.sampler import ShuffledStream
from editkit.errors import UserError
from tests.tiny import encoded, picture

COUNT, GROUP, SHARD = 60, 5, 40  # examples, examples a row group, examples a shard


def pair(number: int) -> EditPair:
    source, target = (Picture(data=encoded(picture(f"#{number:02x}{side}", (24, 20)))) for side in ("0033", "9900"))
    return EditPair(
        key=f"pair-{number:03d}",
        source=source,
        target=target,
        instructions=(f"do {number}", f"please do {number}"),
        category=("colour", "add")[number % 2],
        mask=Picture(data=encoded(picture("white"))) if number % 3 == 0 else None,
        source_facts={"hair": "red"},
        licence=("CC0", "CC BY 4.0")[number % 2],
    )


def captioned(number: int) -> CaptionedImage:
    return CaptionedImage(key=f"image-{number:03d}", image=pair(number).source, captions=(f"a {number}",), licence="CC0")


def write_folder(folder: Path, make=pair, name: str = "edits", credits: tuple[str, str] = ("Ann", "Bea")) -> Path:
    """A data-set folder as `editkit build` writes it, with small shards and row groups."""
    kind = "edit_pairs" if make is pair else "captioned_images"
    (folder / "data").mkdir(parents=True)
    shards = {}
    for split, count in (("train", COUNT), ("test", 6)):
        starts = range(0, count, SHARD)
        for number, start in enumerate(starts):
            rows = [to_row(make(i)) for i in range(start, min(start + SHARD, count))]
            path = folder / "data" / f"{split}-{number:05d}-of-{len(starts):05d}.parquet"
            table = pa.Table.from_pylist(rows, parquet_schema(kind))
            pq.write_table(table, path, row_group_size=GROUP, compression="zstd")
            shards[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    licences = {n: {"count": COUNT // 2, "credit": c} for n, c in zip(("CC0", "CC BY 4.0"), credits, strict=True)}
    manifest = {
        "format": 1, "kind": kind, "name": name, "counts": {"train": COUNT, "test": 6}, "licences": licences,
        "categories": {"train": {"add": 30, "colour": 30}}, "shards": shards,
        "sha256": hashlib.sha256(name.encode()).hexdigest(),
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(manifest))
    return folder


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A plain web server on loopback that knows byte ranges and lists no folders, as a store of objects does."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, body: bool) -> None:
            path = folder / self.path.lstrip("/")
            data = path.read_bytes() if path.is_file() else b"not here"
            status, sent = (200 if path.is_file() else 404), data
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked and status == 200:
                first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
                status, sent = 206, data[first : last + 1]
            self.send_response(status)
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            if body:
                self.wfile.write(sent)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def behind(protocol: str, folder: Path) -> Iterator[str]:
    """The URL of a copy of the folder."""
    if protocol == "folder":
        yield str(folder)
    elif protocol == "file":
        yield f"file://{folder}"
    elif protocol == "filecache":  # a local copy of what lies elsewhere, kept by fsspec; it is no local file system
        with behind("memory", folder) as where:
            yield f"filecache::{where}"
    elif protocol == "http":
        with served(folder) as where:
            yield where
    else:
        memory, name = fsspec.filesystem("memory"), uuid4().hex  # a new name, because file caches outlive a test
        memory.put(str(folder), f"/{name}", recursive=True)
        try:
            yield f"memory://{name}"
        finally:
            memory.rm(f"/{name}", recursive=True)


def flat(example: Example) -> tuple:
    """An example with its pictures as bytes."""
    values = (getattr(example, name) for name in example.__dataclass_fields__)
    return tuple(v.read_bytes() if isinstance(v, Picture) else v for v in values)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "edits")


URLS = ["memory", "file", "http", "filecache"]


@pytest.mark.parametrize("protocol", URLS)
@pytest.mark.parametrize("make", [pair, captioned])
def test_what_lies_behind_a_url_is_what_lies_on_the_disk(tmp_path: Path, protocol: str, make) -> None:
    folder = write_folder(tmp_path / "set", make)
    expected = [flat(make(i)) for i in range(COUNT)]
    assert [flat(open_dataset(str(folder))[i]) for i in range(COUNT)] == expected
    with behind(protocol, folder) as where:
        found = open_dataset(where)
        assert found.info == open_dataset(str(folder)).info
        assert found.group_sizes == [GROUP] * (COUNT // GROUP)
        assert list(found.texts()) == [make(i).instructions if make is pair else make(i).captions for i in range(COUNT)]
        assert audit_pictures(found, 0) == list(range(COUNT))
        order = [(37 * i) % COUNT for i in range(COUNT)]
        assert [flat(found[i]) for i in order] == [expected[i] for i in order]
        assert [e.key for e in map(open_dataset(where, limit=7).__getitem__, range(7))] == [e[0] for e in expected[:7]]
        with pytest.raises(IndexError):
            found[COUNT]


@pytest.mark.parametrize("protocol", URLS)
def test_check_takes_a_url(folder: Path, workplace: Path, protocol: str, capsys: pytest.CaptureFixture[str]) -> None:
    with behind(protocol, folder) as where:
        with pytest.raises(SystemExit) as left:
            main(["check", where, "--json"])
        assert left.value.code in (0, 1)
    splits = json.loads(capsys.readouterr().out)["splits"]
    assert {s: f["examples"] for s, f in splits.items()} == {"train": COUNT, "test": 6}
    found = {f["kind"] for split in splits.values() for f in split["findings"]}
    assert found <= {"split leak"}, "both splits begin with the same pictures"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, folder: Path) -> int:
    """Room for three row groups; returns how many bytes that is."""
    group = ParquetDataset(folder, "train")._read_group(0).nbytes
    monkeypatch.setattr(read, "RESIDENT_BYTES", int(3.5 * group))
    return int(3.5 * group)


class Counted(ParquetDataset):
    """Counts what is read, and what is in memory at most."""

    def __init__(self, where: str | Path) -> None:
        super().__init__(where, "train")
        self.reads = 0
        self.peak = 0

    def _read_group(self, number: int) -> read.Rows:
        self.reads += 1
        return super()._read_group(number)

    def __getitem__(self, index: int) -> Example:
        example = super().__getitem__(index)
        self.peak = max(self.peak, len(self._resident._groups))
        return example


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_a_data_set_larger_than_memory_comes_by_whole(folder: Path, small: int, protocol: str) -> None:
    with behind(protocol, folder) as where:
        dataset = Counted(where)
        window = dataset.window
        assert window == 1, "two windows fit: the one in hand and the next"
        stream = ShuffledStream(COUNT, 4, dataset.group_sizes, window)
        for epoch in (1, 2):
            keys = [dataset[stream.at((epoch - 1) * COUNT + i)].key for i in range(COUNT)]
            assert sorted(keys) == [f"pair-{i:03d}" for i in range(COUNT)]
            assert keys != sorted(keys)
            assert dataset.reads <= epoch * COUNT // GROUP, "each group is read once an epoch"
        assert dataset.peak <= 3
        assert dataset._resident._nbytes <= small


def test_without_a_window_a_small_memory_is_as_true_and_only_slower(folder: Path, small: int) -> None:
    dataset = Counted(folder)
    order = [(23 * i) % COUNT for i in range(COUNT)]
    assert [dataset[i].key for i in order] == [f"pair-{i:03d}" for i in order]
    assert dataset.reads > COUNT // GROUP
    assert dataset.peak <= 3


def test_what_fits_is_read_once_and_shuffled_whole(folder: Path) -> None:
    dataset = Counted(folder)
    assert dataset.window == 0
    for i in range(3 * COUNT):
        _ = dataset[(23 * i) % COUNT]
    assert dataset.reads == COUNT // GROUP


@pytest.mark.parametrize("protocol", ["file", "http"])
def test_many_threads_read_at_once(folder: Path, small: int, protocol: str) -> None:
    expected = [flat(pair(i)) for i in range(COUNT)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with behind(protocol, folder) as where, ThreadPoolExecutor(8) as pool:
            dataset = Counted(where)
            order = [(i * i + 7 * i) % COUNT for i in range(400)]
            assert list(pool.map(lambda i: flat(dataset[i]), order)) == [expected[i] for i in order]
    finally:
        sys.setswitchinterval(before)
    resident = dataset._resident
    assert resident._nbytes == sum(rows.nbytes for rows in resident._groups.values()) <= small


def test_threads_that_want_the_same_group_read_it_once(folder: Path) -> None:
    dataset = Counted(folder)
    meet = threading.Barrier(8)

    def ask(number: int) -> str:
        meet.wait()
        return dataset[number % GROUP].key

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert dataset.reads == 1


def test_a_data_set_travels_to_another_process(folder: Path) -> None:
    dataset = open_dataset(f"file://{folder}")
    _ = dataset[3]
    assert flat(pickle.loads(pickle.dumps(dataset))[41]) == flat(pair(41))


def test_a_limit_keeps_the_groups_of_what_is_left(folder: Path) -> None:
    assert open_dataset(str(folder), limit=12).group_sizes == [5, 5, 2]
    assert open_dataset(str(folder), limit=10).group_sizes == [5, 5]
    assert open_dataset(str(folder), limit=1000).group_sizes == [GROUP] * (COUNT // GROUP)


@pytest.mark.parametrize("protocol", URLS)
def test_a_truncated_shard_is_one_clear_line(folder: Path, protocol: str) -> None:
    shard = folder / "data" / "train-00001-of-00002.parquet"
    shard.write_bytes(shard.read_bytes()[:-7])
    with behind(protocol, folder) as where, pytest.raises(UserError) as caught:
        _ = audit_pictures(open_dataset(where), 0)
    assert "\n" not in str(caught.value)
    assert "train-00001-of-00002.parquet" in str(caught.value)


@pytest.mark.parametrize("protocol", URLS)
def test_a_shard_that_is_damaged_inside_is_one_clear_line(folder: Path, protocol: str) -> None:
    shard = folder / "data" / "train-00000-of-00002.parquet"
    data = bytearray(shard.read_bytes())
    data[4:2000] = bytes(1996)
    shard.write_bytes(data)
    with behind(protocol, folder) as where, pytest.raises(UserError, match=r"train-00000-of-00002\.parquet") as caught:
        _ = open_dataset(where)[0]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", URLS)
def test_a_missing_shard_is_one_clear_line(folder: Path, protocol: str) -> None:
    (folder / "data" / "train-00001-of-00002.parquet").unlink()
    with behind(protocol, folder) as where, pytest.raises(UserError, match=r"train-00001-of-00002\.parquet") as caught:
        _ = audit_pictures(open_dataset(where), 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", [*URLS, "folder"])
def test_a_missing_dataset_json_is_one_clear_line(folder: Path, protocol: str) -> None:
    (folder / "dataset.json").unlink()
    with behind(protocol, folder) as where:
        with pytest.raises(UserError, match=r"dataset\.json") as caught:
            open_dataset(where)
        assert where in str(caught.value)
        assert "\n" not in str(caught.value)


def change(folder: Path, **values: object) -> str:
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return str(folder)


def test_what_dataset_json_says_is_checked(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='no split "nothing"; it has train, test'):
        open_dataset(str(folder), "nothing")
    with pytest.raises(UserError, match="format 99"):
        open_dataset(change(folder, format=99))
    with pytest.raises(UserError, match=r'found 60 examples of "train", dataset\.json says 61'):
        _ = open_dataset(change(folder, format=1, counts={"train": 61, "test": 6}))[0]
    (folder / "dataset.json").write_text("<html>")
    with pytest.raises(UserError, match=r"dataset\.json cannot be read"):
        open_dataset(str(folder))


def test_a_url_that_nothing_answers_is_one_clear_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="unknown kind of URL"):
        open_dataset("nowhere://edits")
    with served(folder) as where:
        pass
    with pytest.raises(UserError, match=r"dataset\.json") as caught:
        open_dataset(where)
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http")
    monkeypatch.delitem(_registry, "http")
    with pytest.raises(UserError, match=r'pip install "editkit\[http\]"'):
        open_dataset("http://127.0.0.1:1/edits")


def test_facts_of_several_data_sets_are_joined(tmp_path: Path) -> None:
    one = write_folder(tmp_path / "one", name="one", credits=("Anna", "Bea"))
    two = write_folder(tmp_path / "two", name="two", credits=("Ann", "Bea"))
    joined = Concatenated([open_dataset(str(one)), open_dataset(str(two), limit=9)])
    assert len(joined) == COUNT + 9
    assert [joined[i].key for i in (0, COUNT - 1, COUNT, COUNT + 8)] == ["pair-000", "pair-059", "pair-000", "pair-008"]
    info = joined.info
    assert (info["name"], info["kind"], info["counts"]) == ("one + two", "edit_pairs", {"train": 2 * COUNT, "test": 12})
    assert info["licences"] == {
        "CC0": {"count": COUNT, "credit": "Anna; Ann"},
        "CC BY 4.0": {"count": COUNT, "credit": "Bea"},
    }
    assert info["categories"] == {"train": {"add": 60, "colour": 60}}
    assert "shards" not in info, "what is true of one of them alone is not said of all"
    other = Concatenated([open_dataset(str(two)), open_dataset(str(one))])
    assert info["sha256"] != other.info["sha256"]
    for index in (-1, COUNT + 9):
        with pytest.raises(IndexError):
            joined[index]
