"""What a resumed run must share with the run that it goes on with, key by key, so that a difference can be read."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from editkit.errors import UserError
from editkit.recipe.schema import Optim, Recipe

NUMERICS = 3
"""The version of the code's numbers: raised whenever the same recipe would give other numbers than before.

Such as another order of the examples, another use of a seed, another default inside a loss or an optimiser. A change of
speed, memory, files or messages does not raise it. 1 = before checkpoints of format 2.
"""

# Keys that say how a run is watched, kept, or divided among threads, and never change a number of it.
WATCHED = (
    "format", "name", "description", "data.test", "data.keep_out", "data.workers", "data.ahead", "evaluate.*", "tracking.*",
    "parallel.*", "train.log_every", "train.save_every", "train.preview_every", "train.keep_last", "train.keep_best",
    "train.best_metric", "train.threads", "train.export_sigma_rel", "train.resume_despite", "train.on_nonfinite",
)  # fmt: skip
ENDLESS = ("constant",)  # schedules for which the number of steps changes no step
LISTED = 20  # differences that a message lists
ABSENT = "nothing"


def identity_of(recipe: Recipe, facts: Mapping[str, str], processes: int = 1) -> dict[str, str]:
    """Everything that decides the numbers of a run.

    How the examples of a step are divided into passes and among processes is no part of it, for they have the same order and
    the same random numbers; with buckets the size of a batch is, for it is filled from one bucket.

    Args:
        recipe: the resolved recipe.
        processes: that share the work.
        facts: what the recipe only points at, by name: the hashes of the data and of the base weights, torch's version.

    Returns:
        Dotted recipe keys and names of facts, with their values as text; and "numerics", the code's own version.
    """
    keys = {k: _text(v) for k, v in _flat(recipe.model_dump(mode="json")) if not _watched(k)}
    batches = recipe.train.accumulate * processes
    del keys["train.accumulate"]
    if recipe.data.buckets is None:
        del keys["train.batch_size"]
        keys["examples a step"] = str(recipe.train.batch_size * batches)
    else:
        keys["batches a step"] = str(batches)
    if recipe.optim.schedule in ENDLESS and not recipe.train.post_hoc_ema:  # its snapshots divide the whole training
        del keys["train.steps"]
    return {**keys, **facts, "numerics": str(NUMERICS)}


def differences(saved: Mapping[str, str], now: Mapping[str, str], despite: Collection[str] = ()) -> list[str]:
    """What differs, a line each: "key: X in the run, Y now".

    A recipe key that the run does not know, because it is newer than the run, differs only when it is not at its default.

    Args:
        saved: the identity of the run.
        now: the identity of today.
        despite: keys, tables ("optim") and names of facts that may differ.
    """
    known = {**_defaults(), **saved}
    lines = []
    for key in sorted({*saved, *now}):
        before, after = known.get(key, ABSENT), now.get(key, ABSENT)
        if before != after and not any(key == d or key.startswith(f"{d}.") for d in despite):
            lines.append(f"{key}: {_short(before)} in the run, {_short(after)} now")
    return lines


def check_identity(where: object, saved: Mapping[str, str], now: Mapping[str, str], despite: Sequence[str] = ()) -> None:
    """Refuses to go on with something else.

    Args:
        where: what the message begins with: the run.
        saved: the identity of the run.
        now: the identity of today.
        despite: `train.resume_despite` of today's recipe.

    Raises:
        UserError: with what differs, a line each, and how it is overridden.
    """
    found = differences(saved, now, despite)
    if not found:
        return
    names = [line.partition(":")[0] for line in found]
    more = [f"and {len(found) - LISTED} more"] if len(found) > LISTED else []
    allowed = json.dumps([*despite, *names[:LISTED]])
    raise UserError(
        "\n".join(
            [
                f"{where}: cannot be resumed, it was made from something else:",
                *found[:LISTED],
                *more,
                f"start a new run, or go on all the same with train.resume_despite = {allowed}",
            ]
        )
    )


def released_options(despite: Collection[str]) -> frozenset[str]:
    """The options of an optimiser's groups that a resume takes from today's recipe, not from the checkpoint.

    Args:
        despite: `train.resume_despite`; "optim" and "optim.KEY" release the optimiser's keys, any "....lr" the rates.
    """
    names = {key.rpartition(".")[2] for key in despite if key.startswith("optim.") or key.endswith("lr")}
    if "optim" in despite:
        names |= set(Optim.model_fields)
    if any(name.endswith("lr") for name in names):
        names |= {"lr", "base_lr"}
    return frozenset(names)


def _watched(key: str) -> bool:
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in WATCHED)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{key}.")
        elif inner is not None:
            yield f"{prefix}{key}", inner


def _defaults() -> dict[str, str]:
    """The recipe keys that have a default, with it."""

    def walk(schema: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, field in schema.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from walk(field.annotation, f"{prefix}{name}.")
            elif not field.is_required():
                yield f"{prefix}{name}", field.get_default(call_default_factory=True)

    return {key: _text(value) for key, value in walk(Recipe, "") if value is not None}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _short(value: str) -> str:
    """A value as a message shows it: of a hash, its beginning."""
    if len(value) == 64 and all(c in "0123456789abcdef" for c in value):
        return value[:12]
    return value if value else '""'
