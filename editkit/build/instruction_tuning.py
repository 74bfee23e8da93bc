"""Instruction tuning on tasks of image processing: `builder = "instruction_tuning"` in a data spec.

Known tasks become edit pairs with instructions, as language models were tuned on instructions (Paul 2023 did it with
cartoons and four tasks of restoration). Pairs are native crops: scaling a whole picture down to the size of training would undo
the very noise, blur and rain that a model has to learn to remove.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from importlib.metadata import version
from random import Random
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from pydantic import AfterValidator, Field

from editkit.build.degradations import from_image, recolour
from editkit.build.generated import GeneratedExamples
from editkit.build.rows import Row, image, parquet_schema
from editkit.build.stages import DROPPED, Gathering, Stage
from editkit.build.tuning_tasks import HELD_OUT_PAIRS, KORNIA, RESTORATIONS, TASKS, instructions, pairs_of
from editkit.data.examples import CaptionedImage
from editkit.data.pictures import PictureError, png_bytes
from editkit.data.prepare import to_image
from editkit.data.read import open_dataset
from editkit.data.spec import BUILDER_VERSIONS, DataSpec
from editkit.environment import require_extra
from editkit.errors import UserError, did_you_mean
from editkit.recipe.schema import Fraction, NonNegativeInt, PositiveInt, Section

VERSION = BUILDER_VERSIONS["instruction_tuning"]
PART = 100  # rows
TRIES = 8  # crops looked at until one shows something
FLAT = 0.04  # standard deviation of the brightest channel, in [0, 1]: a crop of plain sky teaches nothing
DECODED = 16  # pictures kept as pixels
CONTEXT = 3  # a look is drawn on a crop of at most so many times the side, for strokes need room, and scaled down
Photographs = Callable[[str, int], tuple[CaptionedImage, Image.Image]]  # split and index -> the example and its pixels
installed = cache(version)  # every example says it, and asking reads files


def _are_tasks(names: list[str]) -> list[str]:
    for name in names:
        if name not in TASKS:
            hint = did_you_mean(name, TASKS, f"expected some of {', '.join(TASKS)}")
            raise ValueError(f'found "{name}"; {hint}')
    return names


Scale = Annotated[float, Field(gt=0, le=1)]


class Options(Section):
    """The keys of `[build]` behind `builder`."""

    pictures: str  # a data set of captioned pictures, as a recipe's data.train has it; its splits stay apart
    train: NonNegativeInt  # pairs of the split
    test: NonNegativeInt
    size: PositiveInt = 256  # px, the side of the square crops
    seed: int = 0
    tasks: Annotated[list[str], Field(min_length=1), AfterValidator(_are_tasks)] = list(RESTORATIONS)
    combined: Fraction = 0.2  # of the pairs with two faults at once, where two of the tasks can be combined
    # Of the training pairs, those whose picture is turned in hue and in saturation before anything else is done to it: a few
    # photographs have few colours, and a model learns them by heart instead of copying what it sees.
    recoloured: Fraction = 0.0
    # Pictures are scaled by a factor between the two before they are cropped, and never afterwards; 1 = as they are.
    scales: Annotated[list[Scale], Field(min_length=2, max_length=2)] = [1.0, 1.0]

    @property
    def libraries(self) -> list[str]:
        """What the tasks compute with: entries of `editkit.environment.EXTRAS`, named as their packages are."""
        needed = {name for task in self.tasks for name in TASKS[task].needs}
        return sorted(needed | ({*KORNIA} if self.recoloured else set()))


@dataclass(frozen=True)
class Tune:
    """The only stage: crops a picture, and spoils or redraws it."""

    options: Options
    kind: str
    sums: Mapping[str, str]  # split -> hash of the pictures
    name = "tune"
    processes = 0
    accelerated = False
    releases = False
    part_size = PART

    @property
    def schema(self) -> pa.Schema:
        return parquet_schema(self.kind, generated=True).append(pa.field(DROPPED, pa.string()))

    def identity(self) -> Mapping[str, Any]:
        said = {"version": VERSION, "kind": self.kind, "sha256": dict(self.sums)}
        return {**said, **self.options.model_dump(exclude={"train", "test"}), "libraries": self._libraries()}

    def _libraries(self) -> Mapping[str, str]:
        return {name: installed(name) for name in self.options.libraries}

    def open(self) -> Callable[[list[Row]], list[Row]]:
        torch.set_num_threads(1)  # the sums of more threads would round otherwise
        opened = cache(partial(open_dataset, self.options.pictures))
        # Neighbouring rows take any picture, and to decode a large one takes longer than all that is done to a crop of it.
        photograph = lru_cache(DECODED)(lambda split, index: (example := opened(split)[index], example.image.open()))
        return partial(self._rows, lambda split: len(opened(split)), photograph)

    def _rows(self, count: Callable[[str], int], photograph: Photographs, rows: Sequence[Row]) -> list[Row]:
        made = []
        for row in rows:
            split, index = row["split"], row["index"]
            key = f"{split}-{index:06d}"
            try:
                made.append({**self._row(count(split), photograph, split, index), "key": key, DROPPED: ""})
            except PictureError as error:
                made.append({**dict.fromkeys(self.schema.names), "key": key, DROPPED: error.why})
        return made

    def _row(self, count: int, photograph: Photographs, split: str, index: int) -> Row:
        options = self.options
        rng = Random(f"{options.seed} {split} {index}")
        example, whole = photograph(split, rng.randrange(count))
        names, category = self._drawn_tasks(split, rng)
        photo, scale = _scaled(whole, example.image.name, options, rng)
        look = TASKS[names[0]].look
        side = min(CONTEXT * options.size, *photo.size) if look else options.size
        crop, place = _crop(photo, side, rng)
        colours: Mapping[str, Any] = {}
        if split == "train" and rng.random() < options.recoloured:
            crop, colours = recolour(crop, rng)
        drawn: list[Mapping[str, Any]] = []
        if look:
            target, said = look(crop, rng)
            source, target = (_square(x, options.size) for x in (crop, target))
            drawn.append({"task": names[0], **said})
        else:
            x_CHW = from_image(crop)
            for name in names:
                spoil = TASKS[name].spoil
                assert spoil is not None
                x_CHW, said = spoil(x_CHW, rng)
                drawn.append({"task": name, **said})
            source, target = to_image(x_CHW * 2 - 1), crop
        said = instructions(names, split, rng, drawn[0].get("style", ""))
        came = {
            "parent": example.key, "seed": options.seed, "scale": round(scale, 5), "crop": [*place, side], **colours,
            "done": drawn,
            "libraries": self._libraries(), "version": VERSION, "licence": example.licence,
        }  # fmt: skip
        about = {"licence": example.licence, "provenance": json.dumps(came)}
        if self.kind == "captioned_images":  # every second one spoiled or redrawn: what an autoencoder must know
            shown = (source if look is None else target) if index % 2 else _square(crop, options.size)
            return {"image": image(png_bytes(shown)), "captions": list(example.captions), "facts": "{}", **about}
        caption = example.captions[0] if example.captions else ""
        return {
            "source": image(png_bytes(source)), "target": image(png_bytes(target)), "mask": None, "instructions": list(said),
            "category": category, "source_caption": caption, "target_caption": caption, "source_facts": "{}",
            "target_facts": "{}", **about,
        }  # fmt: skip

    def _drawn_tasks(self, split: str, rng: Random) -> tuple[tuple[str, ...], str]:
        """(the tasks of a pair, its category)."""
        names = tuple(self.options.tasks)
        if rng.random() < self.options.combined:
            unseen = split == "test" and rng.random() < 0.5
            both = pairs_of(names, split, unseen=unseen) or pairs_of(names, split, unseen=False)
            if both:
                chosen = rng.choice(both)
                return chosen, "combined, unseen" if chosen in HELD_OUT_PAIRS else "combined"
        name = rng.choice(names)
        return (name,), name


def _scaled(photo: Image.Image, name: str, options: Options, rng: Random) -> tuple[Image.Image, float]:
    """The picture, scaled by a factor that is drawn, but not so small that no crop fits."""
    least, low, high = options.size / min(photo.size), *options.scales
    if least > high:
        raise PictureError(name, f"is smaller than {options.size} px")
    scale = rng.uniform(max(low, least), high)
    if scale < 1:
        width, height = (max(options.size, round(n * scale)) for n in photo.size)
        photo = photo.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return photo, scale


def _crop(photo: Image.Image, side: int, rng: Random) -> tuple[Image.Image, tuple[int, int]]:
    """A square part that shows something, where one is found, and its left upper corner."""
    for _ in range(TRIES):
        x, y = rng.randint(0, photo.width - side), rng.randint(0, photo.height - side)
        crop = photo.crop((x, y, x + side, y + side))
        if np.asarray(crop, dtype=np.float32).std(axis=(0, 1)).max() / 255 >= FLAT:
            break
    return crop, (x, y)


def _square(picture: Image.Image, side: int) -> Image.Image:
    return picture.resize((side, side), Image.Resampling.LANCZOS)


class InstructionTuningBuilder(GeneratedExamples):
    """Edit pairs, or of the same pictures alone a set of captioned images."""

    builder = "instruction_tuning"
    kinds = ("edit_pairs", "captioned_images")
    Options = Options

    def __init__(self, kind: str, options: Options) -> None:
        super().__init__(kind, options)
        self._kind = kind
        if options.scales[0] > options.scales[1]:
            raise UserError(f"[build] scales: found {options.scales}; expected [LEAST, MOST]")
        for needed in options.libraries:
            require_extra(needed, "[build] tasks")

    def stages(self, spec: DataSpec) -> Sequence[Stage | Gathering]:
        sums = self._parents(self._options.pictures, "captioned_images", one_each=False)
        stage = Tune(self._options, self._kind, sums)
        self._teachers = {"tune": dict(stage.identity())}
        return [stage]
