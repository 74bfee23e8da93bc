"""One example, opened once: what can be said of it alone, and what the index needs to know of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from PIL import Image

from editkit.data.doctor import geometry
from editkit.data.doctor.colours import profile_finding
from editkit.data.doctor.direction import TOKENS, tokens_of
from editkit.data.doctor.findings import Finding
from editkit.data.doctor.hashes import THUMBNAIL, thumbnail
from editkit.data.doctor.orientation import (
    INVERSE,
    TURNS,
    Stored,
    find_turn,
    how_stored,
    is_asked_for,
    undoing,
)
from editkit.data.doctor.texts import normalised, text_findings
from editkit.data.examples import SCORE, AnyExample, CaptionedImage, EditPair, pictures_of
from editkit.data.pictures import PictureError
from editkit.data.traces import PlanTrace

MOTIONS = ("shift", "zoom", "rotation")
KEEP = "keep"  # the kind of edit whose pairs are meant to be identical
ASPECT = 0.02  # by which aspects may differ through rounding
SAME_CELL, SAME_MEAN = 8.0, 2.0  # levels: the worst cell of 1/16 of the side, and the mean, between a picture and its copy
SAME_SHARE = 0.01  # of the pixels that may differ by more than SAME_PIXEL, as coding does beside strong edges
SAME_PIXEL = 60
UNTOUCHED = 0.9  # share of equal pixels, at which what differs is an edit if it can be SEEN: coding changes more of them
SEEN = 24

# What is kept of every example until all have been seen; 10 million take 9 GB of temporary disk, not memory.
RECORD = np.dtype(
    [
        ("content", "<u8", 2),  # of the pixels of source and target
        ("thumb", "u1", (2, THUMBNAIL)),
        ("text", "<u8"),  # of the first instruction, normalised
        ("tokens", "<i2", TOKENS),
        ("score", "<f4"),
        ("pictures", "u1"),  # how many could be read: 0, 1 (an image) or 2 (source and target)
        ("keep", "u1"),  # the pair asks for no change
        ("flawed", "u1"),  # one of its own findings is a matter of what is seen: it teaches no direction
    ]
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What an examination gives.

    Attributes:
        findings: of this example alone.
        record: one row of RECORD.
        category: of the pair.
    """

    findings: list[Finding]
    record: Any
    category: str


def examine(example: AnyExample | PlanTrace, index: int) -> Seen:
    """Opens the pictures of an example and looks for all that can be known without the other examples."""
    record: Any = np.zeros((), RECORD)  # a row of numpy, whose fields types cannot name
    record["score"] = np.nan
    findings: list[Finding] = []
    opened, stored = _open(example, index, findings)
    if isinstance(example, CaptionedImage):
        texts: Sequence[str] = example.captions
        if not any(t.strip() for t in texts):
            findings.append(Finding("empty text", example.key, "has no caption", index))
        roles: tuple[str, ...] = ("image",)
    elif isinstance(example, PlanTrace):
        texts, roles = (example.prompt,), ()  # its pictures are steps to one another: alike, and meant to be
    else:
        roles = ("source", "target")
        texts = example.instructions
        names = [str(p.path).rpartition("/")[2] for _, p in pictures_of(example) if p.path is not None]
        captions = [c for c in (example.source_caption, example.target_caption) if c]
        findings += text_findings(example.key, texts, captions, index, names)
        record["tokens"] = tokens_of(texts, example.source_caption, example.target_caption)
        record["keep"] = example.category == KEEP
        record["score"] = example.scores.get(SCORE, np.nan)
        if isinstance(example, EditPair) and len(opened.keys() & set(roles)) == 2:
            before = len(findings)
            findings += _compare(example, index, opened, stored)
            record["flawed"] = any(f.severity == "error" for f in findings[before:])
    record["text"] = xxhash.xxh3_64_intdigest(normalised(texts[0] if texts else "").encode())
    seen = [opened[role] for role in roles if role in opened]
    record["pictures"] = len(seen) if len(seen) == len(roles) else 0
    for place, image in enumerate(seen):
        record["content"][place] = xxhash.xxh3_64_intdigest(image.tobytes(), seed=image.width)
        record["thumb"][place] = thumbnail(image)
    if record["pictures"] == 2 and not isinstance(example, PlanTrace):
        alike = list(_likeness(example, index, opened, record, findings))
        findings += alike
        record["flawed"] |= bool(alike)  # what coding changes has no direction
    return Seen(findings, record, example.category if isinstance(example, EditPair | PlanTrace) else "")


def _open(
    example: AnyExample | PlanTrace, index: int, findings: list[Finding]
) -> tuple[dict[str, Image.Image], dict[str, Stored]]:
    opened: dict[str, Image.Image] = {}
    stored: dict[str, Stored] = {}
    for role, picture in pictures_of(example):
        try:
            opened[role] = picture.open()
            if role != "mask":
                stored[role] = how_stored(picture)
        except PictureError as error:
            # A cell of a table that is empty is a missing picture, a file of 0 bytes is a broken one.
            absent = error.why == "is missing" or (picture.path is None and not picture.data)
            findings.append(Finding("orphan" if absent else "unreadable", example.key, f"{role} {error}", index))
    return opened, stored


def _compare(pair: EditPair, index: int, opened: dict[str, Image.Image], stored: dict[str, Stored]) -> Iterator[Finding]:
    """Sizes, colours, orientation and motion."""
    source, target, mask = opened["source"], opened["target"], opened.get("mask")
    if mask is not None and mask.size != source.size:
        mask = None
    aligned = not _aspects_differ(source, target) and geometry.stands(source, target, mask)
    asked = is_asked_for(pair.instructions)
    turn = ""
    if not aligned and not asked:
        turn = _turn(source, target, stored)
    yield from _orientation(pair, index, stored, turn)
    if source.size != target.size and not turn:
        yield from _sizes(pair, index, source, target)
    colours = profile_finding(pair.key, stored["source"], stored["target"], index)
    if colours:
        yield colours
    if aligned or turn or asked or _aspects_differ(source, target):
        return
    moved = geometry.find_motion(source, target, mask)
    # Scaling to whole pixels zooms by up to a pixel of the smaller picture, which is no fault of its own.
    rounding = 0.0 if source.size == target.size else 2.0 / min(*source.size, *target.size)
    if moved is not None and not (moved.kind == "zoom" and abs(moved.transform.zoom) <= rounding):
        yield _moved(pair, index, moved)


def _turn(source: Image.Image, target: Image.Image, stored: dict[str, Stored]) -> str:
    """The operation that turns the target as the source is."""
    tags = stored["source"].orientation, stored["target"].orientation
    sides_exchanged = _aspects_differ(source, target)
    if sides_exchanged and _aspects_differ(source, target.transpose(Image.Transpose.ROTATE_90)):
        return ""
    suspected = undoing(tags[1]) or INVERSE.get(undoing(tags[0]), undoing(tags[0]))
    return find_turn(source, target, quarter=sides_exchanged, suspected=suspected if tags[0] != tags[1] else "")


def _orientation(pair: EditPair, index: int, stored: dict[str, Stored], turn: str) -> Iterator[Finding]:
    tags = stored["source"].orientation, stored["target"].orientation
    figures = {"source_exif": tags[0], "target_exif": tags[1], "turn": turn}
    if turn:
        why = f"the target is {TURNS[INVERSE.get(turn, turn)]} against the source; "
        if tags[1] != 1 and turn == undoing(tags[1]):
            why += f"its EXIF orientation {tags[1]} is wrong"
        elif tags[0] != 1:
            why += f"the source's EXIF orientation {tags[0]} is probably wrong"
        else:
            why += "an EXIF orientation was probably lost"
        yield Finding("orientation", pair.key, why, index, figures=figures)
    elif tags != (1, 1):
        why = f"EXIF orientation {tags[0]} of the source, {tags[1]} of the target: editkit applies them, other tools may not"
        yield Finding(
            "orientation", pair.key, why, index, severity="warning" if tags[0] != tags[1] else "note", figures=figures
        )


def _aspects_differ(source: Image.Image, target: Image.Image) -> bool:
    ratio = (source.width * target.height) / (source.height * target.width)
    # A pixel more or less is rounding, however small the pictures are.
    slack = ASPECT + 1.0 / min(*source.size, *target.size)
    return not 1 / (1 + slack) <= ratio <= 1 + slack


def _sizes(pair: EditPair, index: int, source: Image.Image, target: Image.Image) -> Iterator[Finding]:
    sizes = f"source {source.width} x {source.height}, target {target.width} x {target.height} px"
    figures = {"source_width": source.width, "source_height": source.height, "target_width": target.width,
               "target_height": target.height}  # fmt: skip
    kind = "aspect mismatch" if _aspects_differ(source, target) else "size mismatch"
    yield Finding(kind, pair.key, sizes, index, figures=figures)


def _moved(pair: EditPair, index: int, moved: geometry.Moved) -> Finding:
    found = moved.transform
    grown, degrees = 100 * (np.exp(-found.zoom) - 1), -np.degrees(found.angle)
    by = {
        "shift": f"by {-found.dx:+.2f} px across and {-found.dy:+.2f} px down",
        "zoom": f"by {grown:+.1f} %",
        "rotation": f"by {degrees:+.1f} degrees",
    }[moved.kind]
    verb = {"shift": "moved", "zoom": "enlarged" if grown > 0 else "shrunk", "rotation": "turned"}[moved.kind]
    figures = {
        "dx": round(-found.dx, 3), "dy": round(-found.dy, 3), "zoom_percent": round(float(grown), 2),
        "degrees": round(float(degrees), 2), "edges_in_place": round(moved.before, 2),
        "edges_in_place_aligned": round(moved.after, 2),
    }  # fmt: skip
    return Finding(moved.kind, pair.key, f"the target as a whole is {verb} {by}", index, figures=figures)


def _likeness(
    pair: AnyExample, index: int, opened: dict[str, Image.Image], record: Any, before: Sequence[Finding]
) -> Iterator[Finding]:
    """Identical and nearly identical pairs."""
    source, target = opened["source"], opened["target"]
    if record["keep"] or any(f.kind in (*MOTIONS, "orientation", "aspect mismatch") for f in before):
        return
    if record["content"][0] == record["content"][1]:
        yield Finding("identical pair", pair.key, "source and target are the same picture", index)
        return
    cells = np.abs(np.diff(record["thumb"].astype(np.int16), axis=0)[0])
    if cells.max() > SAME_CELL or cells.mean() > SAME_MEAN:
        return
    scaled = target if source.size == target.size else target.resize(source.size, Image.Resampling.BICUBIC)
    levels = np.abs(np.asarray(source, np.int16) - np.asarray(scaled, np.int16)).max(2)
    edited = (levels == 0).mean() >= UNTOUCHED and levels.max() >= SEEN
    if not edited and (levels > SAME_PIXEL).mean() <= SAME_SHARE:
        figures = {"mean_difference": round(float(levels.mean()), 2), "worst_cell": int(cells.max())}
        why = f"source and target differ by {levels.mean():.1f} levels in the mean and nowhere clearly"
        yield Finding("nearly identical pair", pair.key, why, index, figures=figures)
