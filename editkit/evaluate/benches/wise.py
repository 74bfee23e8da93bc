"""WISE (Niu et al., 2025, arXiv:2503.07265): prompts that do not name what they ask for, so that the model has to know it.

Prompt files are JSON lists of `Prompt`, `Explanation`, `Category`, `Subcategory`, `prompt_id`; a folder stands for all that are
in it. Its scorer reads `ID.png` and leaves a line a picture: `prompt_id`, `Subcategory`, `consistency`, `realism`,
`aesthetic_quality`, 0 to 2 each.

    WiScore = (0.7 consistency + 0.2 realism + 0.1 aesthetic quality) / 2

of a picture, and overall the sum of the six categories' means by `WEIGHTS`; categories are told by the ids, as published.
WISE has no licence: none of its prompts are here, and the questions are our own. This is the first WISE, not WISE_Verified of
2026.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from editkit.errors import UserError
from editkit.evaluate.benches import BenchOptions
from editkit.evaluate.benches.chat_bench import Answer, Item, Mean, Question, Row, grouped, mean_of_prompts, said
from editkit.evaluate.benches.chat_run import evaluate_chat
from editkit.files import write_whole

RESULT = "scores_results.jsonl"
LAST_IDS = {"cultural": 400, "time": 567, "space": 700, "biology": 800, "physics": 900, "chemistry": 1000}
WEIGHTS = {"cultural": 0.4, "time": 0.167, "space": 0.133, "biology": 0.1, "physics": 0.1, "chemistry": 0.1}
ASPECTS = {"consistency": 0.7, "realism": 0.2, "aesthetic_quality": 0.1}
MOST = 2  # marks of an aspect
MARKS = tuple(str(mark) for mark in range(MOST + 1))
ASK = """\
A picture was made for a riddle of a prompt, and you know its solution. Judge the picture strictly.
Prompt: "{prompt}"
Solution: {explanation}
consistency: 2 if it shows all that the prompt means by its solution, 1 if a part of it, 0 if it misses or contradicts it.
realism: 2 if it could be a photograph, 1 if something about light, material or space is off, 0 if it could not exist.
aesthetic_quality: 2 for a composition that a professional would publish, 1 for an ordinary one, 0 for a poor one.
In doubt give the lower mark."""


class Wise:
    """See `editkit.evaluate.benches.chat_bench.ChatBench`."""

    name = "wise"
    samples = 1
    official = "GPT-4o of 2024-05-13"

    def read(self, path: Path) -> list[Item]:
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not files:
            raise UserError(f"{path}: found no *.json; expected WISE's prompt files, such as cultural_common_sense.json")
        items: list[Item] = []
        for file in files:
            for entry in _entries(file):
                items.append(Item(len(items), entry["Prompt"], category_of(entry["prompt_id"]), entry))
        ids = [item.line["prompt_id"] for item in items]
        twice = next((i for i in ids if ids.count(i) > 1), None)
        if twice is not None:
            raise UserError(f"{path}: found prompt_id {twice} twice; expected one picture a prompt")
        return items

    def picture(self, item: Item, sample: int, samples: int) -> str:
        return f"{item.line['prompt_id']}.png"

    def pictures(self, place: Path, items: Sequence[Item]) -> list[list[Path]]:
        found = [place / self.picture(item, 0, 1) for item in items]
        return [[one] if one.is_file() else [] for one in found]

    def questions(self, item: Item) -> list[Question]:
        text = ASK.format(prompt=item.prompt, explanation=item.line["Explanation"])
        return [Question(text, dict.fromkeys(ASPECTS, MARKS))]

    def score(self, item: Item, answers: Sequence[Answer]) -> tuple[float, dict[str, Any]]:
        words = {name: said(answers[0], name) for name in ASPECTS}
        marks = {name: int(word) if word in MARKS else 0 for name, word in words.items()}
        parts = {name: mark / MOST for name, mark in marks.items()}
        return wiscore(marks["consistency"], marks["realism"], marks["aesthetic_quality"]), {
            **parts, "marks": marks, "prompt_id": item.line["prompt_id"], "Subcategory": item.line["Subcategory"],
        }  # fmt: skip

    def figures(self, rows: Sequence[Row]) -> dict[str, Mean]:
        by_group = {name: mean_of_prompts(those) for name, those in grouped(rows).items()}
        found = {"mean of the prompts": mean_of_prompts(rows)}
        if set(by_group) == set(WEIGHTS):
            value = sum(WEIGHTS[name] * mean.value for name, mean in by_group.items())
            error = math.sqrt(sum((WEIGHTS[name] * mean.stderr) ** 2 for name, mean in by_group.items()))
            found = {"WiScore": Mean(value, error, len(rows))}
        ordered = {name: by_group[name] for name in WEIGHTS if name in by_group}
        return found | ordered | {name.replace("_", " "): mean_of_prompts(rows, name) for name in ASPECTS}

    def write(self, folder: Path, items: Sequence[Item], rows: Sequence[Row]) -> list[str]:
        lines = [
            {"prompt_id": row["parts"]["prompt_id"], "Subcategory": row["parts"]["Subcategory"], **row["parts"]["marks"]}
            for row in rows
        ]
        write_whole(folder / RESULT, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        return [RESULT]

    def write_input(self, folder: Path, items: Sequence[Item]) -> None:
        """Its scorer needs nothing besides the pictures."""


def wiscore(consistency: float, realism: float, aesthetic_quality: float) -> float:
    """The score of one picture, in [0, 1], of marks from 0 to 2."""
    marks = {"consistency": consistency, "realism": realism, "aesthetic_quality": aesthetic_quality}
    return sum(ASPECTS[name] * mark for name, mark in marks.items()) / MOST


def category_of(prompt_id: int) -> str:
    """The category of a prompt by its id, 1 to 1000."""
    return next(name for name, last in LAST_IDS.items() if prompt_id <= last)


def evaluate(run: str, options: BenchOptions) -> dict[str, Any]:
    """`editkit eval RUN --bench wise`; see `evaluate_chat`."""
    return evaluate_chat(Wise(), run, options)


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a prompt file of WISE ({error})") from error
    if not isinstance(found, list) or not found:
        raise UserError(f"{path}: found no list of prompts; expected Prompt, Explanation, Subcategory, prompt_id of each")
    for n, entry in enumerate(found, 1):
        texts = ("Prompt", "Explanation", "Subcategory")
        if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) and entry[name] for name in texts):
            raise UserError(f"{path}: entry {n}: expected the texts {', '.join(texts)}")
        number, most = entry.get("prompt_id"), max(LAST_IDS.values())
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= most:
            raise UserError(f"{path}: entry {n}: found prompt_id = {number!r}; expected 1 to {most}")
    return found
