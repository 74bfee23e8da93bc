"""The doctor's report: one HTML file that needs nothing else, with the pictures of each kind of finding side by side."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from editkit.data.doctor.diagnose import Diagnosis
from editkit.data.doctor.findings import KINDS, Finding
from editkit.data.examples import Dataset, all_texts, pictures_of
from editkit.data.pictures import Picture, PictureError
from editkit.evaluate.pages import templates
from editkit.evaluate.pictures import difference
from editkit.files import write_whole

CARDS = 12  # findings of a kind that are shown with their pictures
LISTED = 400  # that are listed
SIDE = 160  # px of a picture in the report
SMALL = 96  # px up to which a picture is enlarged pixel by pixel
DIFFERENCES = {"shift": 1, "zoom": 1, "rotation": 1, "nearly identical pair": 8}  # kind -> by how much they are amplified
ORDER = {"error": 0, "warning": 1, "note": 2}


def write_doctor_report(
    path: Path, name: str, diagnosis: Diagnosis, groups: Mapping[str, Sequence[Dataset[Any]]], what: str
) -> Path:
    """Writes what the doctor found as one file.

    Args:
        path: the file; an older report is replaced.
        name: of the data set.
        diagnosis: what was found.
        groups: split or evaluation set -> the data sets that it is made of, to take the pictures from.
        what: as the user named the data set, for the commands that the report proposes.
    """
    html = (
        templates()
        .get_template("doctor.html.jinja")
        .render(
            name=name,
            what=what,
            splits=diagnosis.splits,
            facts=diagnosis.facts,
            severities=_severities(diagnosis),
            kinds=KINDS,
            table=list(_table(diagnosis)),
            categories=_by_category(diagnosis),
            sections=list(_sections(diagnosis, groups)),
        )
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, html)
    return path


def _severities(diagnosis: Diagnosis) -> dict[str, int]:
    counts: Counter[str] = Counter(f.severity for f in (*diagnosis.items, *diagnosis.notes))
    return {severity: counts[severity] for severity in ORDER}


def _everything(diagnosis: Diagnosis) -> dict[str, list[Finding]]:
    """Kind -> findings; the worst and most frequent kinds first."""
    by_kind: dict[str, list[Finding]] = {}
    for finding in (*diagnosis.items, *diagnosis.notes):
        by_kind.setdefault(finding.kind, []).append(finding)
    for findings in by_kind.values():
        findings.sort(key=lambda f: (ORDER[f.severity], f.figures.get("agreement", 0)))  # of the swapped, the surest first
    worst = {kind: min(ORDER[f.severity] for f in findings) for kind, findings in by_kind.items()}
    return {kind: by_kind[kind] for kind in sorted(by_kind, key=lambda k: (worst[k], -len(by_kind[k]), k))}


def _table(diagnosis: Diagnosis) -> Iterator[dict[str, Any]]:
    for kind, findings in _everything(diagnosis).items():
        by_split = Counter(f.split for f in findings)
        yield {
            "kind": kind,
            "severity": min((f.severity for f in findings), key=lambda s: ORDER[s]),
            "counts": {s: by_split[s] for s in diagnosis.splits},
            "total": len(findings),
        }


def _by_category(diagnosis: Diagnosis) -> dict[str, dict[str, Any]]:
    """Kind of edit -> pairs, pairs with an error or a warning, and the commonest finding; {} where there is one kind only."""
    total: Counter[str] = sum(diagnosis.categories.values(), Counter())
    if len(total) < 2:
        return {}
    kinds: dict[str, Counter[str]] = {}
    touched: dict[str, set[tuple[str, int]]] = {}
    for finding in diagnosis.items:
        if finding.index >= 0:
            kinds.setdefault(finding.category, Counter())[finding.kind] += 1
            touched.setdefault(finding.category, set()).add((finding.split, finding.index))
    return {
        category: {"pairs": total[category], "touched": len(touched.get(category, ())),
                   "kinds": kinds.get(category, Counter()).most_common(3)}
        for category in sorted(total)
    }  # fmt: skip


def _sections(diagnosis: Diagnosis, groups: Mapping[str, Sequence[Dataset[Any]]]) -> Iterator[dict[str, Any]]:
    for kind, findings in _everything(diagnosis).items():
        shown = [f for f in findings if f.index >= 0][:CARDS]
        yield {
            "kind": kind,
            "severity": min((f.severity for f in findings), key=lambda s: ORDER[s]),
            "total": len(findings),
            "cards": [_card(finding, groups) for finding in shown],
            "listed": [] if len(shown) == len(findings) else findings[:LISTED],
            "left_out": max(0, len(findings) - LISTED),
        }


def _card(finding: Finding, groups: Mapping[str, Sequence[Dataset[Any]]]) -> dict[str, Any]:
    example = _example(groups[finding.split], finding.index)
    opened = {role: _open(picture) for role, picture in pictures_of(example)[:2]}
    pictures = {role: _embedded(image) for role, image in opened.items()}
    source, target = opened.get("source"), opened.get("target")
    if finding.kind in DIFFERENCES and source is not None and target is not None:
        factor = DIFFERENCES[finding.kind]
        pictures[f"difference x {factor}" if factor > 1 else "difference"] = _embedded(difference(source, target, factor))
    group = finding.figures.get("other_group")
    if isinstance(group, str) and group in groups:
        other = _example(groups[group], int(finding.figures["other_index"]))
        for role, picture in pictures_of(other)[:2]:
            pictures[f"{role}, {finding.figures['other']}"] = _embedded(_open(picture))
    return {"finding": finding, "text": next((t for t in all_texts(example) if t.strip()), ""), "pictures": pictures}


def _example(datasets: Sequence[Dataset[Any]], index: int) -> Any:
    for dataset in datasets:
        if index < len(dataset):
            return dataset[index]
        index -= len(dataset)
    raise IndexError(index)


def _open(picture: Picture) -> Image.Image | None:
    try:
        return picture.open()
    except PictureError:
        return None


def _embedded(image: Image.Image | None) -> dict[str, Any] | None:
    """A picture drawn anew, so that nothing but a picture can get into a page that people pass on; None without one."""
    if image is None:
        return None
    image = image.copy()
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    kind = "png" if max(image.size) <= SMALL else "webp"
    stream = io.BytesIO()
    image.save(stream, kind, optimize=True, quality=82)
    text = base64.b64encode(stream.getvalue()).decode()
    small = max(image.size) <= SMALL
    return {"uri": f"data:image/{kind};base64,{text}", "width": image.width, "height": image.height, "small": small}
