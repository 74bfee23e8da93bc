"""What a cache entry is, and what it depends on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from editkit.data.cache import cache_key, cached, weights_hash


def counting(value: float) -> tuple[Callable[[], dict[str, torch.Tensor]], list[int]]:
    calls: list[int] = []

    def compute() -> dict[str, torch.Tensor]:
        calls.append(1)
        return {"x": torch.full((3,), value)}

    return compute, calls


def test_a_cache_entry_is_computed_once_and_again_when_its_file_is_torn(workplace: Path) -> None:
    compute, calls = counting(2.0)
    key = cache_key(data="a")
    assert torch.equal(cached(key, compute)["x"], cached(key, compute)["x"])
    assert len(calls) == 1
    (file,) = (workplace / "cache").iterdir()
    file.write_bytes(file.read_bytes()[:20])
    assert cached(key, compute)["x"][0] == 2.0
    assert len(calls) == 2


def test_a_cache_key_changes_with_everything_that_the_entry_depends_on() -> None:
    base = {"data": "a", "prepare": {"resolution": 64}, "encoders": weights_hash({"w": torch.zeros(2)})}
    changed = [
        {"data": "b"}, {"prepare": {"resolution": 32}}, {"encoders": weights_hash({"w": torch.tensor([0.0, 1e-7])})},
        {"encoders": weights_hash({"v": torch.zeros(2)})},
    ]  # fmt: skip
    keys = {cache_key(**base), *(cache_key(**(base | c)) for c in changed)}
    assert len(keys) == 5
    assert cache_key(**base) == cache_key(**dict(reversed(base.items())))
