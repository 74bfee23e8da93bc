"""Training the judge that reads scenes: of every cell of a picture whether an object is there, which, and where it ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from editkit.data.cache import Store
from editkit.data.draws import Draws
from editkit.data.examples import CaptionedImage, Dataset
from editkit.data.pictures import Picture
from editkit.data.prepare import PrepareParams, prepare, to_network
from editkit.errors import UserError
from editkit.evaluate.benches.geneval_rules import CONFIDENCE
from editkit.evaluate.benches.scene_reader import agreeing_verdicts
from editkit.evaluate.pictures import mark_boxes, pair_sheet
from editkit.evaluate.readings import Tally, summarise_readings, tally
from editkit.lab.scene_art import COLOURS, GLYPHS
from editkit.lab.scene_faults import FAULTS, Seen
from editkit.lab.scene_readings import CLEAR, GONE, fault_of, seen_in, side_of
from editkit.methods.disturbances import KINDS, disturb
from editkit.methods.protocol import Batch, Loss
from editkit.models.scene_reader.cells import ABSENT, DOUBTFUL, OBJECT, UNSURE, Found, boxes_of, overlaps, owners
from editkit.models.scene_reader.load import Cells, SceneReaderParts
from editkit.models.scene_reader.reader import SceneReader, scaled
from editkit.recipe.schema import Fraction, Recipe, Section

MOST = 16  # objects of a picture: two scenes of six blended, and some to spare
NO_COLOUR = -1  # label of a colour that nobody can name
CELLS = 8  # by which the summed cross-entropy of the cells is divided: about as many lie in objects
PREVIEWED = 12  # pictures of a sheet
SHOWN = 256  # px, a picture of a sheet


class SceneReading:
    """Cross-entropies of every cell, and the overlap of the boxes.

    Plain cross-entropies, no focal weights: only a proper scoring rule makes a confidence a probability, and GenEval's
    thresholds ask for one.
    """

    class Options(Section):
        """The further keys of `[method]`."""

        disturbed: Fraction = 0.7  # of the pictures, in training

    kind = "captioned_images"

    def __init__(self, recipe: Recipe, options: Options, parts: SceneReaderParts) -> None:
        self._recipe = recipe
        self._options = options
        self._parts = parts
        self._network = parts.make(list(GLYPHS), list(COLOURS))
        self._params = PrepareParams(recipe.data.resolution, recipe.data.crop)
        if recipe.data.resolution != self._network.size:
            raise UserError(f"data.resolution: found {recipe.data.resolution}; this reader sees {self._network.size} px")
        if recipe.data.flip or recipe.data.crop != "center":
            raise UserError("data.flip, data.crop: boxes do not follow them; leave both as they are")

    @property
    def trainable(self) -> nn.Module:
        return self._network

    @property
    def frozen_encoders(self) -> dict[str, nn.Module]:
        return {}

    @property
    def resting(self) -> list[nn.Module]:
        return []

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self._network.parameters())}]

    def pictures_of(self, example: CaptionedImage) -> Sequence[Picture]:
        return (example.image,)

    def texts_of(self, example: CaptionedImage) -> tuple[str, ...]:
        return ("",)

    def targets_of(self, example: CaptionedImage) -> Mapping[str, torch.Tensor]:
        """`boxes` (16, 4) in shares of the side; `kinds`, `colours` and `taken` (16,), the last as `owners` has it."""
        seen, side = seen_in(example), side_of(example)
        boxes_N4, taken_N = torch.zeros(MOST, 4), torch.full((MOST,), ABSENT)
        kinds_N, colours_N = torch.zeros(MOST, dtype=torch.long), torch.full((MOST,), NO_COLOUR)
        for i, one in enumerate(seen):
            boxes_N4[i] = torch.tensor(one.box) / side
            taken_N[i] = OBJECT if one.visible >= CLEAR else DOUBTFUL if one.visible > GONE else ABSENT
            kinds_N[i] = list(GLYPHS).index(one.kind)
            if one.colour:
                colours_N[i] = list(COLOURS).index(one.colour)
        return {"boxes": boxes_N4, "kinds": kinds_N, "colours": colours_N, "taken": taken_N}

    def encode(self, pixels_BNCHW: torch.Tensor) -> Batch:
        return {"image": pixels_BNCHW[:, 0]}

    def cache_texts(self, texts: Iterable[str], store: Store) -> None:
        return

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        images_BCHW = disturb(to_network(batch["image"]), draws, self._options.disturbed)
        return cell_losses(self._network(images_BCHW), batch)

    def preview(self, dataset: Dataset[CaptionedImage], folder: Path, step: int) -> Mapping[str, Any]:
        examples = _first(dataset, max(PREVIEWED, self._recipe.evaluate.preview_pairs))
        read = self._read_examples(examples)
        rows = [_marked(e, r) for e, r in zip(examples[:PREVIEWED], read, strict=False)]
        pair_sheet(rows, columns=2).save(folder / f"step-{step:06d}.png")
        if not self._recipe.evaluate.preview_pairs:
            return {}
        return {"scores": _tally(examples, read).figures()}

    def evaluate(self, dataset: Dataset[CaptionedImage], folder: Path) -> Mapping[str, Any]:
        """Categories, colours and counts by condition, with every confusion, on scene graphs that training never saw.

        Conditions are the clean pictures, these disturbed in one way, those with one fault, and with a fault and disturbed.
        """
        examples = _first(dataset, self._recipe.evaluate.pairs)
        by_fault = {fault: [e for e in examples if fault_of(e) == fault] for fault in ("", *FAULTS)}
        clean, faulty = by_fault.pop(""), [e for e in examples if fault_of(e)]
        read = self._read_examples(clean)
        conditions = {"clean": _tally(clean, read)}
        conditions |= {kind: self._tally_disturbed(clean, (kind,)) for kind in KINDS}
        conditions |= {fault: _tally(those, self._read_examples(those)) for fault, those in by_fault.items()}
        conditions["faulty and disturbed"] = self._tally_disturbed(faulty, KINDS)
        result = summarise_readings(conditions)
        result["scores"] |= {"verdicts": agreeing_verdicts(clean, read), "n": len(examples)}
        return result

    def _read_examples(self, examples: Sequence[CaptionedImage]) -> list[list[Found]]:
        return SceneReader(self._network).read([e.image.open() for e in examples])

    def _tally_disturbed(self, examples: Sequence[CaptionedImage], kinds: Sequence[str]) -> Tally:
        found, size = Tally(), self._recipe.evaluate.batch_size
        for start in range(0, len(examples), size):
            chunk = examples[start : start + size]
            pixels_BCHW = torch.cat([prepare([e.image.open()], self._params) for e in chunk])
            draws = Draws(self._recipe.evaluate.seed, range(start, start + len(chunk)))
            disturbed_BCHW = disturb(to_network(pixels_BCHW), draws, kinds=kinds)
            for example, read in zip(chunk, SceneReader(self._network).read_pixels(disturbed_BCHW), strict=True):
                found.add(seen_in(example), [scaled(f, side_of(example)) for f in read])
        return found

    def finish(self, dataset: Dataset[CaptionedImage]) -> None:
        return

    def export(self, folder: Path) -> Path:
        self._parts.save(folder / "model")
        return folder / "model"


def cell_losses(cells: Cells, batch: Batch) -> Loss:
    """What is wrong with the cells, as the mean over the pictures.

    Of a picture: the cross-entropy of "there" summed over all cells whose answer is known, over `CELLS`; and the means over the
    cells that lie in objects of the cross-entropies of class and of colour, and of 1 - IoU of the boxes.

    Args:
        cells: what the network says.
        batch: with what `SceneReading.targets_of` gives of each picture.
    """
    owner_BGG = owners(batch["boxes"], batch["taken"], cells.there.shape[-1])
    inside_BGG, known_BGG = (owner_BGG >= 0).float(), (owner_BGG != UNSURE).float()
    owner_BP = owner_BGG.clamp(min=0).flatten(1)
    kinds_BGG, colours_BGG = (batch[n].gather(1, owner_BP).view_as(owner_BGG) for n in ("kinds", "colours"))
    boxes_BGG4 = batch["boxes"].gather(1, owner_BP[..., None].expand(-1, -1, 4)).view(*owner_BGG.shape, 4)
    coloured_BGG = inside_BGG * (colours_BGG != NO_COLOUR)

    there_BGG = F.binary_cross_entropy_with_logits(cells.there, inside_BGG, reduction="none") * known_BGG
    kind_BGG = F.cross_entropy(cells.kinds, kinds_BGG, reduction="none")
    colour_BGG = F.cross_entropy(cells.colours, colours_BGG.clamp(min=0), reduction="none")
    box_BGG = 1 - overlaps(boxes_of(cells.edges), boxes_BGG4)
    parts = {
        "there": there_BGG.sum((1, 2)).mean() / CELLS,
        "kinds": _mean_inside(kind_BGG, inside_BGG),
        "colours": _mean_inside(colour_BGG, coloured_BGG),
        "boxes": _mean_inside(box_BGG, inside_BGG),
    }
    return Loss(torch.stack(list(parts.values())).sum(), {name: part.detach() for name, part in parts.items()})


def _mean_inside(values_BGG: torch.Tensor, inside_BGG: torch.Tensor) -> torch.Tensor:
    """Mean over the pictures of the mean over the cells that count; 0 for a picture without any."""
    return ((values_BGG * inside_BGG).sum((1, 2)) / inside_BGG.sum((1, 2)).clamp(min=1)).mean()


def _first(dataset: Dataset[CaptionedImage], count: int) -> list[CaptionedImage]:
    return [dataset[i] for i in range(min(count, len(dataset)))]


def _tally(examples: Sequence[CaptionedImage], read: Sequence[Sequence[Found]]) -> Tally:
    return tally((seen_in(e), r) for e, r in zip(examples, read, strict=True))


def _marked(example: CaptionedImage, read: Sequence[Found]) -> tuple[Image.Image, Image.Image, str]:
    """The picture with what is seen in it, and with what was read."""
    image, seen = example.image.open(), seen_in(example)
    scale = SHOWN // image.width
    truth = mark_boxes(image, [s.box for s in seen], [_said(s) for s in seen], scale)
    found = [f for f in read if f.score > CONFIDENCE]
    said = [f"{f.colour} {f.kind} {f.score:.2f}" for f in found]
    fault = fault_of(example) or "clean"
    return truth, mark_boxes(image, [f.box for f in found], said, scale), f"{fault}, {image.width} px: truth, and what was read"


def _said(seen: Seen) -> str:
    """What it is, and how much of it is there where not all is."""
    return f"{seen.colour or '?'} {seen.kind}" + (f" {seen.visible:.0%}" if seen.visible < 0.995 else "")
