"""Whether every picture can be opened, asked before a training; `editkit.data.doctor` looks for all that may be wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from PIL import Image, ImageChops

from editkit.data.doctor.findings import Finding, Findings
from editkit.data.examples import AnyExample, Dataset, EditPair, all_texts, pictures_of
from editkit.data.pictures import PictureError
from editkit.errors import UserError
from editkit.progress import progress

T = TypeVar("T")

SHOWN = 5
BLOCK = 256  # examples in flight, so that memory does not grow with the data set
KEEP = "keep"  # the kind of edit whose pairs are meant to be identical


def check_dataset(dataset: Dataset[Any], workers: int | None = None) -> Findings:
    """Opens every picture of every example and looks for what spoils a training.

    Args:
        dataset: one split.
        workers: threads; None = one a core.
    """
    findings = Findings(len(dataset))
    with progress(len(dataset), "checking") as bar:
        for found in _of_all(dataset, lambda example, index: list(check_example(example, index)), workers):
            findings.items += found
            bar.advance()
    unnamed = getattr(dataset, "unnamed_files", None)
    if unnamed is not None:
        findings.items += [Finding("orphan", path, "no example uses this file") for path in unnamed()]
    return findings


def check_count(name: str, found: int, expected: int | None) -> list[Finding]:
    """A finding where a data set has not as many rows as its authors say."""
    if expected is None or found == expected:
        return []
    return [Finding("count", name, f"found {found:,} rows, its authors say {expected:,}; is all of it here?")]


def check_example(example: AnyExample, index: int) -> Iterator[Finding]:
    """The findings of one example."""
    opened: dict[str, Image.Image] = {}
    for role, picture in pictures_of(example):
        try:
            opened[role] = picture.open()
        except PictureError as error:
            kind = "orphan" if error.why == "is missing" else "unreadable"
            yield Finding(kind, example.key, f"{role} {error}", index)
    if not any(t.strip() for t in all_texts(example)):
        yield Finding("empty text", example.key, "has no caption" if "image" in opened else "has no instruction", index)
    if isinstance(example, EditPair) and {"source", "target"} <= opened.keys():
        yield from _compare(example, opened, index)


def _compare(pair: EditPair, opened: dict[str, Image.Image], index: int) -> Iterator[Finding]:
    source, target = opened["source"], opened["target"]
    if source.size != target.size:
        sizes = f"source {source.width} x {source.height}, target {target.width} x {target.height} px"
        yield Finding("size mismatch", pair.key, sizes, index)
    elif pair.category != KEEP and ImageChops.difference(source, target).getbbox() is None:
        yield Finding("identical pair", pair.key, "source and target are the same picture", index)


def audit_pictures(dataset: Dataset[Any], max_skipped: int) -> list[int]:
    """The indices of the examples whose pictures can all be opened; asked before a training starts.

    A data-set folder of ours is trusted after its shards' hashes, which is quicker than decoding every picture.

    Raises:
        UserError: more than `max_skipped` cannot be opened; the message names the first few, with the reason.
    """
    trusted = getattr(dataset, "verify", None)
    if trusted is not None:
        trusted()
        return list(range(len(dataset)))
    broken: dict[int, PictureError] = {}
    with progress(len(dataset), "opening every picture once") as bar:
        for index, error in enumerate(_of_all(dataset, lambda example, _: _first_error(example))):
            if error is not None:
                broken[index] = error
            bar.advance()
    if len(broken) > max_skipped:
        raise UserError(_refusal(list(broken.values()), max_skipped))
    return [i for i in range(len(dataset)) if i not in broken]


def _of_all(dataset: Dataset[Any], ask: Callable[[Any, int], T], workers: int | None = None) -> Iterator[T]:
    """`ask(example, index)` of every example, in order. Decoding lets go of the interpreter's lock, so threads are enough."""
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for start in range(0, len(dataset), BLOCK):
            block = range(start, min(start + BLOCK, len(dataset)))
            yield from pool.map(lambda index: ask(dataset[index], index), block)


def _first_error(example: AnyExample) -> PictureError | None:
    for _, picture in pictures_of(example):
        try:
            picture.open()
        except PictureError as error:
            return error
    return None


def _refusal(errors: Sequence[PictureError], max_skipped: int) -> str:
    more = f" and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
    named = "; ".join(str(e) for e in errors[:SHOWN])
    return (
        f"{len(errors)} examples have pictures that cannot be used, data.max_skipped allows {max_skipped}: {named}{more}; "
        "mend them, or allow that many to be skipped"
    )
