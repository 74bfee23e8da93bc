"""GenEval 2 (Kamath et al., 2025, arXiv:2512.16853): questions about every object, count, attribute and relation of a prompt.

Prompts (`geneval2_data.jsonl`), one JSON object a line: `prompt`, `atom_count`, `vqa_list` ([question, right answer] each) and
`skills` (one a question). Its scorer reads a JSON file from prompt to picture, and one list of scores a prompt.

The published Soft-TIFA takes for each question the probability that its judge gives the right answer. A chat endpoint says the
answer alone, so a question counts 1 or 0 here: AM is the mean of a prompt's questions, GM their geometric mean, 1 only when
all are right. The data of GenEval 2 are CC BY-NC 4.0: none of it is here, and what is measured with it is not for commerce.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from editkit.errors import UserError
from editkit.evaluate.benches import BenchOptions
from editkit.evaluate.benches.chat_bench import Answer, Item, Mean, Question, Row, grouped, mean_of_prompts, mean_over, said
from editkit.evaluate.benches.chat_run import evaluate_chat
from editkit.evaluate.benches.geneval import prompt_lines
from editkit.files import write_whole

PATHS, SCORES = "image_paths.json", "score_lists.json"
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
YES_NO = ("yes", "no")
LOOK = "Answer one question about the picture by what can be seen in it, and guess nothing."
COUNT = "Count everything that the question is about, also what is partly hidden. Answer with a number in digits."


class GenEval2:
    """See `editkit.evaluate.benches.chat_bench.ChatBench`."""

    name = "geneval2"
    samples = 1
    official = "Qwen3-VL-8B by the probabilities of its answers (Soft-TIFA)"

    def read(self, path: Path) -> list[Item]:
        items = []
        for number, (where, line) in enumerate(prompt_lines(path, "GenEval 2", "geneval2_data.jsonl")):
            entry = _entry(line, where)
            items.append(Item(number, entry["prompt"], str(entry["atom_count"]), entry))
        return items

    def picture(self, item: Item, sample: int, samples: int) -> str:
        return f"{item.number:05d}.png"

    def pictures(self, place: Path, items: Sequence[Item]) -> list[list[Path]]:
        own = [place / self.picture(item, 0, 1) for item in items]
        path = place if place.is_file() else place / PATHS
        if not path.is_file() or any(one.is_file() for one in own):  # a folder of ours may have been moved as a whole
            return [[one] if one.is_file() else [] for one in own]
        try:
            listed = json.loads(path.read_text(encoding="utf-8"))
            named = [Path(listed[item.prompt]) if item.prompt in listed else None for item in items]
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path}: found no JSON object from prompts to pictures ({error})") from error
        # From the current folder, as its scorer reads them, or from that of the list.
        return [[] if one is None else [one if one.is_file() else path.parent / one] for one in named]

    def questions(self, item: Item) -> list[Question]:
        asked = []
        for question, right in item.line["vqa_list"]:
            counts = right.casefold() not in YES_NO
            how = COUNT if counts else "Answer yes or no."
            fields = {"answer": tuple(map(str, range(21))) if counts else YES_NO}
            asked.append(Question(f"{LOOK}\nQuestion: {question}\n{how}", fields))
        return asked

    def score(self, item: Item, answers: Sequence[Answer]) -> tuple[float, dict[str, Any]]:
        right = [_plain(right) for _, right in item.line["vqa_list"]]
        atoms = [float(_plain(said(answer, "answer")) == r) for answer, r in zip(answers, right, strict=True)]
        skills: dict[str, list[float]] = {}
        for skill, atom in zip(item.line["skills"], atoms, strict=True):
            skills.setdefault(skill, []).append(atom)
        return geometric_mean(atoms), {"am": sum(atoms) / len(atoms), "atoms": atoms, "skills": skills}

    def figures(self, rows: Sequence[Row]) -> dict[str, Mean]:
        found = {"TIFA GM (prompts)": mean_of_prompts(rows), "TIFA AM (questions of a prompt)": mean_of_prompts(rows, "am")}
        for skill in dict.fromkeys(name for row in rows for name in row["parts"]["skills"]):
            parts = [row["parts"]["skills"].get(skill, []) for row in rows]
            found[f"questions: {skill}"] = mean_over((sum(atoms), len(atoms)) for atoms in parts)
        by_atoms = sorted(grouped(rows).items(), key=lambda group: int(group[0]))
        return found | {f"prompts of {count} atoms": mean_of_prompts(those) for count, those in by_atoms}

    def write(self, folder: Path, items: Sequence[Item], rows: Sequence[Row]) -> list[str]:
        write_whole(folder / SCORES, json.dumps([row["parts"]["atoms"] for row in rows]))
        return [SCORES]

    def write_input(self, folder: Path, items: Sequence[Item]) -> None:
        """The list of pictures that its scorer is given."""
        paths = {item.prompt: str((folder / self.picture(item, 0, 1)).resolve()) for item in items}
        write_whole(folder / PATHS, json.dumps(paths, indent=1, ensure_ascii=False))


def geometric_mean(values: Sequence[float]) -> float:
    """(product of the n values)^(1/n), of values in [0, 1]; 0 as soon as one is."""
    if not all(values):
        return 0.0
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def evaluate(run: str, options: BenchOptions) -> dict[str, Any]:
    """`editkit eval RUN --bench geneval2`; see `evaluate_chat`."""
    return evaluate_chat(GenEval2(), run, options)


def _plain(word: str) -> str:
    """An answer, numbers in digits."""
    word = word.strip().casefold()
    return str(NUMBERS.index(word)) if word in NUMBERS else word


def _entry(line: str, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
        prompt, skills, pairs = entry["prompt"], entry["skills"], [[str(text) for text in pair] for pair in entry["vqa_list"]]
        known = all(len(pair) == 2 and (_plain(pair[1]) in YES_NO or _plain(pair[1]).isdecimal()) for pair in pairs)
        whole = isinstance(prompt, str) and prompt.strip() and len(pairs) == len(skills) > 0
        count = int(entry["atom_count"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{where}: found no prompt of GenEval 2 ({error}); expected prompt, atom_count, vqa_list, skills"
        ) from error
    if not whole:
        raise UserError(
            f"{where}: found {len(pairs)} questions and {len(skills)} skills; expected a prompt and one skill a question"
        )
    if not known:
        raise UserError(f"{where}: found {pairs!r}; expected [question, answer] with Yes, No or a number as the answer")
    return {"prompt": prompt, "atom_count": count, "vqa_list": pairs, "skills": [str(skill) for skill in skills]}
