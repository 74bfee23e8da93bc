"""Does looking help? `python -m tests.bench.modular`: the same plans of avatars, drawn with and without inspection.

Starting portraits and goals are of the test split: pictures that no training saw. What was drawn is read twice: by the
attribute reader, which is the inspector of the loop and so no independent judge of it, and by the nearest render, which knows
no network: of all words of a wished attribute the one whose render differs least from the picture.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from random import Random

import numpy as np
from PIL import Image

from editkit.lab.avatar_edits import sample_edit
from editkit.lab.avatar_goals import read_goal
from editkit.lab.avatar_words import caption
from editkit.lab.avatars import STYLES, Avatar, is_drawable, render, sample_avatar
from editkit.lab.judges import LabJudge
from editkit.models.generator import Drawn, Ended
from editkit.modular.open import modular_planner
from editkit.modular.options import BackEnds, Budget, EditorTable

SIZE = 64
KINDS = ("colour", "add", "remove", "replace", "background", "expression")


def goal_of(index: int) -> tuple[Avatar, Avatar, str]:
    """A portrait, what it shall become after three or four changes, and the prompt that says only these."""
    rng = Random(f"modular/{index}")
    while True:
        start = target = sample_avatar(rng)
        wanted, changed = rng.choice((3, 4)), set()
        for kind in rng.sample(KINDS, len(KINDS)):
            edit = sample_edit(rng, target, kind)
            if edit is not None and len(edit.changes) == 1 and edit.attribute not in changed and len(changed) < wanted:
                target = target.with_values(edit.changes)
                changed.add(edit.attribute)
        shown = [name for name in changed if target.facts.get(name) not in (None, start.facts.get(name))]
        if start.split == target.split == "test" and is_drawable(target) and len(shown) == wanted:
            prompt = caption(target, only=shown)
            if read_goal(prompt).facts.keys() == set(shown):
                return start, target, prompt


def nearest(picture: Image.Image, target: Avatar, name: str) -> str:
    """The word of an attribute whose render is nearest, all else as in the target."""
    seen = np.asarray(picture.resize((SIZE, SIZE)), np.float32)
    words = [w for w in STYLES[target.style].attribute(name).values if target.with_values({name: w}).facts.get(name) == w]
    return min(words, key=lambda w: np.abs(np.asarray(render(target.with_values({name: w}), SIZE), np.float32) - seen).mean())


def scored(picture: Image.Image, target: Avatar, wished: Mapping[str, str], judge: LabJudge) -> dict[str, float]:
    reading = judge.read([picture])[0]
    rest = [name for name in target.facts if name not in wished]
    off = np.abs(np.asarray(picture, np.float32) - np.asarray(render(target, SIZE), np.float32)).mean() / 255
    return {
        "wished": sum(reading[n] == w for n, w in wished.items()),
        "wished by nearest render": sum(nearest(picture, target, n) == w for n, w in wished.items()),
        "of": len(wished),
        "rest": sum(reading[n] == target.facts[n] for n in rest),
        "of rest": len(rest),
        "all": all(reading[n] == w for n, w in target.facts.items()),
        "L1 to the goal": off,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--goals", type=int, default=24)
    parser.add_argument("--refines", type=int, default=2)
    parser.add_argument("--editor", default="lab:tiny-edit")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    judge = LabJudge("lab:judges")
    said = BackEnds(name="bench", editor=EditorTable(model=asked.editor), budget=Budget(refines=asked.refines))
    models = modular_planner(said, "the bench", start=Image.new("RGB", (SIZE, SIZE)))
    inspector, sampling = models.inspector, {k: models.defaults[k] for k in ("steps", "text_guidance", "image_guidance")}
    totals: dict[str, dict[str, float]] = {"not inspected": {}, "inspected and refined": {}}
    for index in range(asked.goals):
        start, target, prompt = goal_of(index)
        models.start = render(start, SIZE)
        for arm, total in totals.items():
            models.inspector = inspector if arm == "inspected and refined" else None
            drawn, kept, why = [], 0, ""
            for event in models.steps(prompt, **sampling, seed=asked.seed):
                if isinstance(event, Drawn):
                    drawn.append(event.picture)
                    kept += event.kept
                elif isinstance(event, Ended):
                    why = event.why
            wished = {n: target.facts[n] for n in read_goal(prompt).facts}
            found = {**scored(drawn[-1], target, wished, judge), "edits": len(drawn) - kept, "goals": 1}
            for name, value in found.items():
                total[name] = total.get(name, 0) + float(value)
            print(
                json.dumps({"goal": index, "arm": arm, "why": why, **{k: round(float(v), 4) for k, v in found.items()}}),
                flush=True,
            )
    for arm, t in totals.items():
        print(
            f"{arm}: wished {t['wished'] / t['of']:.1%} (nearest render {t['wished by nearest render'] / t['of']:.1%}) of "
            f"{t['of']:.0f}; rest {t['rest'] / t['of rest']:.1%}; all right {t['all']:.0f} of {t['goals']:.0f}; "
            f"L1 {t['L1 to the goal'] / t['goals']:.4f}; {t['edits'] / t['goals']:.2f} edits a goal"
        )


if __name__ == "__main__":
    main()
