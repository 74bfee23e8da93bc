"""From objects to what the cells of a picture should say of them, and back.

A cell is asked whether it lies in the middle of an object, and where that object ends (as in FCOS, Tian et al. 2019,
arXiv:1904.01355). Several cells answer for an object, so one that lies near the border of two cells is as sure as any other;
a heat map with a single peak would halve its confidence there, and GenEval counts from a confidence of 0.9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from editkit.models.scene_reader.load import Cells

NOTHING, UNSURE = -1, -2  # owners of cells that no object has, and of those of which nobody can say
OBJECT, DOUBTFUL, ABSENT = 1, 0, -1  # what an object is taken for
MIDDLE = 0.5  # of an object's width and height: the cells that answer for it
LEAST = 0.05  # confidence of what is reported at all
SAME = 0.5  # overlap (IoU) from which on two boxes are one object


@dataclass(frozen=True, slots=True)
class Found:
    """One object that was read.

    Attributes:
        kind, colour: the likeliest words.
        box: left, top, right, bottom.
        score: probability that an object of this class is there, in [0, 1].
    """

    kind: str
    colour: str
    box: tuple[float, float, float, float]
    score: float


def owners(boxes_BN4: torch.Tensor, taken_BN: torch.Tensor, grid: int) -> torch.Tensor:
    """Which object each cell answers for.

    Args:
        boxes_BN4: left, top, right, bottom in shares of the side.
        taken_BN: OBJECT, DOUBTFUL or ABSENT.
        grid: cells a side, G.

    Returns:
        int64, shape (B, G, G): number of the object in whose middle the cell lies, of several the nearest; NOTHING; or UNSURE
        in the whole box of a doubtful object. The cell that holds the centre of an object is its own, however small it is.
    """
    centres_BN2 = (boxes_BN4[..., :2] + boxes_BN4[..., 2:]) / 2
    halves_BN2 = ((boxes_BN4[..., 2:] - boxes_BN4[..., :2]) / 2).clamp(min=1e-6)
    away_BNP2 = cell_centres(grid, boxes_BN4.device) - centres_BN2[:, :, None]
    reach_BNP = (away_BNP2.abs() / halves_BN2[:, :, None]).amax(-1)  # 0 in the centre of the box, 1 on its edge
    is_centre_BNP = (away_BNP2.abs() <= 0.5 / grid).all(-1)
    reach_BNP = torch.where(is_centre_BNP, reach_BNP.clamp(max=MIDDLE), reach_BNP)
    nearest_BP, owner_BP = reach_BNP.masked_fill((taken_BN != OBJECT)[..., None], torch.inf).min(1)
    unsure_BP = ((reach_BNP <= 1) & (taken_BN == DOUBTFUL)[..., None]).any(1)
    found_BP = torch.where(nearest_BP <= MIDDLE, owner_BP, torch.where(unsure_BP, UNSURE, NOTHING))
    return found_BP.unflatten(1, (grid, grid))


def cell_centres(grid: int, device: torch.device | None = None) -> torch.Tensor:
    """(x, y) of every cell, row by row, in shares of the side; shape (G * G, 2)."""
    along_G = (torch.arange(grid, device=device) + 0.5) / grid
    y_GG, x_GG = torch.meshgrid(along_G, along_G, indexing="ij")
    return torch.stack([x_GG, y_GG], -1).flatten(0, 1)


def boxes_of(edges_B4GG: torch.Tensor) -> torch.Tensor:
    """The boxes that the cells speak of, in shares of the side; shape (B, G, G, 4)."""
    grid = edges_B4GG.shape[-1]
    centres_GG2 = cell_centres(grid, edges_B4GG.device).view(grid, grid, 2)
    edges_BGG4 = edges_B4GG.permute(0, 2, 3, 1) / grid
    return torch.cat([centres_GG2 - edges_BGG4[..., :2], centres_GG2 + edges_BGG4[..., 2:]], -1)


def overlaps(a_X4: torch.Tensor, b_X4: torch.Tensor) -> torch.Tensor:
    """Intersection over union of boxes, in [0, 1]; the shapes before the last axis broadcast."""
    across_X2 = (torch.minimum(a_X4[..., 2:], b_X4[..., 2:]) - torch.maximum(a_X4[..., :2], b_X4[..., :2])).clamp(min=0)
    shared_X = across_X2.prod(-1)
    areas = [(v[..., 2:] - v[..., :2]).clamp(min=0).prod(-1) for v in (a_X4, b_X4)]
    return shared_X / (areas[0] + areas[1] - shared_X).clamp(min=1e-9)


def find_objects(cells: Cells, kinds: Sequence[str], colours: Sequence[str]) -> list[list[Found]]:
    """What the cells say, picture by picture, the surest first; boxes in shares of the side, within the picture.

    An object has one class, the likeliest: what looks half like one and half like another is reported once, and is not sure
    enough to be counted.
    """
    sure_BKP = (cells.there.sigmoid()[:, None] * cells.kinds.softmax(1)).flatten(2)
    scores_BP, best_BP = sure_BKP.max(1)
    colours_BP = cells.colours.argmax(1).flatten(1)
    boxes_BP4 = boxes_of(cells.edges).flatten(1, 2).clamp(0, 1)
    read = []
    for scores_P, best_P, colours_P, boxes_P4 in zip(scores_BP, best_BP, colours_BP, boxes_BP4, strict=True):
        read.append(
            [
                Found(kinds[best_P[i]], colours[colours_P[i]], tuple(boxes_P4[i].tolist()), scores_P[i].item())
                for i in _distinct(scores_P, boxes_P4)
            ]
        )
    return read


def _distinct(scores_P: torch.Tensor, boxes_P4: torch.Tensor) -> list[int]:
    """Cells that speak of different objects, the surest cell of each."""
    order = scores_P.argsort(descending=True, stable=True)
    order = order[scores_P[order] > LEAST]
    kept: list[int] = []
    for i in order.tolist():
        if not kept or overlaps(boxes_P4[i], boxes_P4[kept]).max() < SAME:
            kept.append(i)
    return kept
