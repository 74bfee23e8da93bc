"""The cache: what a key depends on, round trips, damage, kills, several processes, eviction."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from editkit.data import cache
from editkit.data.cache import cache_limit, entry_key, fill, open_cache, weights_hash
from editkit.data.pictures import Picture
from editkit.data.shard import Tensors
from editkit.data.store import Store
from editkit.errors import UserError

MB = 2**20
LIMIT = 100 * MB
BATCH = 8
# Children come from a process without threads that has imported what they need, so that a hundred kills take seconds.
FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload([__name__])
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.int64, torch.bool]


def keys_of(count: int) -> list[str]:
    return [entry_key(content=[str(n).encode()]) for n in range(count)]


def entry(row: int, numbers: int = 600) -> Tensors:
    generator = torch.Generator().manual_seed(row)
    return {"mean": torch.randn(numbers, generator=generator), "row": torch.tensor(row)}


def entries(rows: list[int]) -> list[Tensors]:
    return [entry(row) for row in rows]


def same(a: Tensors | None, b: Tensors) -> bool:
    if a is None or a.keys() != b.keys():
        return False
    return all((a[k].dtype, a[k].shape) == (b[k].dtype, b[k].shape) and torch.equal(bits(a[k]), bits(b[k])) for k in a)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8)


def all_there(store: Store, keys: list[str]) -> bool:
    return all(same(found, entry(row)) for row, found in enumerate(store.get(keys)))


class TestKeys:
    base = {"prepare": {"resolution": 64, "crop": "center"}, "encoder": "vae", "weights": weights_hash({"w": torch.zeros(2)})}

    def test_everything_that_an_entry_depends_on_changes_its_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        key = entry_key(content=[b"ab", b"c"], **self.base)
        changed = [
            {"prepare": {"resolution": 32, "crop": "center"}},
            {"prepare": {"resolution": 64, "crop": "random"}},
            {"encoder": "clip"},
            {"weights": weights_hash({"w": torch.tensor([0.0, 1e-7])})},
            {"view": {"flip": True}},
        ]
        keys = {key, *(entry_key(content=[b"ab", b"c"], **(self.base | c)) for c in changed)}
        keys |= {entry_key(content=c, **self.base) for c in ([b"ab", b"d"], [b"a", b"bc"], [b"abc"], [b"c", b"ab"])}
        assert entry_key(content=[b"ab", b"c"], **dict(reversed(self.base.items()))) == key
        monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
        keys.add(entry_key(content=[b"ab", b"c"], **self.base))
        assert len(keys) == 1 + len(changed) + 4 + 1

    def test_weights_differ_by_name_type_shape_and_bit_and_not_by_order(self) -> None:
        zeros = torch.zeros(2, 2)
        several = [
            {"w": zeros}, {"v": zeros}, {"w": zeros.bfloat16()}, {"w": zeros.half()}, {"w": zeros.view(4)},
            {"w": -zeros}, {"w": zeros, "v": zeros}, {"w": torch.zeros(0)}, {"w": torch.zeros(())},
            {"w": torch.zeros(1, 6)[:, 2]},
        ]  # fmt: skip
        assert len({weights_hash(w) for w in several}) == len(several)
        a, b = torch.randn(3, 4), torch.randn(2)
        assert weights_hash({"a": a, "b": b}) == weights_hash({"b": b, "a": a.T.contiguous().T})

    def test_one_changed_byte_of_one_picture_costs_one_entry(self, tmp_path: Path) -> None:
        files = [tmp_path / f"{n}.png" for n in range(6)]
        for n, file in enumerate(files):
            Image.new("RGB", (8 + n, 8), "red").save(file)
        encoded_rows: list[int] = []

        def encode(rows: list[int]) -> list[Tensors]:
            encoded_rows.extend(rows)
            return entries(rows)

        def run(**parts: object) -> list[int]:
            encoded_rows.clear()
            keys = [entry_key(content=[Picture(file).read_bytes()], **(self.base | parts)) for file in files]
            with Store(tmp_path / "store", limit_bytes=LIMIT) as store:
                filled = fill(store, keys, encode, 4, "")
            assert (filled.found, filled.made) == (6 - len(encoded_rows), len(encoded_rows))
            return sorted(encoded_rows)

        assert run() == list(range(6))
        assert run() == []
        data = bytearray(files[3].read_bytes())
        data[-1] ^= 1
        files[3].write_bytes(data)
        assert run() == [3]
        assert run(prepare={"resolution": 65, "crop": "center"}) == list(range(6))
        assert run(weights=weights_hash({"w": torch.ones(2)})) == list(range(6))


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    tensor = torch.randint(0, 2 if dtype == torch.bool else 256, [*shape, dtype.itemsize], dtype=torch.uint8)
    return tensor.view(dtype).reshape(shape)  # any bits, so not-a-number as well


class TestStore:
    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(wanted=st.dictionaries(st.text(min_size=1, max_size=5), tensors(), max_size=4), number=st.integers(0))
    def test_every_type_and_shape_comes_back(self, tmp_path: Path, wanted: Tensors, number: int) -> None:
        key = entry_key(content=[], names=sorted(wanted), number=number, bits=weights_hash(wanted))
        with Store(tmp_path / "store", limit_bytes=LIMIT) as store:
            store.put({key: wanted})
            (found,) = store.get([key])
            assert same(found, wanted)
            for tensor in (found or {}).values():
                tensor.zero_()  # has memory of its own
            assert same(store.get([key])[0], wanted)

    def test_parts_of_one_tensor_can_be_stored(self, tmp_path: Path) -> None:
        whole = torch.randn(4, 6, requires_grad=True)
        with Store(tmp_path, limit_bytes=LIMIT) as store:
            store.put({"00": {"a": whole[1], "b": whole[1], "c": whole[:, 2]}})
            assert same(store.get(["00"])[0], {"a": whole[1].detach(), "b": whole[1].detach(), "c": whole[:, 2].detach()})

    def test_what_is_there_stays_and_what_is_not_is_missing(self, tmp_path: Path) -> None:
        keys = keys_of(40)
        with Store(tmp_path, limit_bytes=LIMIT) as store:
            assert store.missing(keys) == list(range(40))
            assert store.put({keys[n]: entry(n) for n in range(0, 40, 2)}) == 20
            assert store.put({keys[0]: entry(5), keys[1]: entry(1)}) == 1
            assert store.missing(keys) == list(range(3, 40, 2))
            assert same(store.get([keys[3], keys[0]])[1], entry(0))
            assert store.get([]) == []
        with pytest.raises(ValueError, match="closed"):
            store.get(keys)

    def test_the_map_grows_here_and_in_another_store_that_has_it_open(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("editkit.data.shard.FIRST_MAP", 2**16)
        keys = keys_of(64)
        with Store(tmp_path, limit_bytes=LIMIT) as store:
            child = FRESH.Process(target=put_large, args=(tmp_path, keys[:32]))
            child.start()
            child.join()
            assert child.exitcode == 0
            assert not store.missing(keys[:32])  # after the other one grew it
            store.put({key: entry(n, 50_000) for n, key in enumerate(keys)})
            assert all(same(e, entry(n, 50_000)) for n, e in enumerate(store.get(keys)))

    def test_a_fork_a_thread_and_another_store_of_the_same_process_share_it(self, tmp_path: Path) -> None:
        keys = keys_of(12)
        with Store(tmp_path, limit_bytes=LIMIT) as store, Store(tmp_path, limit_bytes=LIMIT) as second:
            store.put({keys[0]: entry(0)})
            assert same(second.get(keys[:1])[0], entry(0))
            child = os.fork()
            if child == 0:
                try:
                    store.put({keys[1]: entry(1)})
                    good = same(store.get(keys[:1])[0], entry(0)) and same(second.get(keys[1:2])[0], entry(1))
                    store.close()
                    os._exit(0 if good else 1)
                finally:
                    os._exit(2)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda n: store.put({keys[n]: entry(n)}), range(2, 12)))
            assert all_there(second, keys)
            assert len(list((tmp_path / "runs").iterdir())) == 2  # the child's end did not end its parent's run
            with pickle.loads(pickle.dumps(store)) as third:
                assert all_there(third, keys)
        assert not list((tmp_path / "runs").iterdir())

    def test_other_folders_and_newer_formats_are_refused_and_not_touched(self, tmp_path: Path) -> None:
        (tmp_path / "letter.txt").write_text("dear")
        with pytest.raises(UserError, match="no cache of editkit"):
            Store(tmp_path, limit_bytes=LIMIT)
        with pytest.raises(UserError, match="cannot be used"):
            Store(tmp_path / "letter.txt" / "x", limit_bytes=LIMIT)
        assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]
        Store(tmp_path / "store", limit_bytes=LIMIT).close()
        mark = tmp_path / "store" / "store.json"
        mark.write_text(json.dumps({"format": 2}))
        with pytest.raises(UserError, match="found format 2; this version knows up to 1"):
            Store(tmp_path / "store", limit_bytes=LIMIT)
        mark.write_text("{")
        with pytest.raises(UserError, match="cannot be read"):
            Store(tmp_path / "store", limit_bytes=LIMIT)
        mark.write_text(json.dumps({"format": 1}))
        for file in (tmp_path / "store").glob("*.lmdb"):
            file.write_bytes(b"no database" * 1000)
        with pytest.raises(UserError, match=r"0\.lmdb: is damaged"):
            Store(tmp_path / "store", limit_bytes=LIMIT)

    def test_flipped_bits_are_recognised_said_and_made_again(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        keys = keys_of(40)
        with Store(tmp_path, limit_bytes=LIMIT) as store:
            fill(store, keys, entries, BATCH, "")
        draw = random.Random(1)
        flipped = sorted(draw.sample(range(40), 7))
        for row in flipped:
            flip(tmp_path, entry(row)["mean"].numpy().tobytes(), draw)
        with Store(tmp_path, limit_bytes=LIMIT) as store:
            found = store.get(keys)
            assert [row for row, e in enumerate(found) if e is None] == flipped
            assert all(e is None or same(e, entry(row)) for row, e in enumerate(found))
            assert capsys.readouterr().out.count("7 damaged entries") == 1
            assert store.missing(keys) == flipped
            assert fill(store, keys, entries, BATCH, "").made == 7
            assert all_there(store, keys)
            assert not capsys.readouterr().out

    def test_the_limit_in_the_environment_is_in_gigabytes(self, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert cache_limit() == 50 * 10**9
        monkeypatch.setenv("EDITKIT_CACHE_GB", "0.5")
        with open_cache() as store:
            assert (store.folder, store.limit_bytes) == (workplace / "cache" / "encodings", 500_000_000)
        monkeypatch.setenv("EDITKIT_CACHE_GB", "much")
        with pytest.raises(UserError, match="found much"):
            open_cache()


def flip(folder: Path, inside: bytes, draw: random.Random) -> None:
    """Flips one bit of these bytes."""
    changed = bytearray(inside)
    changed[draw.randrange(len(inside))] ^= 1 << draw.randrange(8)
    for path in folder.glob("*.lmdb"):  # everywhere, because pages that hold less than they did keep old bytes behind it
        with path.open("r+b") as file:  # in place: a map of a file that is cut off, be it for a moment, ends the process
            whole = file.read()
            at = whole.find(inside)
            while at >= 0:
                file.seek(at)
                file.write(changed)
                at = whole.find(inside, at + 1)


def put_large(folder: Path, keys: list[str]) -> None:
    with Store(folder, limit_bytes=LIMIT) as store:
        store.put({key: entry(n, 50_000) for n, key in enumerate(keys)})


class TestEviction:
    size = 100  # entries of about 3 pages each that fit
    limit = size * 3 * 4096

    def run(self, folder: Path, keys: list[str], made: list[int] | None = None) -> None:
        with Store(folder, limit_bytes=self.limit) as store:
            filled = fill(store, keys, lambda rows: [entry(row, 2500) for row in rows], BATCH, "")
            assert all(same(e, entry(row, 2500)) for row, e in enumerate(store.get(keys)))
            assert store.size_bytes() <= self.limit
            if made is not None:
                made.append(filled.made)

    def test_the_least_recently_used_runs_go_and_the_limit_holds(self, tmp_path: Path) -> None:
        keys, made = keys_of(1000), []
        first, second = keys[:40], keys[40:80]
        self.run(tmp_path, first, made)
        self.run(tmp_path, second, made)
        self.run(tmp_path, first, made)  # used again, and so younger than the second
        self.run(tmp_path, keys[80:105], made)
        self.run(tmp_path, first, made)
        assert made == [40, 40, 0, 25, 0]
        with Store(tmp_path, limit_bytes=self.limit) as store:
            assert 5 <= len(store.missing(second)) < 20
            assert not store.missing(keys[80:105])
        for start in range(120, 1000, 40):
            self.run(tmp_path, keys[start : start + 40])
        assert sum(p.stat().st_size for p in tmp_path.glob("*.lmdb")) < 2 * self.limit

    def test_nothing_that_an_open_run_uses_is_evicted(self, tmp_path: Path) -> None:
        keys = keys_of(200)
        with Store(tmp_path, limit_bytes=self.limit) as store:
            fill(store, keys[:60], lambda rows: [entry(row, 2500) for row in rows], BATCH, "")
            self.run(tmp_path, keys[60:85])
            with Store(tmp_path, limit_bytes=self.limit) as other, pytest.raises(UserError, match="in use by running"):
                fill(other, keys[85:130], lambda rows: [entry(row, 2500) for row in rows], BATCH, "")
            assert not store.missing(keys[:60])
        self.run(tmp_path, keys[85:130])  # the run is over

    def test_a_killed_run_protects_nothing(self, tmp_path: Path) -> None:
        keys = keys_of(160)
        child = FRESH.Process(target=hold, args=(tmp_path, keys[:80], self.limit))
        child.start()
        while not (tmp_path / "ready").exists():
            time.sleep(0.02)
        with pytest.raises(UserError, match="in use by running"):
            self.run(tmp_path, keys[80:])
        child.kill()
        child.join()
        self.run(tmp_path, keys[80:])

    def test_what_one_run_needs_beyond_the_limit_is_said(self, tmp_path: Path) -> None:
        keys, calls = keys_of(300), []

        def encode(rows: list[int]) -> list[Tensors]:
            calls.append(len(rows))
            return [entry(row, 2500) for row in rows]

        with Store(tmp_path, limit_bytes=self.limit) as store:
            with pytest.raises(UserError, match=r"300 entries need about 3,686,400 bytes, the limit is 1,228,800"):
                fill(store, keys, encode, BATCH, "")
            with pytest.raises(UserError, match="300 entries need about"):
                fill(store, keys, encode, BATCH, "")
        assert calls == [BATCH]  # and the second time before any work


def hold(folder: Path, keys: list[str], limit: int) -> None:
    store = Store(folder, limit_bytes=limit)
    store.put({key: entry(n, 2500) for n, key in enumerate(keys)})
    (folder / "ready").touch()
    signal.pause()


def fill_noting(folder: Path, count: int, note: Path, seconds: float) -> None:
    """A process that fills, and writes a line for each batch that it begins and has stored."""
    keys = keys_of(count)
    with Store(folder, limit_bytes=LIMIT) as store, note.open("a") as notes:

        def encode(rows: list[int]) -> list[Tensors]:
            time.sleep(seconds)
            notes.write(json.dumps(rows) + "\n")
            notes.flush()
            return entries(rows)

        fill(store, keys, encode, BATCH, "")


def noted(*notes: Path) -> list[list[int]]:
    return [json.loads(line) for note in notes if note.exists() for line in note.read_text().splitlines()]


class TestProcesses:
    def test_two_processes_fill_one_store_and_share_the_work(self, tmp_path: Path) -> None:
        count, notes = 40 * BATCH, [tmp_path / "a", tmp_path / "b"]
        children = [FRESH.Process(target=fill_noting, args=(tmp_path / "store", count, note, 0.05)) for note in notes]
        for child in children:
            child.start()
        for child in children:
            child.join()
            assert child.exitcode == 0
        with Store(tmp_path / "store", limit_bytes=LIMIT) as store:
            assert all_there(store, keys_of(count))
        shares = [sum(map(len, noted(note))) for note in notes]
        assert count <= sum(shares) <= count + 6 * BATCH  # they did the same only where they met
        assert min(shares) > 0

    def test_a_fill_that_is_killed_again_and_again_ends_as_an_undisturbed_one(self, tmp_path: Path) -> None:
        count, note = 40 * BATCH, tmp_path / "note"
        keys, draw = keys_of(count), random.Random()
        kills = 0
        while kills < 6:
            child = FRESH.Process(target=fill_noting, args=(tmp_path / "store", count, note, 0.005))
            child.start()
            begun = len(noted(note))
            while child.is_alive() and len(noted(note)) == begun:
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.1))
            child.kill()
            child.join()
            if child.exitcode == 0:
                break  # it was quicker than the kill
            kills += 1
            with Store(tmp_path / "store", limit_bytes=LIMIT) as store:
                found = store.get(keys)
            assert all(e is None or same(e, entry(row)) for row, e in enumerate(found))
            *stored, _in_flight = noted(note)[begun:]
            assert all(found[row] is not None for batch in stored for row in batch)
        assert kills >= 2
        fill_noting(tmp_path / "store", count, note, 0.0)
        with Store(tmp_path / "store", limit_bytes=LIMIT) as store:
            assert all_there(store, keys)
        assert sum(map(len, noted(note))) <= count + kills * BATCH
