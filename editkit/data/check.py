"""Whether every picture can be opened, asked before a training; `editkit.data.doctor` looks for all that may be wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from editkit.data.doctor.findings import Finding
from editkit.data.examples import AnyExample, Dataset, pictures_of
from editkit.data.pictures import PictureError
from editkit.errors import UserError
from editkit.progress import progress

T = TypeVar("T")

SHOWN = 5
BLOCK = 256  # examples in flight, so that memory does not grow with the data set


def check_count(name: str, found: int, expected: int | None) -> list[Finding]:
    """A finding where a data set has not as many rows as its authors say."""
    if expected is None or found == expected:
        return []
    return [Finding("count", name, f"found {found:,} rows, its authors say {expected:,}; is all of it here?")]


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
        for index, error in enumerate(_of_all(dataset, _first_error)):
            if error is not None:
                broken[index] = error
            bar.advance()
    if len(broken) > max_skipped:
        raise UserError(_refusal(list(broken.values()), max_skipped))
    return [i for i in range(len(dataset)) if i not in broken]


def _of_all(dataset: Dataset[Any], ask: Callable[[Any], T]) -> Iterator[T]:
    """`ask(example)` of every example, in order. Decoding lets go of the interpreter's lock, so threads are enough."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(dataset), BLOCK):
            block = range(start, min(start + BLOCK, len(dataset)))
            yield from pool.map(lambda index: ask(dataset[index]), block)


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
