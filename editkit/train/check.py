"""`editkit check`: a recipe, a data spec or a data set, before anything is spent on it."""

from __future__ import annotations

import json as jsonlib
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from editkit.build.fixed_copy import refuse_existing, write_fixed_copy
from editkit.data.check import check_count
from editkit.data.combine import Limited
from editkit.data.decisions import Decisions, log_of
from editkit.data.doctor.diagnose import Diagnosis, diagnose
from editkit.data.doctor.findings import Finding, Findings, findings_of, write_findings
from editkit.data.examples import Dataset, all_texts, pictures_of
from editkit.data.formats import RemoteRows
from editkit.data.pictures import Picture, PictureError
from editkit.data.plan import as_lines, describe
from editkit.data.read import open_dataset
from editkit.data.spec import DataSpec, Fix, load_spec
from editkit.errors import UserError
from editkit.evaluate.doctor_report import write_doctor_report
from editkit.evaluate.pictures import contact_sheet
from editkit.progress import alone
from editkit.train.estimate_table import print_estimates
from editkit.train.setup import check_recipe

SAMPLE = 16  # sound examples on the contact sheet
FAULTS = 32  # faulty ones
SIDE = 128  # px of a picture on the sheet
LISTED = 20
FAR_SAMPLE = 64  # examples of a split that are opened where they lie behind a URL


def check(what: str, *, json: bool = False, leaks_from: Sequence[str] = (), fix: str | None = None) -> int:
    """Checks and prints.

    Args:
        what: a recipe, a data spec, a data-set folder or its URL.
        json: print JSON instead of tables.
        leaks_from: data sets or specs whose pictures must not be in the training split, beside those that the spec names.
        fix: a folder that is not there yet, into which a copy without the faults is written.

    Returns:
        0 = no errors; 1 = an error was found in the data set, or this machine cannot train the recipe; warnings and notes
        change nothing.
    """
    with alone(json) as out:
        return _check(what, out if json else None, leaks_from, fix)


def _check(what: str, json: TextIO | None, leaks_from: Sequence[str], fix: str | None) -> int:
    """See `check`; `json` is where JSON goes, None = tables are printed."""
    if "://" not in what and _is_recipe(Path(what)):
        if leaks_from or fix:
            raise UserError(f"{what}: is a recipe; --leaks-from and --fix are for data sets and their specs")
        facts = check_recipe(what)
        _show(facts, json)
        return 1 if facts["refused"] else 0
    if fix is not None:
        refuse_existing(Path(fix))

    spec = load_spec(what)[0] if "://" not in what and Path(what).suffix == ".toml" else None
    foreign = spec if spec is not None and spec.read is not None else None  # somebody else's data, not built by us
    plan = describe(foreign, Path(what).parent) if foreign is not None else {}
    names = ("test",) if plan.get("role") == "evaluation" else ("train", "test")
    try:
        splits = {s: open_dataset(what, s) for s in names}
    except UserError as error:
        if not plan or plan["here"] or not plan["get"]:  # a wrong path of one's own is a mistake, not a plan
            raise
        _show_absent(plan, str(error), json)
        return 1
    far = [s for s, d in splits.items() if isinstance(d, RemoteRows)]
    if far and fix is not None:
        raise UserError(f"--fix: {what} is read from afar; bring the data here first")
    looked: dict[str, Dataset[Any]] = {s: Limited(d, FAR_SAMPLE) if s in far else d for s, d in splits.items()}
    diagnosis, others = _diagnose(what, spec, looked, leaks_from)
    if foreign is not None:
        _add_counts(foreign, splits, diagnosis.splits)
        plan |= {"not read": getattr(splits[names[0]], "unread", [])}
        if far:
            plan["notes"] = [*plan["notes"], f"read from afar: only the first {FAR_SAMPLE} examples of a split are opened here"]
    name = splits[names[0]].info["name"]
    groups = {**{s: [d] for s, d in looked.items()}, **others}
    report = write_doctor_report(Path("runs") / f"check-{name}.html", name, diagnosis, groups, what)
    sheet = _write_sheet(looked[names[0]], diagnosis.splits[names[0]])
    sums = {s: str(d.info.get("sha256", "")) for s, d in looked.items()}
    write_findings(findings_of(name), sums, [*diagnosis.items, *diagnosis.notes])
    fixed = None
    if fix:
        decided = Decisions(log_of(what)).all()
        fixed = write_fixed_copy(Path(fix), splits, diagnosis, spec.fix if spec else Fix(), what, decided)
    if json is not None:
        said = ({"spec": plan} if plan else {}) | _as_json(diagnosis, sheet, report) | ({"fixed": fixed} if fixed else {})
        print(jsonlib.dumps(said, indent=1), file=json)
    else:
        _print_plan(plan)
        _print(diagnosis, fixed, fix, report, sheet)
    return 1 if diagnosis.num_errors else 0


def _diagnose(
    what: str, spec: DataSpec | None, splits: dict[str, Dataset[Any]], leaks_from: Sequence[str]
) -> tuple[Diagnosis, dict[str, list[Dataset[Any]]]]:
    """What the doctor finds, and the evaluation sets that it compared with."""
    here = Path(what).parent
    named = [w if "://" in w or Path(w).is_absolute() else str(here / w) for w in (spec.check.leaks_from if spec else [])]
    others = {where: _every_split(where) for where in (*named, *leaks_from)}
    return diagnose(splits, evaluation_sets=others, min_score=spec.check.min_score if spec else None), others


def _every_split(where: str) -> list[Dataset[Any]]:
    """All of an evaluation set, which may have one split only."""
    found = [_split(where, s) for s in ("train", "test")]
    chosen = [d for d in found if not isinstance(d, UserError) and len(d)]
    if not chosen:
        raise next((e for e in found if isinstance(e, UserError)), UserError(f"{where}: found no examples"))
    return chosen


def _split(where: str, split: str) -> Dataset[Any] | UserError:
    try:
        return open_dataset(where, split)
    except UserError as error:
        return error


def _add_counts(spec: DataSpec, splits: dict[str, Dataset[Any]], findings: dict[str, Findings]) -> None:
    """Compares the rows with what the authors say; in place."""
    first = next(iter(splits))
    findings[first].items += check_count(spec.name, getattr(splits[first], "rows_found", 0), spec.expect.rows)
    if spec.read is not None and spec.read.test_split:
        findings["test"].items += check_count(spec.name, getattr(splits["test"], "rows_found", 0), spec.expect.test_rows)


def _show_absent(plan: dict[str, Any], why: str, json: TextIO | None) -> None:
    """What would be read, of data that are not here."""
    if json is not None:
        print(jsonlib.dumps({"spec": plan, "why": why, "splits": {}}, indent=1), file=json)
        return
    _print_plan(plan)
    print(f"not here: {why}")


def _print_plan(plan: dict[str, Any]) -> None:
    if not plan:
        return
    table = Table(show_header=False)
    for name, text in as_lines(plan):
        table.add_row(name, Text(text))
    Console().print(table)


def _is_recipe(path: Path) -> bool:
    if path.suffix != ".toml":
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; expected a recipe, a data spec or a data set")
        return False
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        return False  # the loader names the mistake with its line
    return "kind" not in values


def _show(facts: dict[str, Any], json: TextIO | None) -> None:
    here, elsewhere = facts["estimate"], facts["elsewhere"]
    if json is not None:
        estimates = {"estimate": here and here.as_dict(), "elsewhere": [e.as_dict() for e in elsewhere]}
        print(jsonlib.dumps({**facts, **estimates}, indent=1), file=json)
        return
    table = Table(show_header=False)
    for key, value in facts.items():
        if key not in ("refused", "estimate", "elsewhere"):
            table.add_row(key, f"{value:,}" if isinstance(value, int) else str(value))
    console = Console()
    console.print(table)
    print_estimates(here, elsewhere, console)
    if facts["refused"]:
        console.print(f"not on this machine: {facts['refused']}", markup=False, highlight=False, soft_wrap=True)


def _as_json(diagnosis: Diagnosis, sheet: Path, report: Path) -> dict[str, Any]:
    return {
        "contact_sheet": str(sheet),
        "report": str(report),
        "errors": diagnosis.num_errors,
        "splits": {
            s: {"examples": f.count, "kinds": dict(f.kinds), "findings": [asdict(i) for i in f.items]}
            for s, f in diagnosis.splits.items()
        },
        "notes": [asdict(i) for i in diagnosis.notes],
        "categories": {s: dict(sorted(c.items())) for s, c in diagnosis.categories.items()},
        "by_category": _by_category(diagnosis),
        "facts": diagnosis.facts,
    }


def _by_category(diagnosis: Diagnosis) -> dict[str, dict[str, int]]:
    """Kind of edit -> kind of finding -> how many."""
    found: dict[str, dict[str, int]] = {}
    for item in diagnosis.items:
        row = found.setdefault(item.category, {})
        row[item.kind] = row.get(item.kind, 0) + 1
    return found


def _print(diagnosis: Diagnosis, fixed: dict[str, Any] | None, fix: str | None, report: Path, sheet: Path) -> None:
    console = Console()
    table = Table("split", "examples", "found")
    for split, found in diagnosis.splits.items():
        kinds = ", ".join(f"{n} {kind}" for kind, n in found.kinds.most_common()) or "nothing"
        table.add_row(split, f"{found.count:,}", kinds)
    console.print(table)
    items = sorted(diagnosis.items, key=lambda i: i.severity)  # errors come before warnings
    for item in items[:LISTED]:
        console.print(f"{item.kind}: {item.key}: {item.why}", markup=False, highlight=False, soft_wrap=True)
    if len(items) > LISTED:
        console.print(f"and {len(items) - LISTED} more; the report shows them, --json lists them all")
    direction = diagnosis.facts.get("direction", {})
    if direction.get("pairs"):
        said = f"source and target exchanged: decided for {direction['decided']:,} of {direction['pairs']:,} pairs"
        console.print(f"{said}; {direction['why']}", highlight=False, soft_wrap=True)
    for note, count in Counter(i.kind for i in diagnosis.notes).items():
        console.print(f"note: {count} {note}", highlight=False)
    if fixed is not None:
        numbers = {deed: sum(fixed[deed].values()) for deed in ("kept", "repaired", "dropped")}
        console.print(f"{fix}: {', '.join(f'{n:,} {deed}' for deed, n in numbers.items())}", highlight=False, soft_wrap=True)
    console.print(f"report: {report}", soft_wrap=True)
    console.print(f"contact sheet: {sheet}", soft_wrap=True)


def _write_sheet(dataset: Dataset[Any], findings: Findings) -> Path:
    """Faulty examples first, each with what is wrong, then a sample of the others."""
    by_index: dict[int, list[Finding]] = {}
    for item in findings.items:
        by_index.setdefault(item.index, []).append(item)
    faulty = [i for i in by_index if i >= 0][:FAULTS]
    sound = [i for i in range(len(dataset)) if i not in by_index][:SAMPLE]
    images, captions = [], []
    for index in [*faulty, *sound]:
        example = dataset[index]
        text = next(iter(all_texts(example)), "")
        wrong = "; ".join(f"{i.kind.upper()}: {i.why}" for i in by_index.get(index, []))
        for role, picture in pictures_of(example)[:2]:
            images.append(_thumbnail(picture))
            captions.append(f"{role} {example.key}" if role == "source" else wrong or text)
    path = Path("runs") / f"check-{dataset.info['name']}.png"
    path.parent.mkdir(exist_ok=True)
    if images:
        contact_sheet(images, captions, columns=8).save(path)
    return path


def _thumbnail(picture: Picture) -> Image.Image:
    try:
        image = picture.open()
    except PictureError:
        return Image.new("RGB", (SIDE, SIDE), "#d64545")
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
