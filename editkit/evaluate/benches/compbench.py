"""T2I-CompBench (Huang et al., 2023, arXiv:2307.06350, and its ++): prompts by what they combine, from colours to counts.

A prompt file has a prompt a line (what follows a tab is passed over) and is named after its category: `color_val.txt`. Its
scorers read `samples/PROMPT_NNNNNN.png`, where the number counts all pictures, and leave a list of `question_id` (that number)
and `answer` (a score in [0, 1] as text).

The published figures come from BLIP-VQA, UniDet and CLIP, by category. Here a chat model says on a scale of five how much of a
prompt a picture shows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from editkit.errors import UserError
from editkit.evaluate.benches import BenchOptions
from editkit.evaluate.benches.chat_bench import Answer, Item, Mean, Question, Row, mean_of_prompts, said
from editkit.evaluate.benches.chat_run import evaluate_chat
from editkit.files import write_whole

RESULT = "vqa_result.json"
LONGEST = 240  # bytes of a prompt that is the name of a file
SCALE = ("nothing", "little", "half", "most", "all")  # 0, 1/4 ... 1
WHAT = {
    "color": "that each object is there and has its own colour",
    "shape": "that each object is there and has its own shape",
    "texture": "that each object is there and has its own material or texture",
    "spatial": "that the objects are there and stand beside each other as said",
    "3d_spatial": "that the objects are there and stand in front of or behind each other as said",
    "numeracy": "that the objects are there, each in its number",
    "non_spatial": "that those who act are there and do what is said",
    "complex": "the objects, their attributes, their places and what they do",
}
ASK = """\
Compare the picture with this description: "{prompt}"
Look at {what}. How much of that does the picture show? Answer "all" only if nothing is missing or wrong, "most" for one \
small fault, "half" where half of it is right, "little" where an object is there and all else is wrong, "nothing" otherwise."""


class CompBench:
    """See `editkit.evaluate.benches.chat_bench.ChatBench`."""

    name = "t2i-compbench"
    samples = 10
    official = "BLIP-VQA, UniDet and CLIP, by category"

    def read(self, path: Path) -> list[Item]:
        try:
            lines = [line.split("\t")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read as a prompt file of T2I-CompBench ({error})") from error
        prompts = [prompt for prompt in lines if prompt]
        if not prompts:
            raise UserError(f"{path}: found no prompt; expected one a line, as in color_val.txt")
        group = re.sub(r"_(val|train)$", "", path.stem)
        if group not in WHAT:
            raise UserError(f"{path}: found the category {group}; expected a file named after one of {', '.join(WHAT)}")
        for prompt in prompts:
            if "_" in prompt or "/" in prompt or len(prompt.encode()) > LONGEST:
                raise UserError(f'{path}: found "{prompt}", which its scorers could not read from the name of a picture')
        return [Item(n, prompt, group, {}) for n, prompt in enumerate(prompts)]

    def picture(self, item: Item, sample: int, samples: int) -> str:
        return f"samples/{item.prompt}_{item.number * samples + sample:06d}.png"

    def pictures(self, place: Path, items: Sequence[Item]) -> list[list[Path]]:
        by_prompt: dict[str, list[tuple[int, Path]]] = {}
        for path in (place / "samples").glob("*_*.png"):
            prompt, _, number = path.stem.rpartition("_")
            if number.isdecimal():
                by_prompt.setdefault(prompt, []).append((int(number), path))
        return [[path for _, path in sorted(by_prompt.get(item.prompt, []))] for item in items]

    def questions(self, item: Item) -> list[Question]:
        return [Question(ASK.format(prompt=item.prompt, what=WHAT[item.group]), {"shown": SCALE})]

    def score(self, item: Item, answers: Sequence[Answer]) -> tuple[float, dict[str, Any]]:
        word = said(answers[0], "shown")
        return (SCALE.index(word) / (len(SCALE) - 1) if word in SCALE else 0.0), {}

    def figures(self, rows: Sequence[Row]) -> dict[str, Mean]:
        return {f"{rows[0]['group']}: of the prompt shown": mean_of_prompts(rows)}

    def write(self, folder: Path, items: Sequence[Item], rows: Sequence[Row]) -> list[str]:
        number = {row["filename"]: int(Path(row["filename"]).stem.rpartition("_")[2]) for row in rows}
        answers = [{"question_id": number[row["filename"]], "answer": f"{row['score']:.4f}"} for row in rows]
        write_whole(folder / RESULT, json.dumps(sorted(answers, key=lambda a: a["question_id"])))
        return [RESULT]

    def write_input(self, folder: Path, items: Sequence[Item]) -> None:
        """Its scorers need nothing besides the pictures."""


def evaluate(run: str, options: BenchOptions) -> dict[str, Any]:
    """`editkit eval RUN --bench t2i-compbench`; see `evaluate_chat`."""
    return evaluate_chat(CompBench(), run, options)
