"""`editkit eval RUN --bench geneval`: from a run, or a folder that somebody else drew, to GenEval's figures.

    evaluation/geneval/NAME/     the official layout, NNNNN/metadata.jsonl and NNNNN/samples/NNNN.png; drawn.json, what drew it
    .../results.jsonl            the official results
    .../summary.json             the figures, who looked, and what they were compared with

NAME is that of the prompt file, or "scenes-350" for as many of the lab's own prompts. What somebody else drew stays as it is:
its results go to `runs/eval-.../evaluation/geneval/`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from editkit.errors import UserError
from editkit.evaluate.benches import BenchOptions, with_nan, without_nan
from editkit.evaluate.benches.against import (
    SUMMARY,
    Earlier,
    check_judge,
    difference,
    difference_line,
    find_results,
)
from editkit.evaluate.benches.drawing import Wanted, count_empty, draw_missing, load_drawer, read_drawn, seed_of, sha256_of
from editkit.evaluate.benches.geneval import (
    SAMPLES,
    Detector,
    check_classes,
    classes_of,
    read_prompts,
    read_samples,
    score_folder,
    write_prompt_folders,
    write_results,
)
from editkit.evaluate.benches.geneval_summary import Rows, print_summary, summarise
from editkit.evaluate.benches.judge_file import REAL, load_detector
from editkit.evaluate.benches.scene_bench import (
    FOLDER,
    MULTI,
    NO_DETECTORS,
    RESULTS,
    bench_prompts,
    by_composition,
    official_rows,
)
from editkit.evaluate.benches.scene_reader import READER
from editkit.evaluate.target import Target, eval_folder, find_target
from editkit.files import write_whole
from editkit.lab.scene_art import GLYPHS

LAB_PROMPTS = 350  # fifty of each category, where there are as many


def evaluate(run: str, options: BenchOptions) -> dict[str, Any]:
    """Draws what is missing, looks at it, and sums up.

    Args:
        run: a run or another model that draws; or a folder in the official layout.
        options: of the bench.

    Returns:
        {"bench", "run", "folder", "results", "judge", "samples", "empty", "summary", "beyond", "against"}, with shares in
        [0, 1], and None for what one prompt alone cannot say.

    Raises:
        UserError: prompts, pictures, a model or a detector that cannot be used, said before anything is drawn where possible.
    """
    if _is_bench(Path(run)):
        return _score_folder(Path(run), options)
    target = find_target(run)
    prompts, name = _prompts(options)
    bench = target.place / "evaluation" / FOLDER / name
    against = find_results(options.against, f"{FOLDER}/{name}") if options.against else None
    detector = load_detector(options.judge or _judge(target, prompts))
    check_classes(prompts, detector, name)
    check_judge(against, detector.name)
    drawer = load_drawer(run)
    seed, samples = target.recipe.evaluate.seed if target.recipe else 0, options.samples or SAMPLES
    facts = {"run": run, "bench": "geneval", "prompts_sha256": sha256_of(prompts), "seed": seed}
    folders = [bench / f"{i:05d}" / "samples" for i in range(len(prompts))]
    wanted = [
        Wanted(asked["prompt"], folder / f"{n:04d}.png", seed_of(seed, i, n))
        for i, (asked, folder) in enumerate(zip(prompts, folders, strict=True))
        for n in range(samples)
    ]
    draw_missing(drawer, wanted, bench, facts, lambda: write_prompt_folders(bench, prompts))
    return _summarise(run, bench, bench, detector, samples, against)


def _score_folder(folder: Path, options: BenchOptions) -> dict[str, Any]:
    if options.prompts or options.pairs:
        given = "--prompts" if options.prompts else "--pairs"
        raise UserError(f"{given}: found it with {folder}, which has its prompts in it; leave it out")
    samples, drawn = options.samples, read_drawn(folder)
    if drawn is not None and not samples and (there := len(list(folder.glob("*/samples/*.png")))) < drawn["pictures"]:
        raise UserError(
            f"{folder}: found {there} of {drawn['pictures']} pictures; the drawing was stopped, so let the command that began "
            f"it go on: editkit eval {drawn['run']} --bench geneval"
        )
    found = read_samples(folder, samples)
    place = folder
    if drawn is None:
        place = eval_folder("-".join(folder.resolve().parts[-2:])) / "evaluation" / FOLDER
    against = find_results(options.against, f"{FOLDER}/{folder.name}") if options.against else None
    detector = load_detector(options.judge or _detector_of([p.asked for p in found]))
    check_classes([p.asked for p in found], detector, str(folder))
    check_judge(against, detector.name)
    return _summarise(str(folder), folder, place, detector, len(found[0].samples), against)


def _summarise(run: str, bench: Path, place: Path, detector: Detector, samples: int, against: Earlier | None) -> dict[str, Any]:
    rows = score_folder(bench, detector, samples=samples)
    compared = difference(rows, against) if against is not None else None
    place.mkdir(parents=True, exist_ok=True)
    write_results(place / RESULTS, rows)
    official = official_rows(rows)
    result = {
        "bench": "geneval",
        "run": run,
        "folder": str(bench),
        "results": str(place / RESULTS),
        "judge": detector.name,
        "samples": samples,
        "empty": count_empty([bench / row["filename"] for row in rows]),
        "summary": summarise(official or rows),
        "beyond": _beyond(rows) if official else {},
        "against": compared,
    }
    result = without_nan(result)
    write_whole(place / SUMMARY, json.dumps(result, indent=1))
    return result


def _beyond(rows: Rows) -> dict[str, Any]:
    """What the lab's prompts tell further: a category that is not GenEval's, and compositions that training never shows."""
    multi, official = [row for row in rows if row["tag"] == MULTI], official_rows(rows)
    parts: dict[str, Rows] = {MULTI: multi} if multi else {}
    if classes_of(json.loads(row["metadata"]) for row in official) <= set(GLYPHS):
        compositions = by_composition(official)
        parts |= {f"{name} compositions": some for name, some in compositions.items() if len(compositions) > 1}
    return {name: {key: summarise(some)[key] for key in ("overall", "stderr")} for name, some in parts.items()}


def print_geneval(result: Mapping[str, Any]) -> None:
    """The official summary with its standard errors, what the lab's prompts tell further, and the paired difference."""
    console = Console()
    print_summary(with_nan(result["summary"]), result["judge"], console)
    if result["beyond"]:
        table = Table("beyond GenEval", Column("correct", justify="right"))
        for name, found in result["beyond"].items():
            table.add_row(name, _share(found["overall"], found["stderr"]))
        console.print(table)
    if result["empty"]:
        console.print(f"{result['empty']} pictures are empty: the model stopped before it drew one; they count as wrong")
    if result["against"]:
        console.print(difference_line(result["run"], result["against"]), soft_wrap=True)
    console.print(f"{result['samples']} pictures a prompt: {result['results']}", soft_wrap=True)


def _prompts(options: BenchOptions) -> tuple[list[dict[str, Any]], str]:
    """The lines of the prompt file, and the name of their bench."""
    if not options.prompts:
        number = options.pairs or LAB_PROMPTS
        return bench_prompts(number), f"scenes-{number}"
    if options.pairs:
        raise UserError("--pairs: found it with --prompts, whose prompts are drawn all; leave one of them out")
    path = Path(options.prompts)
    return read_prompts(path), path.stem


def _judge(target: Target, prompts: Rows) -> str:
    """What the recipe names, where that is a detector."""
    named = target.recipe.evaluate.judge if target.recipe else ""
    return _detector_of(prompts) if named in NO_DETECTORS else named


def _detector_of(prompts: Rows) -> str:
    return READER if classes_of(prompts) <= set(GLYPHS) else REAL


def _is_bench(path: Path) -> bool:
    if not path.is_dir() or (path / "run.json").is_file():
        return False
    return any(p.name.isdecimal() and p.is_dir() for p in path.iterdir())


def _share(share: float, error: float | None) -> str:
    return f"{100 * share:.2f} %" + ("" if error is None else f" ± {100 * error:.2f}")
