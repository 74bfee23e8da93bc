"""Trajectories that a model samples for the prompts of plan traces: what `critiques = { sampled = "FOLDER" }` reads.

"Think in Strokes, Not Pixels" (arXiv:2604.04746): a model that was trained on the multi-turn traces makes the plans that are
judged, so that critiques speak of its own mistakes. What is in the folder stays, so that a stopped sampling goes on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from editkit.data.pictures import Picture, png_bytes
from editkit.data.trace_files import LINES, read_traces, write_traces
from editkit.data.traces import PlanStep, PlanTrace, TraceError, parse_inspection, parse_plan
from editkit.evaluate.benches.drawing import seed_of
from editkit.models.generator import Drawn, Said
from editkit.models.rollouts import Beginning, Rollout, Rollouts
from editkit.progress import progress

_TAGS = re.compile(r"</?(?:ins|des|refine|image)>|[\x00-\x1f]")


def sample_traces(
    rollouts: Rollouts,
    prompts: Sequence[PlanTrace],
    folder: Path,
    facts: Mapping[str, Any],
    *,
    each: int = 4,
    seed: int = 0,
    chunk: int = 64,
    enough: Callable[[Path], bool] | None = None,
) -> int:
    """Samples until every prompt has its trajectories, or until there are enough.

    Args:
        rollouts: of the model; texts are drawn at its temperature.
        prompts: the traces whose prompts and scenes are taken.
        folder: of the traces.
        facts: how they came about, such as the checkpoint, for their provenance.
        each: trajectories of a prompt.
        seed: of all of them.
        chunk: prompts between two saves.
        enough: asked after each save.

    Returns:
        How many there are.
    """
    made = list(read_traces(folder)) if (folder / LINES).is_file() else []
    done = {trace.key.rpartition("-")[0] for trace in made}  # a chunk is saved whole
    left = [(n, trace) for n, trace in enumerate(prompts) if trace.key not in done]
    with progress(len(left), "sampling") as bar:
        for first in range(0, len(left), chunk):
            if made and enough is not None and enough(folder):
                break
            some = left[first : first + chunk]
            wanted = [(trace, k, seed_of(seed, n, k)) for n, trace in some for k in range(each)]
            rolls = rollouts.roll([Beginning(trace.prompt, number) for trace, _, number in wanted])
            for (trace, k, number), roll in zip(wanted, rolls, strict=True):
                sampled = sampled_trace(roll, trace, f"{trace.key}-{k}", {**facts, "seed": number, "stopped": roll.why})
                made += [sampled] if sampled is not None else []
            write_traces(folder, made)
            bar.advance(len(some))
    return len(made)


def sampled_trace(roll: Rollout, asked: PlanTrace, key: str, facts: Mapping[str, Any]) -> PlanTrace | None:
    """A trajectory as a trace of its drawn steps, without what was said of them; None where nothing was drawn.

    Args:
        roll: the trajectory.
        asked: the trace whose prompt it draws.
        key: of the new trace.
        facts: its provenance.
    """
    steps: list[PlanStep] = []
    plan: tuple[str, str] | None = None
    for part in roll.parts:
        if isinstance(part, Said):
            plan = _plan(part.text) or plan
        elif isinstance(part, Drawn) and plan is not None:
            steps.append(PlanStep(*plan, Picture(data=png_bytes(part.picture))))
            plan = None
        else:
            break  # a picture that nobody planned
    if not steps:
        return None
    about = {"scene": asked.scene, "licence": asked.licence, "category": "sampled", "provenance": json.dumps(dict(facts))}
    return PlanTrace(key, asked.prompt, tuple(steps), steps[-1].sketch, **about)


def _plan(text: str) -> tuple[str, str] | None:
    """(ins, des); a text that is neither plan nor inspection stands for both, without what a trace cannot hold."""
    try:
        return parse_plan(text)
    except TraceError:
        pass
    try:
        parse_inspection(text)
    except TraceError:
        bare = " ".join(_TAGS.sub(" ", text).split())
        return (bare, bare) if bare else None
    return None
