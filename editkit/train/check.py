"""`editkit check`: a recipe, a data spec or a data set, before anything is spent on it."""

from __future__ import annotations

import json as jsonlib
import tomllib
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from editkit.data.check import Finding, Findings, check_count, check_dataset
from editkit.data.combine import Limited
from editkit.data.examples import Dataset, all_texts, pictures_of
from editkit.data.formats import RemoteRows
from editkit.data.pictures import Picture, PictureError
from editkit.data.plan import as_lines, describe
from editkit.data.read import open_dataset
from editkit.data.spec import DataSpec, load_spec
from editkit.errors import UserError
from editkit.evaluate.pictures import contact_sheet
from editkit.train.estimate_table import print_estimates
from editkit.train.setup import check_recipe

SAMPLE = 16  # sound examples on the contact sheet
FAULTS = 32  # faulty ones
SIDE = 128  # px of a picture on the sheet
LISTED = 20
FAR_SAMPLE = 64  # examples of a split that are opened where they lie behind a URL


def check(what: str, *, json: bool = False) -> int:
    """Checks and prints.

    Args:
        what: a recipe, a data spec, a data-set folder or its URL.
        json: print JSON instead of tables.

    Returns:
        0 = nothing found, 1 = something found.
    """
    if "://" not in what and _is_recipe(Path(what)):
        facts = check_recipe(what)
        _show(facts, json)
        return 0

    spec = _foreign_spec(what)
    plan = describe(spec, Path(what).parent) if spec is not None else {}
    names = ("test",) if plan.get("role") == "evaluation" else ("train", "test")
    try:
        splits = {s: open_dataset(what, s) for s in names}
    except UserError as error:
        if not plan or plan["here"] or not plan["get"]:  # a wrong path of one's own is a mistake, not a plan
            raise
        _show_absent(plan, str(error), json)
        return 1
    far = [s for s, d in splits.items() if isinstance(d, RemoteRows)]
    findings = {s: check_dataset(Limited(d, FAR_SAMPLE) if s in far else d) for s, d in splits.items()}
    if spec is not None:
        _add_counts(spec, splits, findings)
        plan |= {"not read": getattr(splits[names[0]], "unread", [])}
        if far:
            plan["notes"] = [*plan["notes"], f"read from afar: only the first {FAR_SAMPLE} examples of a split are opened here"]
    sheet = _write_sheet(splits[names[0]], findings[names[0]])
    total = sum(len(f.items) for f in findings.values())
    if json:
        print(jsonlib.dumps(({"spec": plan} if plan else {}) | _as_json(findings, sheet), indent=1))
    else:
        _print_plan(plan)
        _print(findings, sheet)
    return 1 if total else 0


def _foreign_spec(what: str) -> DataSpec | None:
    """The data spec of somebody else's data set; None for a data set of ours."""
    if "://" in what or Path(what).suffix != ".toml":
        return None
    spec, _ = load_spec(what)
    return spec if spec.read is not None else None


def _add_counts(spec: DataSpec, splits: dict[str, Dataset[Any]], findings: dict[str, Findings]) -> None:
    """Compares the rows with what the authors say; in place."""
    first = next(iter(splits))
    findings[first].items += check_count(spec.name, getattr(splits[first], "rows_found", 0), spec.expect.rows)
    if spec.read is not None and spec.read.test_split:
        findings["test"].items += check_count(spec.name, getattr(splits["test"], "rows_found", 0), spec.expect.test_rows)


def _show_absent(plan: dict[str, Any], why: str, json: bool) -> None:
    """What would be read, of data that are not here."""
    if json:
        print(jsonlib.dumps({"spec": plan, "why": why, "splits": {}}, indent=1))
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


def _show(facts: dict[str, Any], json: bool) -> None:
    here, elsewhere = facts.pop("estimate"), facts.pop("elsewhere")
    if json:
        estimates = {"estimate": here.as_dict(), "elsewhere": [e.as_dict() for e in elsewhere]}
        print(jsonlib.dumps({**facts, **estimates}, indent=1))
        return
    table = Table(show_header=False)
    for key, value in facts.items():
        table.add_row(key, f"{value:,}" if isinstance(value, int) else str(value))
    console = Console()
    console.print(table)
    print_estimates(here, elsewhere, console)


def _as_json(findings: dict[str, Findings], sheet: Path) -> dict[str, Any]:
    return {
        "contact_sheet": str(sheet),
        "splits": {
            s: {
                "examples": f.count,
                "kinds": dict(f.kinds),
                "findings": [{"kind": i.kind, "key": i.key, "why": i.why} for i in f.items],
            }
            for s, f in findings.items()
        },
    }


def _print(findings: dict[str, Findings], sheet: Path) -> None:
    console = Console()
    table = Table("split", "examples", "found")
    for split, found in findings.items():
        kinds = ", ".join(f"{n} {kind}" for kind, n in found.kinds.most_common()) or "nothing"
        table.add_row(split, str(found.count), kinds)
    console.print(table)
    items = [i for f in findings.values() for i in f.items]
    for item in items[:LISTED]:
        console.print(f"{item.kind}: {item.key}: {item.why}", markup=False, highlight=False, soft_wrap=True)
    if len(items) > LISTED:
        console.print(f"and {len(items) - LISTED} more; --json lists them all")
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
        text = all_texts(example)[0]
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
