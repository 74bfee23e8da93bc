"""The scene reader's network and its cells: from objects to cells and back, on disk and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from editkit.errors import UserError
from editkit.evaluate.benches.geneval_rules import iou
from editkit.lab.scene_art import COLOURS, GLYPHS
from editkit.lab.scene_readings import reading, seen_in
from editkit.methods.scene_reader import SceneReading
from editkit.models.locate import LAB
from editkit.models.scene_reader.cells import (
    ABSENT,
    DOUBTFUL,
    NOTHING,
    OBJECT,
    UNSURE,
    cell_centres,
    find_objects,
    overlaps,
    owners,
)
from editkit.models.scene_reader.load import Cells, Options, SceneNetwork, SceneReaderParts, load
from editkit.models.scene_reader.reader import SceneReader, load_scene_reader

KINDS, HUES = list(GLYPHS), list(COLOURS)
SMALL = Options(channels=[8, 16, 16], blocks=[1, 1, 1])


def small(seed: int = 0) -> SceneReaderParts:
    torch.manual_seed(seed)
    parts = load("", SMALL)
    parts.make(KINDS, HUES).eval()
    return parts


def ideal_cells(boxes: torch.Tensor, taken: torch.Tensor, kinds: torch.Tensor, colours: torch.Tensor, grid: int = 16) -> Cells:
    """What a network that is always right would say."""
    owner_BP = owners(boxes, taken, grid).flatten(1)
    which_BP = owner_BP.clamp(min=0)
    box_BP4 = boxes.gather(1, which_BP[..., None].expand(-1, -1, 4))
    away_BP4 = torch.cat([cell_centres(grid) - box_BP4[..., :2], box_BP4[..., 2:] - cell_centres(grid)], -1) * grid
    one_hot = [
        20.0 * torch.nn.functional.one_hot(v.gather(1, which_BP).clamp(min=0), n)
        for v, n in ((kinds, len(KINDS)), (colours, len(HUES)))
    ]
    grids = [v.transpose(1, 2).unflatten(2, (grid, grid)) for v in (*one_hot, away_BP4)]
    return Cells((20.0 * (owner_BP >= 0) - 10).unflatten(1, (grid, grid)), *grids)


def test_what_the_cells_should_say_is_read_as_what_is_there() -> None:
    examples = [e for e in (reading(3, "train", i, faulty=0.0) for i in range(120)) if seen_in(e)]
    targets = [SceneReading.targets_of(None, e) for e in examples]  # ty: ignore[invalid-argument-type]
    batch = {name: torch.stack([t[name] for t in targets]) for name in targets[0]}
    read = find_objects(ideal_cells(**batch), KINDS, HUES)
    for example, found in zip(examples, read, strict=True):
        side, seen = int(example.facts["size"]), seen_in(example)
        assert sorted((f.kind, f.colour) for f in found) == sorted((s.kind, s.colour) for s in seen)
        for one in seen:
            box = tuple(v / side for v in one.box)
            assert max(iou(f.box, box) for f in found if f.kind == one.kind) == pytest.approx(1, abs=1e-4)


def test_the_middle_of_an_object_is_its_own() -> None:
    boxes = torch.tensor([[[0.25, 0.25, 0.75, 0.75], [0.0, 0.0, 0.05, 0.05], [0, 0, 0, 0]]])
    found = owners(boxes, torch.tensor([[OBJECT, OBJECT, ABSENT]]), 8)[0]
    expected = torch.full((8, 8), NOTHING)
    expected[3:5, 3:5] = 0  # of cells 2 to 5 the inner half
    expected[0, 0] = 1  # an object that no cell's centre lies in
    assert torch.equal(found, expected)


def test_nothing_is_said_of_a_doubtful_object_but_its_neighbour_keeps_its_cells() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 0.75, 0.75]]])
    found = owners(boxes, torch.tensor([[OBJECT, DOUBTFUL]]), 8)[0]
    assert (found == UNSURE).sum() == 16 - 1  # one cell of its box is the object's
    assert (found[1:3, 1:3] == 0).all()


def test_overlaps_are_genevals() -> None:
    boxes = torch.rand(40, 4, generator=torch.Generator().manual_seed(0))
    boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    for a, b in zip(boxes[:20], boxes[20:], strict=True):
        expected = iou(tuple(a.tolist()), tuple(b.tolist()))
        assert overlaps(a, b).item() == pytest.approx(expected, abs=1e-5)


def test_one_object_is_reported_once_with_its_surest_cell() -> None:
    grid, there = 4, torch.full((1, 4, 4), -10.0)
    there[0, 1, 1], there[0, 1, 2], there[0, 3, 3] = 1.0, 3.0, 2.0
    edges = torch.ones(1, 4, grid, grid)
    edges[0, :, 1, 1] = torch.tensor([1.0, 1.0, 2.0, 1.0])  # both speak of the same box
    edges[0, :, 1, 2] = torch.tensor([2.0, 1.0, 1.0, 1.0])
    kinds = torch.zeros(1, len(KINDS), grid, grid)
    kinds[0, 5] = 30.0
    found = find_objects(Cells(there, kinds, torch.zeros(1, len(HUES), grid, grid), edges), KINDS, HUES)[0]
    assert [f.kind for f in found] == [KINDS[5]] * 2
    assert [round(f.score, 3) for f in found] == [round(torch.tensor(v).sigmoid().item(), 3) for v in (3.0, 2.0)]
    assert found[0].box == pytest.approx((0.125, 0.125, 0.875, 0.625))


def test_a_reader_comes_back_from_disk_and_reads_the_same(tmp_path: Path) -> None:
    parts = small()
    parts.save(tmp_path)
    again = load(str(tmp_path), Options())
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    network, other = parts.make(KINDS, HUES), again.make(KINDS, HUES)
    with torch.no_grad():
        for name in ("there", "kinds", "colours", "edges"):
            assert torch.equal(getattr(network(images), name), getattr(other(images), name))
    assert (other.kinds, other.colours, other.size) == (KINDS, HUES, 64)


def test_boxes_are_in_px_of_the_picture_that_was_given() -> None:
    reader = SceneReader(small().make(KINDS, HUES))
    with torch.no_grad():
        reader._network.head[-1].bias[0].fill_(5.0)  # objects everywhere
    small_image = reading(0, "train", 1).image.open().resize((64, 64))
    for side in (64, 256):
        read = reader.read([small_image.resize((side, side), Image.Resampling.NEAREST)])[0]
        assert read
        assert all(0 <= v <= side for f in read for v in f.box)
        assert max(v for f in read for v in f.box) > side / 2
    with pytest.raises(UserError, match="32 x 64 px; a scene is square"):
        reader.read([Image.new("RGB", (32, 64))])


@pytest.mark.parametrize(
    ("options", "message"),
    [(Options(), "needs three of each"), (Options(channels=[8, 12, 16]), "multiples of 8"), (Options(channels=[8]), "three")],
)
def test_an_odd_network_is_one_line(options: Options, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load("", options)


def test_what_is_no_reader_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded as a scene reader"):
        load(str(tmp_path), Options())
    with pytest.raises(UserError, match="cannot be loaded as a scene reader"):
        load_scene_reader(str(LAB / "judges" / "reader"))
    small().save(tmp_path)
    with pytest.raises(UserError, match="other classes or colours"):
        load(str(tmp_path), Options()).make(KINDS[1:], HUES)


def test_the_recipes_network_is_within_its_budget() -> None:
    with torch.device("meta"):
        network = SceneNetwork([32, 96, 128], [1, 3, 2], KINDS, HUES, 64)
    assert sum(p.numel() for p in network.parameters()) <= 1_500_000  # 3 MB in fp16
