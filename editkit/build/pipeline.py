"""From a spec to a data-set folder: stages over parts, written as Parquet with a card.

The bytes depend on the spec alone, not on the number of processes and not on how often the build was stopped: see
`editkit.build.stages`. What is not finished lies in `NAME.staging` beside the data set; the same command goes on from there.
"""

from __future__ import annotations

import importlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from editkit.build.card import write_card
from editkit.build.engine import Engine, engine_of
from editkit.build.rows import Row, parquet_schema, to_row
from editkit.build.stages import DROPPED, Gathering, Part, Stage, reasons, run_stages
from editkit.build.write import write_manifest, write_split
from editkit.data.decisions import Decision, Decisions, log_of
from editkit.data.examples import Example
from editkit.data.spec import DataSpec, data_folder, load_spec, spec_hash
from editkit.errors import UserError
from editkit.files import make_folder
from editkit.progress import progress
from editkit.recipe.schema import Section
from editkit.runs import hold

LOCK_S = 2.0  # the workers of a build that was killed let go of its lock when they notice

BUILDERS = {
    "avatars": "editkit.lab.avatar_builder:AvatarBuilder",
    "describe": "editkit.build.describe:DescribeBuilder",
    "instruct_pix2pix": "editkit.build.instruct_pix2pix:InstructPix2PixBuilder",
    "instruction_tuning": "editkit.build.instruction_tuning:InstructionTuningBuilder",
    "photos": "editkit.lab.photos:PhotoBuilder",
    "plan_refine": "editkit.build.plan_refine:PlanRefineBuilder",
    "plan_refine_taught": "editkit.build.plan_refine_taught:PlanRefineTaughtBuilder",
    "scene_readings": "editkit.lab.scene_readings:SceneReadingBuilder",
    "scenes": "editkit.lab.scene_builder:SceneBuilder",
}


class Builder(Protocol):
    """What makes the examples of a data set. Pickled to the workers, so it holds options only."""

    Options: type[Section]

    def counts(self) -> Mapping[str, int]:
        """Split -> number of examples."""
        ...

    def make(self, split: str, index: int) -> Example:
        """One example; equal arguments give equal bytes, in any process."""
        ...

    def credits(self) -> Mapping[str, str]:
        """Licence -> whom to credit."""
        ...


@runtime_checkable
class StagedBuilder(Protocol):
    """One that works in several stages, whose rows have a provenance."""

    def stages(self, spec: DataSpec) -> Sequence[Stage | Gathering]: ...

    def counts(self) -> Mapping[str, int]:
        """Split -> number of rows that the first stage is asked for."""
        ...

    def credits(self) -> Mapping[str, str]: ...

    def teachers(self) -> Mapping[str, Any]:
        """What made the rows, for `dataset.json` and the card."""
        ...


@dataclass(frozen=True)
class MakeExamples:
    """The only stage of a plain builder."""

    builder: Builder
    kind: str
    spec_sha256: str
    name = "make"
    processes = 0
    accelerated = False
    releases = False
    part_size = 200

    @property
    def schema(self) -> pa.Schema:
        return parquet_schema(self.kind)

    def identity(self) -> Mapping[str, Any]:
        return {"spec": self.spec_sha256}

    def open(self) -> Callable[[list[Row]], list[Row]]:
        return lambda rows: [to_row(self.builder.make(row["split"], row["index"])) for row in rows]


@dataclass(frozen=True)
class ApplyDecisions:
    """The last stage where people have decided about examples of this data set (see `editkit.data.decisions`)."""

    decisions: Mapping[tuple[str, str], Decision]
    digest: str
    before: pa.Schema
    name = "decisions"
    processes = 0
    accelerated = False
    releases = False
    part_size = 0

    @property
    def schema(self) -> pa.Schema:
        return self.before if DROPPED in self.before.names else self.before.append(pa.field(DROPPED, pa.string()))

    def identity(self) -> Mapping[str, Any]:
        return {"decisions": self.digest}

    def open(self) -> Callable[[list[Row]], list[Row]]:
        return lambda rows: [self._decided(row) for row in rows]

    def _decided(self, row: Row) -> Row:
        found = self.decisions.get((row["split"], row["key"]))
        if found is None:
            return {**row, DROPPED: ""}
        if found.verdict == "rejected":
            return {**row, DROPPED: "rejected by hand"}
        return {**row, "instructions": [found.instruction], DROPPED: ""}


def builder_of(spec: DataSpec, source: Any) -> Any:
    """The builder that `[build]` names, with its options validated."""
    from editkit.recipe.load import options

    if spec.build is None:
        raise UserError(f'{spec.name}: found no [build] table; "editkit build" needs one (a [read] spec is read as it is)')
    name = spec.build.builder
    if name not in BUILDERS:
        raise UserError(f'{spec.name}: found builder = "{name}"; expected one of {", ".join(sorted(BUILDERS))}')
    module, _, attribute = BUILDERS[name].partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    return kind(spec.kind, options(spec.build, kind.Options, "build", source))


def build_spec(path: Path, out: Path | None, limit: int = 0, engine: str | Engine = "local") -> Path:
    """Builds `path` into `out` (default: `data/<name>`), in a staging folder; what was stopped goes on.

    Args:
        path: a data spec with a `[build]` table.
        out: the folder to write; an older build of ours is replaced, anything else is refused.
        limit: examples a split at most (of a generated set: prompts); 0 = as the spec says.
        engine: "local", processes on this machine; "ray", a cluster; or one made in code.

    Returns:
        The data-set folder.
    """
    engine = engine_of(engine) if isinstance(engine, str) else engine
    spec, source = load_spec(path)
    builder = builder_of(spec, source)
    out = out or data_folder(spec)
    if out.exists() and not (out / "dataset.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: found something that is not a data set; choose another folder with --out")
    make_folder(out.parent)
    busy = f"{out}: another process is building it; wait for it, or name another folder with --out"
    with hold(out.with_name(f".{out.name}.lock"), busy, LOCK_S):
        return _build(spec, path, builder, out, limit, engine)


def _build(spec: DataSpec, path: Path, builder: Any, out: Path, limit: int, engine: Engine) -> Path:
    counts = {s: min(n, limit) if limit else n for s, n in builder.counts().items()}
    staged = isinstance(builder, StagedBuilder)
    chain: list[Any] = [*builder.stages(spec)] if staged else [MakeExamples(builder, spec.kind, spec_hash(spec))]
    decided = Decisions(log_of(out))
    if decided.digest():
        print(f"{decided.path}: {', '.join(f'{n} {what}' for what, n in sorted(decided.counts().items()) if n)}")
        chain.append(ApplyDecisions(decided.effective(), decided.digest(), chain[-1].schema))
    staging = out.with_name(out.name + ".staging")
    started = time.perf_counter()
    try:
        made = run_stages(chain, counts, staging / "work", engine, f"building {spec.name}")
    finally:
        engine.close()
    seconds = time.perf_counter() - started
    last = made[-1][1]
    if staged:
        _something_in(counts, last, made)
    whole = staging / f"set-{last[0].path.parent.name if last and last[0].path else ''}"
    for stale in staging.glob("set-*"):
        if stale != whole:
            shutil.rmtree(stale)
    (whole / "data").mkdir(parents=True, exist_ok=True)
    schema = parquet_schema(spec.kind, generated=staged)
    with progress(sum(p.count() for p in last), f"writing {spec.name}") as bar:
        results = {split: write_split(whole, split, last, schema, bar) for split in counts}
    generation = {"teachers": builder.teachers(), "stages": funnel(made)} if staged else {}
    if decided.digest():
        generation["decisions"] = {"sha256": decided.digest(), **decided.counts()}
    write_manifest(whole, spec, path.name, type(builder).__name__, builder.credits(), results, generation)
    write_card(whole)
    if out.exists():
        shutil.rmtree(staging / "old", ignore_errors=True)
        out.rename(staging / "old")
    whole.rename(out)
    shutil.rmtree(staging)
    asked, total = sum(counts.values()), sum(r.count for r in results.values())
    rate = f"{total} examples in {seconds:.1f} s ({asked / seconds:.0f}/s on {engine.processes} processes)"
    print(f"{out}: {rate}" if not staged else f"{out}: {total} examples of {asked} proposals in {seconds:.1f} s")
    return out


def _something_in(counts: Mapping[str, int], last: Sequence[Part], made: Sequence[tuple[str, Sequence[Part]]]) -> None:
    for split, count in counts.items():
        if count and not any(p.count() for p in last if p.split == split):
            raise UserError(
                f'found no example to write for "{split}"; the stages kept and dropped {funnel(made)}: '
                "ask for more prompts, or lower the thresholds of [build.filter]"
            )


def funnel(made: Sequence[tuple[str, Sequence[Part]]]) -> dict[str, dict[str, int]]:
    """Stage -> how many rows it kept, and how many it dropped for which reason."""
    found = {}
    for name, parts in made:
        counts: Counter[str] = Counter()
        for part in parts:
            if part.path is not None:
                counts.update(reasons(part.path))
        found[name] = {reason or "kept": counts[reason] for reason in sorted(counts)}
    return found
