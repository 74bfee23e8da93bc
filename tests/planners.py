"""Runs of the method plan_refine at a tiny size, of which one writes what can be read."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from editkit.data.draws import Draws
from editkit.data.prepare import PrepareParams, prepare
from editkit.data.traces import PlanTrace
from editkit.methods.plan_refine import PlanRefine
from editkit.methods.protocol import collate
from editkit.models import METADATA
from editkit.models.bagel.load import BagelParts
from editkit.recipe.load import dump
from editkit.recipe.schema import Evaluate, Method
from tests.methods.test_plan_refine import MENDED
from tests.methods.test_unified import recipe
from tests.tiny import tiny_bagel_parts

SAMPLING = {"steps": 2, "text_guidance": 2.0, "image_guidance": 1.5}
TIMES = {"timesteps": {"name": "logit_normal", "shift": 2.0}}
# Everything of it is learned, the faulty draft too, which a model of its own would never draw.
LEARNED = PlanTrace(
    MENDED.key, MENDED.prompt, tuple(type(s)(s.ins, s.des, s.sketch, s.inspection) for s in MENDED.steps), MENDED.final
)


def run_of(folder: Path, method: str, parts: BagelParts, **options: object) -> Path:
    """A run as training leaves it."""
    evaluate = Evaluate(judge="", seed=5, batch_size=1, **SAMPLING)
    parts.save(folder / "model")
    (folder / "recipe.toml").write_text(dump(recipe(method=Method(name=method, **TIMES, **options), evaluate=evaluate)))
    (folder / "run.json").write_text(json.dumps({"method": method, "started": "2026", "state": "done"}))
    facts = {"name": "small", "method": method, "prepare": {"resolution": 32, "crop": "center"}, "sampling": SAMPLING}
    (folder / "model" / METADATA).write_text(json.dumps(facts))
    return folder


def run_by_heart(folder: Path) -> Path:
    """A run whose network knows `LEARNED`, briefly trained."""
    parts = tiny_bagel_parts()
    method = PlanRefine(recipe(method=Method(name="plan_refine")), PlanRefine.Options(drop_text=0.0), parts)
    pixels = prepare([p.open() for p in method.pictures_of(LEARNED)], PrepareParams(32))[None]
    batch = {**method.encode(pixels), "text": [LEARNED.prompt], **collate([method.targets_of(LEARNED)])}
    optimiser = torch.optim.AdamW(parts.network.parameters(), lr=3e-3)
    for step in range(110):
        optimiser.zero_grad()
        method.loss(batch, Draws(0, [step])).value.backward()
        optimiser.step()
    return run_of(folder, "plan_refine", parts)
