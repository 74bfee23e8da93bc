"""What the frozen networks say of every picture and text, computed once and kept on disk by content.

The key of an entry is a hash over the bytes of its files, the prepare parameters, the encoder and this code's version: when any
of them changes, nothing of the old entry is used, and one changed picture costs one entry.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from xxhash import xxh3_128

from editkit.data.shard import Tensors
from editkit.data.store import Store
from editkit.errors import UserError
from editkit.progress import progress

VERSION = 5  # of what an entry holds; part of every key
DEFAULT_LIMIT_GB = 50.0


def cache_root() -> Path:
    """`$EDITKIT_CACHE`, or `editkit` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("EDITKIT_CACHE") or Path(home) / "editkit")


def cache_limit() -> int:
    """`$EDITKIT_CACHE_GB` or 50 GB, in bytes: a matter of the machine, so no recipe says it."""
    said = os.environ.get("EDITKIT_CACHE_GB") or DEFAULT_LIMIT_GB
    try:
        limit = int(float(said) * 1e9)
    except (ValueError, OverflowError):
        limit = 0
    if limit <= 0:
        raise UserError(f"EDITKIT_CACHE_GB: found {said}; expected the gigabytes that the cache may take, such as 50")
    return limit


def entry_key(*, content: Sequence[bytes], **parts: Any) -> str:
    """The key of one entry: 32 hexadecimal digits.

    Args:
        content: the bytes of each file that the entry is made from, or the UTF-8 of each text, in their order.
        **parts: all else that it depends on, as JSON has it: prepare parameters, view, the encoder's name, its `weights_hash`.
    """
    digest = hashlib.sha256(json.dumps({"version": VERSION, **parts}, sort_keys=True).encode())
    for data in content:
        digest.update(hashlib.sha256(data).digest())  # hashed apart, so that it matters where one file ends
    return digest.hexdigest()[:32]


def weights_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """A hash of a network's weights: names, types, shapes and bytes, in whatever order they come."""
    digest = xxh3_128()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        flat = tensor.contiguous().reshape(-1)
        if flat.numel() == 1:  # a view of one number may call itself contiguous and refuse to be seen as bytes
            flat = flat.new_empty(1).copy_(flat)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def open_cache() -> Store:
    """The store that this user's runs share: `encodings` in `cache_root()`, of `cache_limit()` bytes."""
    return Store(cache_root() / "encodings", limit_bytes=cache_limit())


@dataclass(frozen=True, slots=True)
class Filled:
    """What `fill` did.

    Attributes:
        found: entries that were there.
        made: entries that it computed.
        by_others: entries that another process computed meanwhile.
        bytes: of the tensors that it computed.
        seconds: it took.
    """

    found: int
    made: int
    by_others: int
    bytes: int
    seconds: float

    def __str__(self) -> str:
        others = f", {self.by_others} by another process" if self.by_others else ""
        return f"{self.found} found, {self.made} made{others}, {self.bytes / 1e6:.1f} MB, {self.seconds:.1f} s"


def fill(
    store: Store, keys: Sequence[str], encode: Callable[[list[int]], list[Tensors]], batch_size: int, label: str
) -> Filled:
    """Computes and stores what is missing, batch by batch; stopped at any moment, it loses the batch in flight.

    Processes that fill one store at once begin at different places, look again before each batch, and part where they meet.

    Args:
        store: where the entries go.
        keys: of all entries that are needed; the same key twice is one entry.
        encode: from indices into `keys` to their entries. It may get fewer than `batch_size`; where a network rounds
            differently for batches of another size it fills them up, so that an entry has the same bits whatever was missing.
        batch_size: entries that are encoded and stored at once.
        label: what the bar says.

    Raises:
        UserError: the entries need more than the store's limit; said before anything is encoded where some are there, so that
            their size is known, and after the first batch otherwise.
    """
    started = time.monotonic()
    first: dict[str, int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    unique = list(first)
    sizes = store.sizes(unique)
    waiting = [key for key, size in zip(unique, sizes, strict=True) if not size]
    found = len(unique) - len(waiting)
    if found and waiting:
        _check_limit(store, sum(sizes) / found, len(unique))
    made = by_others = nbytes = 0
    draw = random.SystemRandom()  # no seed: two processes with the same recipe must not begin alike
    at = _some_batch(draw, waiting, batch_size)
    with progress(len(unique), label, done=found) as bar:
        while waiting:
            batch = waiting[at : at + batch_size]
            if len(store.missing(batch)) < len(batch):  # another process is here
                left = [waiting[i] for i in store.missing(waiting)]
                by_others += len(waiting) - len(left)
                bar.advance(len(waiting) - len(left))
                waiting, at = left, _some_batch(draw, left, batch_size)
                continue
            entries = dict(zip(batch, encode([first[key] for key in batch]), strict=True))
            new = store.put(entries)
            nbytes += sum(tensor.nbytes for entry in entries.values() for tensor in entry.values())
            if not made and not found:
                _check_limit(store, sum(store.sizes(batch)) / len(batch), len(unique))
            made += len(batch)
            bar.advance(len(batch))
            del waiting[at : at + batch_size]
            if new < len(batch):  # another process made the same; it would meet us at the next batch as well
                at = _some_batch(draw, waiting, batch_size)
            elif at >= len(waiting):
                at = 0
    return Filled(found, made, by_others, nbytes, time.monotonic() - started)


def _some_batch(draw: random.Random, waiting: Sequence[str], batch_size: int) -> int:
    """A random beginning that cuts the same batches as a beginning at 0."""
    return draw.randrange(0, max(1, len(waiting)), batch_size)


def _check_limit(store: Store, mean: float, count: int) -> None:
    needed = int(mean * count)
    if needed > store.limit_bytes:
        raise UserError(
            f"{store.folder}: {count:,} entries need about {needed:,} bytes, the limit is {store.limit_bytes:,}; raise "
            f"$EDITKIT_CACHE_GB, or do without the cache (data.cache_latents = false)"
        )
