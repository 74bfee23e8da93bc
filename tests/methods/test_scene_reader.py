"""Training the scene reader: its loss restated cell by cell, what it is not asked, and that it learns to read."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from editkit.data.draws import Draws
from editkit.data.examples import CaptionedImage
from editkit.data.prepare import PrepareParams, prepare, to_network
from editkit.errors import UserError
from editkit.evaluate.benches.geneval_rules import iou
from editkit.lab.avatar_edits import sample_avatars
from editkit.lab.scene_edits import captioned_image
from editkit.lab.scene_readings import reading, seen_in
from editkit.methods.disturbances import KINDS, disturb
from editkit.methods.scene_reader import CELLS, NO_COLOUR, SceneReading, cell_losses
from editkit.models.scene_reader import load as family
from editkit.models.scene_reader.cells import DOUBTFUL, OBJECT, UNSURE, boxes_of, owners
from editkit.models.scene_reader.load import Cells
from editkit.recipe.schema import Data, Evaluate, Method, Model
from tests.methods.test_instruct_edit import recipe

ROOT = Path(__file__).parents[2]


def make(disturbed: float = 0.0, resolution: int = 64, **data: object) -> SceneReading:
    torch.manual_seed(0)
    parts = family.load("", family.Options(channels=[16, 32, 32], blocks=[1, 1, 1]))
    chosen = recipe(
        method=Method(name="scene_reader"),
        model=Model(family="scene_reader"),
        data=Data(train="nowhere", resolution=resolution, **data),
    )
    return SceneReading(chosen, SceneReading.Options(disturbed=disturbed), parts)


def batch_of(method: SceneReading, examples: list[CaptionedImage]) -> dict[str, torch.Tensor]:
    targets = [method.targets_of(e) for e in examples]
    pixels = torch.stack([prepare([e.image.open()], PrepareParams(64)) for e in examples])
    return method.encode(pixels) | {name: torch.stack([t[name] for t in targets]) for name in targets[0]}


def random_cells(count: int, seed: int = 1) -> Cells:
    numbers = torch.Generator().manual_seed(seed)
    there, kinds, colours, edges = (torch.randn(count, n, 16, 16, generator=numbers) for n in (1, 24, 10, 4))
    return Cells(there[:, 0], kinds, colours, edges.exp())


def test_the_loss_is_its_definition_cell_by_cell() -> None:
    method = make()
    batch = batch_of(method, [reading(5, "train", i) for i in range(10)])
    cells = random_cells(10)
    owner = owners(batch["boxes"], batch["taken"], 16)
    assert {UNSURE, -1, 0} <= set(owner.flatten().tolist())
    totals = {"there": 0.0, "kinds": 0.0, "colours": 0.0, "boxes": 0.0}
    for b in range(10):
        sums = dict.fromkeys(totals, 0.0)
        inside = coloured = 0
        for y in range(16):
            for x in range(16):
                i = int(owner[b, y, x])
                if i == UNSURE:
                    continue
                sure = cells.there[b, y, x].sigmoid().item()
                sums["there"] -= math.log(sure if i >= 0 else 1 - sure)
                if i < 0:
                    continue
                inside += 1
                sums["kinds"] -= cells.kinds[b, :, y, x].log_softmax(0)[batch["kinds"][b, i]].item()
                sums["boxes"] += 1 - iou(tuple(boxes_of(cells.edges)[b, y, x].tolist()), tuple(batch["boxes"][b, i].tolist()))
                if batch["colours"][b, i] != NO_COLOUR:
                    coloured += 1
                    sums["colours"] -= cells.colours[b, :, y, x].log_softmax(0)[batch["colours"][b, i]].item()
        totals["there"] += sums["there"] / CELLS / 10
        totals["kinds"] += sums["kinds"] / max(inside, 1) / 10
        totals["boxes"] += sums["boxes"] / max(inside, 1) / 10
        totals["colours"] += sums["colours"] / max(coloured, 1) / 10
    found = cell_losses(cells, batch)
    assert {k: float(v) for k, v in found.logs.items()} == pytest.approx(totals, rel=1e-4)
    assert found.value.item() == pytest.approx(sum(totals.values()), rel=1e-4)


def test_a_doubtful_object_teaches_nothing() -> None:
    method = make()
    batch = batch_of(method, [next(e for e in (reading(0, "train", i, 0.0) for i in range(50)) if len(seen_in(e)) == 1)])
    there = torch.zeros(1, 16, 16, requires_grad=True)
    cells = random_cells(1)
    gradients = {}
    for taken in (OBJECT, DOUBTFUL):
        batch["taken"][0, 0] = taken
        value = cell_losses(Cells(there, cells.kinds, cells.colours, cells.edges), batch).value
        gradients[taken] = torch.autograd.grad(value, there)[0]
    middle = owners(batch["boxes"], torch.full_like(batch["taken"], OBJECT), 16) == 0
    assert (gradients[OBJECT][middle] < 0).all()
    assert (gradients[DOUBTFUL][middle] == 0).all()


def test_targets_follow_what_can_be_seen() -> None:
    method = make()
    taken = []
    for example in (reading(2, "train", i, 1.0) for i in range(60)):
        targets = method.targets_of(example)
        for i, one in enumerate(seen_in(example)):
            taken.append((one.visible, int(targets["taken"][i])))
            assert targets["colours"][i] == NO_COLOUR or one.colour
    assert all((v >= 0.6) == (t == OBJECT) and (0.25 < v < 0.6) == (t == DOUBTFUL) for v, t in taken)
    assert len({t for _, t in taken}) == 3


def test_other_pictures_and_geometries_are_one_line() -> None:
    with pytest.raises(UserError, match="found no scene graph"):
        make().targets_of(sample_avatars(1, seed=0, size=32)[0])
    with pytest.raises(UserError, match="found 32; this reader sees 64 px"):
        make(resolution=32)
    with pytest.raises(UserError, match="boxes do not follow them"):
        make(flip=0.5)


def test_scenes_of_the_other_builder_are_judged_too(tmp_path: Path) -> None:
    scenes = [captioned_image(0, "test", i, size) for i in range(6) for size in (32, 64)]
    method = make()
    method._recipe = recipe(evaluate=Evaluate(pairs=12, batch_size=5))
    result = method.evaluate(scenes, tmp_path)  # ty: ignore[invalid-argument-type]
    assert result["scores"]["n"] == 12
    assert "clean: categories" in result["by_attribute"]
    assert not any(row.startswith("erased") for row in result["by_attribute"])
    assert 0 <= result["scores"]["verdicts"] <= 1


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    examples = [reading(0, "train", i, 0.0) for i in range(24)]
    return to_network(torch.cat([prepare([e.image.open()], PrepareParams(64)) for e in examples]))


@pytest.mark.parametrize("kind", KINDS)
def test_every_disturbance_changes_pictures_and_leaves_them_readable(pictures: torch.Tensor, kind: str) -> None:
    changed = disturb(pictures, Draws(0, range(24)), kinds=(kind,))
    away = (changed - pictures).abs().flatten(1).mean(1)
    assert (away > 0).float().mean() > 0.9
    assert away.max() < 0.25
    assert changed.abs().max() <= 1
    coarse = [F.avg_pool2d(x, 16) for x in (changed, pictures)]  # what is where stays
    assert (coarse[0] - coarse[1]).abs().mean() < 0.1


def test_what_a_picture_draws_is_its_own(pictures: torch.Tensor) -> None:
    together = disturb(pictures, Draws(4, range(24)), 0.7)
    alone = torch.cat([disturb(pictures[i : i + 1], Draws(4, [i]), 0.7) for i in range(24)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.equal(disturb(pictures, Draws(4, range(24)), 0.0), pictures)


def test_blocks_of_slow_cosines_stay_as_they_are() -> None:
    ramp = torch.linspace(-0.5, 0.5, 64).expand(1, 3, 64, 64) * 0 + 0.3
    assert torch.allclose(disturb(ramp, Draws(0, [0]), kinds=("blocky",)), ramp, atol=1e-2)


def test_it_learns_to_read_a_few_scenes() -> None:
    method = make()
    examples = [e for e in (reading(0, "train", i, 0.0) for i in range(40)) if 1 <= len(seen_in(e)) <= 2][:6]
    batch = batch_of(method, examples)
    optimizer = torch.optim.AdamW(method.trainable.parameters(), 4e-3)
    for step in range(70):
        loss = method.loss(batch, Draws(0, range(6 * step, 6 * step + 6))).value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for example, found in zip(examples, method._read_examples(examples), strict=True):
        sure = sorted((f.kind, f.colour) for f in found if f.score > 0.3)
        assert sure == sorted((s.kind, s.colour) for s in seen_in(example))


def test_no_training_and_no_builder_looks_through_the_judge() -> None:
    may = {"methods/scene_reader.py"}
    for room in ("methods", "build", "train", "lab", "diffusion", "data"):
        for path in (ROOT / "editkit" / room).rglob("*.py"):
            if "scene_reader" not in path.read_text():
                continue
            names = {node.module or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
            if any("models.scene_reader" in n or "benches.scene_reader" in n for n in names):
                assert path.relative_to(ROOT / "editkit").as_posix() in may, path
