"""`editkit eval RUN --bench NAME` where a chat model judges: from a run, or pictures that somebody else drew, to figures.

evaluation/BENCH/NAME/       the pictures, where the bench's own scorer looks for them; drawn.json, what drew them
.../results.jsonl            a line a picture: its score, what that is made of, the answers
.../summary.json             the figures, and who judged
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from editkit.errors import UserError
from editkit.evaluate.benches import BenchOptions, without_nan
from editkit.evaluate.benches.against import SUMMARY, Earlier, check_judge, difference, difference_line, find_results
from editkit.evaluate.benches.chat_bench import ChatBench, Item, ask
from editkit.evaluate.benches.drawing import Wanted, draw_missing, load_drawer, read_drawn, seed_of, sha256_of
from editkit.evaluate.benches.geneval import write_results
from editkit.evaluate.benches.judge_file import ChatJudge, load_chat_judge
from editkit.evaluate.benches.scene_bench import RESULTS
from editkit.evaluate.target import eval_folder, find_target
from editkit.files import write_whole

NOT_OFFICIAL = "not the official score: the questions are editkit's own, and the published figures were judged by"


def evaluate_chat(bench: ChatBench, run: str, options: BenchOptions) -> dict[str, Any]:
    """Draws what is missing, asks about it, and sums up.

    Args:
        bench: which one.
        run: a run or another model that draws; or a folder, or a list, of pictures in the bench's own form.
        options: of the bench; `prompts` and `judge` are needed.

    Returns:
        {"bench", "run", "folder", "results", "files", "judge", "served_by", "official", "note", "samples", "unanswered",
        "figures", "against"}; figures are {"value", "stderr", "prompts"}, the main one first.

    Raises:
        UserError: prompts, pictures, a model or a judge that cannot be used.
    """
    if options.pairs:
        raise UserError(f"--pairs: found it with --bench {bench.name}, whose prompts are drawn all; leave it out")
    if not options.prompts:
        raise UserError(
            f"--bench {bench.name}: found no prompts, which editkit may not bring along; name their file: --prompts"
        )
    if bench.samples == 1 and options.samples > 1:
        raise UserError(f"--samples: found {options.samples}; {bench.name} has one picture a prompt")
    judge = load_chat_judge(options.judge, bench.name)
    path = Path(options.prompts)
    items = bench.read(path)
    where = f"{bench.name}/{path.stem}"
    against = find_results(options.against, where) if options.against else None
    check_judge(against, judge.model)
    if _has_pictures(bench, Path(run), items):
        place = Path(run) if Path(run).is_dir() else Path(run).parent
        theirs = read_drawn(place) is None
        out = eval_folder("-".join(place.resolve().parts[-2:])) / "evaluation" / where if theirs else place
    else:
        place = out = _draw(bench, run, items, options.samples or bench.samples, where)
    pictures = _pictures(bench, Path(run) if Path(run).is_file() else place, items, options.samples)
    return _judged(bench, run, items, pictures, place, out, judge, against)


def _draw(bench: ChatBench, run: str, items: Sequence[Item], samples: int, where: str) -> Path:
    target = find_target(run)
    folder = target.place / "evaluation" / where
    drawer = load_drawer(run)
    seed = target.recipe.evaluate.seed if target.recipe else 0
    wanted = [
        Wanted(item.prompt, folder / bench.picture(item, n, samples), seed_of(seed, item.number, n))
        for item in items
        for n in range(samples)
    ]
    # The names of pictures may count all of them, so another number of them is another bench.
    facts = {"run": run, "bench": bench.name, "prompts_sha256": sha256_of([i.prompt for i in items]), "seed": seed}
    draw_missing(drawer, wanted, folder, facts | {"samples": samples}, lambda: bench.write_input(folder, items))
    return folder


def _has_pictures(bench: ChatBench, path: Path, items: Sequence[Item]) -> bool:
    """Whether pictures of this bench lie there; a run has a folder of its own for them."""
    if not path.exists() or (path / "run.json").is_file():
        return False
    return path.is_file() or any(bench.pictures(path, items))


def _pictures(bench: ChatBench, place: Path, items: Sequence[Item], samples: int) -> list[list[Path]]:
    found = bench.pictures(place, items)
    wanted = samples or max(map(len, found))
    for item, paths in zip(items, found, strict=True):
        there = [path for path in paths if path.is_file()]
        if len(there) < max(wanted, 1):
            lacking = sum(len(paths) < wanted for paths in found)
            raise UserError(
                f'{place}: found {len(there)} of {max(wanted, 1)} pictures for "{item.prompt}" ({lacking} prompts lack some); '
                "draw the rest first"
            )
    return [paths[:wanted] for paths in found]


def _judged(
    bench: ChatBench, run: str, items: Sequence[Item], pictures: Sequence[Sequence[Path]], place: Path, out: Path,
    judge: ChatJudge, against: Earlier | None,
) -> dict[str, Any]:  # fmt: skip
    rows, served = ask(bench, judge, items, pictures, place)
    compared = difference(rows, against) if against is not None else None
    figures = {
        name: {"value": mean.value, "stderr": mean.stderr, "prompts": mean.prompts}
        for name, mean in bench.figures(rows).items()
    }
    out.mkdir(parents=True, exist_ok=True)
    write_results(out / RESULTS, rows)
    result = {
        "bench": bench.name,
        "run": run,
        "folder": str(place),
        "results": str(out / RESULTS),
        "files": [str(out / name) for name in bench.write(out, items, rows)],
        "judge": judge.model,
        "served_by": sorted(served),
        "official": False,
        "note": f"{NOT_OFFICIAL} {bench.official}",
        "samples": len(pictures[0]),
        "unanswered": sum(answer is None for row in rows for answer in row["answers"]),
        "figures": figures,
        "against": compared,
    }
    result = without_nan(result)
    write_whole(out / SUMMARY, json.dumps(result, indent=1))
    return result


def print_chat(result: Mapping[str, Any]) -> None:
    """The figures in percent with their standard errors, under the name of the model that was asked."""
    console = Console()
    columns = (Column(name, justify="right") for name in ("score", "prompts"))
    table = Table(result["bench"], *columns, title=f"judged by {', '.join(result['served_by']) or result['judge']}")
    for name, found in result["figures"].items():
        error = "" if found["stderr"] is None else f" ± {100 * found['stderr']:.2f}"
        table.add_row(name, f"{100 * found['value']:.2f} %{error}", str(found["prompts"]))
    console.print(table)
    console.print(result["note"], soft_wrap=True)
    if result["unanswered"]:
        console.print(f"{result['unanswered']} questions brought no usable answer; they count as wrong")
    if result["against"]:
        console.print(difference_line(result["run"], result["against"]), soft_wrap=True)
    console.print(f"{result['samples']} pictures a prompt: {result['results']}", soft_wrap=True)
