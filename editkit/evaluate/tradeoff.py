"""Following against keeping, over image guidance: the curve by which InstructPix2Pix compares itself with others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from editkit.data.examples import Dataset, EditPair
from editkit.evaluate.edits import Editor, run_editor
from editkit.evaluate.scores import figures_of
from editkit.evaluate.scoring import load_scoring
from editkit.progress import progress
from editkit.recipe.schema import Evaluate

IMAGE_GUIDANCE = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2)  # the paper's values, at one text guidance
FILE = "tradeoff.json"


def measure_tradeoff(editor: Editor, dataset: Dataset[EditPair], run: Path, options: Evaluate) -> dict[str, Any]:
    """Edits the same test pairs with every image guidance, same noise each time; writes `evaluation/tradeoff.json`.

    Returns:
        {"points": one row of figures a value, "settings"}: CLIP direction and CLIP image similarity are the curve's two axes.
    """
    pairs = [dataset[i] for i in range(min(options.pairs, len(dataset)))]
    scoring = load_scoring(options.judge)
    points = []
    with progress(len(IMAGE_GUIDANCE), "editing with every image guidance") as bar:
        for value in IMAGE_GUIDANCE:
            edits = run_editor(editor, pairs, options, image_guidance=value)
            scores = scoring.summarise(pairs, scoring.score(pairs, edits))
            points.append({"image_guidance": value, **{name: scores[name] for name in figures_of(scores)}})
            bar.advance()
    settings = {"steps": options.steps, "text_guidance": options.text_guidance, "seed": options.seed, "judge": options.judge}
    result = {"points": points, "settings": settings}
    folder = run / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result
