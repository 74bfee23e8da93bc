"""What a run finds out about its data before the first step: a hash of every picture's bytes, its size, and its bucket."""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editkit.data.buckets import Fit, Size, choose_bucket, fit, make_buckets
from editkit.data.examples import Dataset
from editkit.methods.protocol import Method
from editkit.progress import progress
from editkit.recipe.schema import Data

CHUNK = 64  # examples that a thread looks at in one go: handing them over one by one took as long as looking
BLOCK = 16  # chunks in flight, so that memory does not grow with the data set

Seen = tuple[tuple[bytes, ...], list[Fit]]  # an example's hashes, and what happens to each of its pictures


@dataclass(frozen=True)
class Survey:
    """What is known of every usable example; all lists but the last have one entry each.

    Attributes:
        usable: numbers of the examples in the data set.
        buckets: sizes in px; a size comes again for examples with more pictures.
        bucket_of: the number of the bucket.
        content: SHA-256 of the bytes of each of the example's pictures.
        fits: what happens to each picture, example by example.
    """

    usable: Sequence[int]
    buckets: Sequence[Size]
    bucket_of: Sequence[int]
    content: Sequence[tuple[bytes, ...]]
    fits: Sequence[Fit]

    def lines(self) -> list[str]:
        """What happens to the pictures, for people."""
        count = Counter(self.bucket_of)
        cropped = [f.cropped for f in self.fits]
        enlarged = sum(f.scale > 1 for f in self.fits)
        sizes = ", ".join(f"{w} x {h}: {count[b]:,}" for b, (w, h) in enumerate(self.buckets) if count[b])
        cut = sum(c > 0.001 for c in cropped)
        lines = [f"sizes (px: examples): {sizes}"]
        if cut or enlarged:
            mean = sum(cropped) / len(cropped)
            lines.append(
                f"{cut:,} of {len(cropped):,} pictures lose something at the edges (mean {mean:.1%}, at most "
                f"{max(cropped):.1%} of the area), {enlarged:,} are made larger than they are; data.csv in the run names each"
            )
        return lines

    def write(self, path: Path) -> None:
        """One line a picture: key, which of the example's pictures, size, bucket, scale, share of the area cut off."""
        columns = ["key", "picture", "width_px", "height_px", "bucket_width_px", "bucket_height_px", "scale", "cropped"]
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for f in self.fits:
                row = [f.key, f.picture, *f.size, *self.buckets[f.bucket], f"{f.scale:.4f}", f"{f.cropped:.4f}"]
                writer.writerow(row)


def survey(dataset: Dataset[Any], usable: Sequence[int], method: Method, data: Data) -> Survey:
    """Reads every picture's bytes once: hashes them and looks at the size in the header; no pixels are decoded.

    Args:
        dataset: the training examples.
        usable: those that can be opened.
        method: whose pictures count; the last one of an example decides on its bucket.
        data: resolution and buckets.
    """
    table = [(data.resolution, data.resolution)]
    if data.buckets is not None:
        table = make_buckets(data.buckets.sides, data.buckets.step, data.buckets.max_aspect)

    def look(chunk: Sequence[int]) -> list[Seen]:
        return [_look(dataset[index], method, table) for index in chunk]

    chunks = [usable[start : start + CHUNK] for start in range(0, len(usable), CHUNK)]
    found: list[Seen] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress(len(usable), "reading the pictures' sizes") as bar:
        for start in range(0, len(chunks), BLOCK):
            for seen in pool.map(look, chunks[start : start + BLOCK]):
                found += seen
                bar.advance(len(seen))
    contents, fits = zip(*found, strict=True)
    # Examples with further pictures cannot stand in a batch with those that have fewer: they have buckets of their own, behind
    # the others.
    counts = sorted({len(some) for some in fits})
    bucket_of = [(some[-1].bucket if some else 0) + len(table) * counts.index(len(some)) for some in fits]
    return Survey(list(usable), table * len(counts), bucket_of, contents, [f for some in fits for f in some])


def _look(example: Any, method: Method, table: Sequence[Size]) -> Seen:
    pictures = method.pictures_of(example)
    content = tuple(hashlib.sha256(p.read_bytes()).digest() for p in pictures)
    sizes = [p.size() for p in pictures]
    bucket = choose_bucket(sizes[-1], table) if len(table) > 1 and sizes else 0  # a trace may be of text alone
    fits = [Fit(example.key, number, size, bucket, *fit(size, table[bucket])) for number, size in enumerate(sizes)]
    return content, fits
