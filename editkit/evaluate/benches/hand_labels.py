"""Whether the scene reader reads what people see in pictures that a model drew. For those who work on editkit.

    python -m editkit.evaluate.benches.hand_labels start FOLDER      draws 200 pictures of a bench folder, and sheets of them
    python -m editkit.evaluate.benches.hand_labels score FOLDER      compares the reader with the labels that were written

A picture is labelled without knowing its prompt or what the reader said: neither is on the sheets. `labels.jsonl` has a line a
picture, whose `label` begins as null and becomes what is seen, objects with commas between them:

    "red apple, 2 blue bell"    an apple, and two bells
    "red apple, bell?"          an apple, and something of which nobody can say whether it is a bell; it counts for neither side
    "? bell"                    a bell whose colour nobody can name
    "nothing"                   no object
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from editkit.data.pictures import Picture
from editkit.errors import UserError
from editkit.evaluate.benches.geneval import read_folder
from editkit.evaluate.benches.geneval_rules import CONFIDENCE
from editkit.evaluate.benches.scene_reader import READER
from editkit.evaluate.pictures import contact_sheet
from editkit.files import write_whole
from editkit.lab.scene_art import COLOURS, GLYPHS
from editkit.models.scene_reader.cells import Found
from editkit.models.scene_reader.reader import load_scene_reader

FILE = "labels.jsonl"
NUMBER = 200
DEMAND = 0.95  # agreement in category that a reader has to reach before it judges what models draw
ON_A_SHEET, COLUMNS = 20, 5
SHOWN = 192  # px, a picture of a sheet
NOTHING, UNKNOWN = "nothing", "?"
OBJECT = re.compile(r"(?:(?P<count>\d+)\s+)?(?:(?P<colour>[a-z]+|\?)\s+)?(?P<kind>[a-z]+)(?P<unsure>\?)?")


@dataclass(frozen=True, slots=True)
class Label:
    """What a person sees in a picture.

    Attributes:
        file: the picture, relative to the bench folder.
        objects: (class, colour) of each; colour "" where nobody can name it.
        unsure: classes of what may be there or not.
    """

    file: str
    objects: tuple[tuple[str, str], ...]
    unsure: tuple[str, ...] = ()


def start(folder: Path, number: int = NUMBER, seed: int = 0) -> list[Path]:
    """Draws pictures of a bench folder to label, as evenly over its categories as they allow.

    Args:
        folder: as `editkit.evaluate.benches.geneval` writes it.
        number: pictures at most.
        seed: of the choice.

    Returns:
        The sheets, `labels-01.png` and further ones; `labels.jsonl` lies beside them.

    Raises:
        UserError: there are labels already, which nothing overwrites.
    """
    if (folder / FILE).exists():
        raise UserError(f"{folder / FILE}: is there already; label its pictures, or remove it to draw others")
    rng, by_tag = Random(f"hand_labels/{seed}"), {}
    for prompt in read_folder(folder):
        by_tag.setdefault(prompt.asked["tag"], []).extend(prompt.samples)
    for paths in by_tag.values():
        rng.shuffle(paths)
    turns = [
        path for turn in range(max(map(len, by_tag.values()))) for paths in by_tag.values() for path in paths[turn : turn + 1]
    ]
    chosen = turns[:number]
    rng.shuffle(chosen)  # so that nothing says of what category a picture is
    files = [path.relative_to(folder).as_posix() for path in chosen]
    sheets = []
    for at in range(0, len(chosen), ON_A_SHEET):
        images = [Picture(path).open() for path in chosen[at : at + ON_A_SHEET]]
        scale = max(1, SHOWN // max(image.width for image in images))
        numbers = [f"line {at + i + 1}" for i in range(len(images))]
        sheets.append(folder / f"labels-{len(sheets) + 1:02d}.png")
        contact_sheet(images, numbers, COLUMNS, scale).save(sheets[-1])
    write_whole(folder / FILE, "".join(json.dumps({"file": file, "label": None}) + "\n" for file in files))
    return sheets


def read_labels(path: Path) -> list[Label]:
    """The labels of a `labels.jsonl` that has been filled in.

    Raises:
        UserError: with the line, and what is wrong with it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: found no labels ({error.strerror}); make some with hand_labels start") from error
    return [_label(line, f"{path}:{n}") for n, line in enumerate(lines, 1) if line.strip()]


def score_labels(labels: Sequence[Label], read: Sequence[Sequence[Found]]) -> dict[str, Any]:
    """How well readings agree with labels.

    Args:
        labels: of some pictures.
        read: what was read in each.

    Returns:
        `categories`: of all objects that were labelled or read, the share that both have (what is labelled as unsure counts for
        neither side); `colours`: of the objects that both have and whose colour was labelled, the share whose colour both have;
        `pictures`: the share of pictures without any difference in category; `n`, pictures; `confusion`, every difference
        in words and how often it was found.
    """
    both = either = coloured = colours_right = whole = 0
    confusion: Counter[str] = Counter()
    for label, found in zip(labels, read, strict=True):
        seen = [(f.kind, f.colour) for f in found if f.score > CONFIDENCE]
        missed, extra = _differences(label, Counter(kind for kind, _ in seen))
        shared = len(label.objects) - missed.total()
        both, either = both + shared, either + shared + missed.total() + extra.total()
        whole += not missed and not extra
        named = Counter(o for o in label.objects if o[1])
        right = (named & Counter(seen)).total()
        of_kind = Counter(kind for kind, _ in named.elements())
        coloured += (of_kind & Counter(kind for kind, _ in seen)).total()
        colours_right += right
        confusion.update({f"{kind} missed": n for kind, n in missed.items()})
        confusion.update({f"{kind} read where nobody sees one": n for kind, n in extra.items()})
    return {
        "categories": both / either if either else float("nan"),
        "colours": colours_right / coloured if coloured else float("nan"),
        "pictures": whole / len(labels) if labels else float("nan"),
        "n": len(labels),
        "confusion": dict(confusion.most_common()),
    }


def score(folder: Path, base: str = READER) -> dict[str, Any]:
    """Reads the labelled pictures of a folder with a scene reader, and compares; see `score_labels`."""
    labels = read_labels(folder / FILE)
    if not labels:
        raise UserError(f"{folder / FILE}: found no label; expected a line a picture")
    images = [Picture(folder / label.file).open() for label in labels]
    return score_labels(labels, load_scene_reader(base).read(images))


def _differences(label: Label, seen: Counter[str]) -> tuple[Counter[str], Counter[str]]:
    """Classes that only the label has, and those that only the reader has, with how many."""
    expected = Counter(kind for kind, _ in label.objects)
    return expected - seen, seen - expected - Counter(label.unsure)


def _label(line: str, where: str) -> Label:
    try:
        row = json.loads(line)
        file, text = str(row["file"]), row["label"]
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise UserError(f'{where}: found no label; expected {{"file": ..., "label": "red apple, 2 blue bell"}}') from error
    if not isinstance(text, str) or not text.strip():
        raise UserError(f'{where}: found label = {json.dumps(text)}; write what is seen in it, or "{NOTHING}"')
    objects: list[tuple[str, str]] = []
    unsure: list[str] = []
    for part in [] if text.strip() == NOTHING else text.split(","):
        count, colour, kind, is_unsure = _object(part.strip(), where)
        if is_unsure:
            unsure += [kind] * count
        else:
            objects += [(kind, colour)] * count
    return Label(file, tuple(objects), tuple(unsure))


def _object(text: str, where: str) -> tuple[int, str, str, bool]:
    """Number, colour ("" = not named), class, and whether it is unsure."""
    found = OBJECT.fullmatch(text)
    kind, colour = (found["kind"], found["colour"] or "") if found else ("", "")
    if found is None or kind not in GLYPHS or (colour and colour != UNKNOWN and colour not in COLOURS):
        raise UserError(
            f'{where}: found "{text}"; expected a colour ({", ".join(COLOURS)} or ?) and a class ({", ".join(GLYPHS)}), '
            'such as "red apple", "2 blue bell" or "bell?"'
        )
    if not colour and not found["unsure"]:
        raise UserError(f'{where}: found "{text}" without a colour; write "? {kind}" where it cannot be named')
    return int(found["count"] or 1), "" if colour == UNKNOWN else colour, kind, bool(found["unsure"])


def _main(arguments: Sequence[str]) -> None:
    match arguments:
        case ["start", folder]:
            sheets = start(Path(folder))
            print(f"label {Path(folder) / FILE} by {', '.join(str(s) for s in sheets)}")
        case ["score", folder, *base] if len(base) <= 1:
            result = score(Path(folder), *base)
            print(json.dumps(result, indent=1))
            print("accepted" if result["categories"] >= DEMAND else f"not accepted: expected categories of {DEMAND} at least")
        case _:
            raise UserError(f"found {' '.join(arguments) or 'nothing'}; expected start FOLDER, or score FOLDER [READER]")


if __name__ == "__main__":
    try:
        _main(sys.argv[1:])
    except UserError as error:
        print(f"hand_labels: {error}", file=sys.stderr)
        sys.exit(2)
