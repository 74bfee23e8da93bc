"""How a lab checkpoint gets into the package: `python -m editkit.publish.ship RUN NAME`. For those who work on editkit."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from editkit.errors import UserError
from editkit.evaluate.scores import BASELINES, figure, figures_of
from editkit.files import write_whole
from editkit.models import METADATA
from editkit.models.locate import LAB, read_metadata
from editkit.runs import find_run

STAGES = "stages.json"  # beside the weights: the trainings behind them, in order
STATED = ("name", "base", "recipe_sha256", "seed", "samples", "seconds", "finished")

CONFUSIONS = 20  # kinds of mistakes that a card lists, the most frequent ones


def ship(run: str, name: str) -> Path:
    """Copies a finished run's weights into the package as fp16, with a card of what made them and how well they do.

    Args:
        run: a finished run.
        name: the folder under `editkit/lab/checkpoints`, such as "tiny-sd" or "judges/reader".

    Returns:
        The folder.
    """
    folder = find_run(run)
    facts = _read(folder / "run.json")
    if facts["state"] != "done":
        raise UserError(f'{folder}: its state is "{facts["state"]}"; only a finished run is shipped')
    target = LAB / name
    *before, this = _stages(str(folder))
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder / "model", target, ignore=shutil.ignore_patterns("README.md"))
    for path in target.rglob("*.safetensors"):
        save_file({k: v.half() if v.is_floating_point() else v for k, v in load_file(path).items()}, path, {"format": "pt"})
    previews = sorted(p for p in (folder / "previews").glob("step-*.png") if not p.stem.endswith("-grid"))
    if previews:
        shutil.copy(previews[-1], target / "samples.png")
    (target / "recipe.toml").write_text(this["recipe"], encoding="utf-8")
    if before:
        write_whole(target / STAGES, json.dumps([*before, this], indent=1))
        # The run that it began from is nowhere but here.
        write_whole(target / METADATA, json.dumps({**read_metadata(target), "base": before[0]["base"]}, indent=1))
    text = "\n\n".join(_card(name, folder, facts, this["recipe"], before, bool(previews)))
    (target / "README.md").write_text(f"{text}\n", encoding="utf-8")
    return target


def _stages(base: str) -> list[dict[str, Any]]:
    """The trainings that a run, or a base, comes from, the earliest first; none where nothing says so."""
    shipped = LAB / base.removeprefix("lab:") / STAGES
    if base.startswith("lab:") and shipped.is_file():
        return json.loads(shipped.read_text(encoding="utf-8"))
    if not base or not (Path(base) / "run.json").is_file():
        return []
    facts, recipe = _read(Path(base) / "run.json"), (Path(base) / "recipe.toml").read_text(encoding="utf-8")
    return [*_stages(facts["base"]), {key: facts[key] for key in STATED} | {"recipe": recipe}]


def _card(
    name: str, folder: Path, facts: Mapping[str, Any], recipe: str, before: Sequence[Mapping[str, Any]], has_samples: bool
) -> Iterator[str]:
    yield f"# lab:{name}"
    yield (
        f"{facts['method'].replace('_', ' ')}, {facts['trained_parameters']:,} trained parameters, shipped in fp16. Trained by "
        f"`editkit train` from the recipe below (sha256 `{facts['recipe_sha256'][:16]}`), seed {facts['seed']}, "
        f"{facts['samples']:,} samples in {facts['seconds'] / 3600:.2f} hours on {facts['machine']['name']} "
        f"({facts['machine']['threads']} threads), finished {facts['finished'][:10]}."
    )
    if before:
        told = (
            f"* {s['name']} (recipe's sha256 `{s['recipe_sha256'][:16]}`): seed {s['seed']}, {s['samples']:,} samples in "
            f"{s['seconds'] / 3600:.2f} hours, finished {s['finished'][:10]}"
            for s in before
        )
        yield f"It was trained in stages, whose recipes are in `{STAGES}`. Before this one:"
        yield "\n".join(told)
    if has_samples:
        yield "![samples of the last step](samples.png)"
    yield "## Scores"
    path = folder / "evaluation" / "scores.json"
    yield "\n".join(_scores(_read(path))) if path.is_file() else "Not evaluated."
    data = facts["data"]
    yield f"## Data\n\n{data['name']}, sha256 `{data['sha256']}`, {data['counts']['train']:,} training examples."
    yield "\n".join(f"* {licence}: {entry['credit']}" for licence, entry in data["licences"].items())
    yield f"## Recipe\n\n```toml\n{recipe.strip()}\n```"


def _scores(result: Mapping[str, Any]) -> Iterator[str]:
    scores = result["scores"]
    yield "On unseen test examples.\n"
    if figures := figures_of(scores):
        yield "| | " + " | ".join(figures.values()) + " |"
        yield "|---" * (len(figures) + 1) + "|"
        for label, row in {"this model": scores, **{BASELINES[k]: v for k, v in result["baselines"].items()}}.items():
            yield f"| {label} | " + " | ".join(figure(k, row.get(k)) for k in figures) + " |"
        yield ""
    yield "| score | value |\n|---|---|"
    for key, value in scores.items():
        if key not in figures and not isinstance(value, Mapping):
            yield f"| {key.replace('_', ' ')} | {figure(key, value)} |"
    for key, value in (result.get("by_attribute") or result.get("by_category") or scores.get("by_attribute") or {}).items():
        shown = value["followed"] if isinstance(value, Mapping) else value
        yield f"| {key} | {figure('accuracy', shown)} |"
    mistakes = [(n, words, count) for n, table in result.get("confusion", {}).items() for words, count in table.items()]
    if "confusion" in result:
        yield "\nConfusion (everything else was read right):\n" if mistakes else "\nNo attribute was read wrong.\n"
        mistakes.sort(key=lambda m: -m[2])
        yield from (f"* {n}: {words}, {count} times" for n, words, count in mistakes[:CONFUSIONS])
        if rest := mistakes[CONFUSIONS:]:
            yield f"* {len(rest)} others, {sum(count for *_, count in rest)} times together"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    try:
        print(ship(*sys.argv[1:3]))
    except UserError as error:
        print(f"ship: {error}", file=sys.stderr)
        sys.exit(2)
