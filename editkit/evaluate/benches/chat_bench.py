"""Benches whose pictures a chat model judges: what each of them says of itself, how the model is asked, and means with errors.

The questions are in our own words, and the model is whichever the user names, so the figures are not the published ones even
where the formula is; every result says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from editkit.data.pictures import Picture
from editkit.evaluate.benches.judge_file import ChatJudge
from editkit.models.chat.endpoint import Questions, as_json
from editkit.models.chat.pictures import picture_content
from editkit.progress import progress

TOGETHER = 32  # pictures whose questions are asked at once; a picture is a megabyte of text

Answer = Mapping[str, str] | None  # None where the model gave no usable reply
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt of a bench.

    Attributes:
        number: its place, from 0.
        prompt: what is drawn.
        group: what it belongs to, summed up apart.
        line: what else the bench's own file says of it.
    """

    number: int
    prompt: str
    group: str
    line: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """Asked of one picture.

    Attributes:
        text: in words.
        fields: of the answer, each one of several words.
    """

    text: str
    fields: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Mean:
    """A figure.

    Attributes:
        value: in [0, 1].
        stderr: over prompts; NaN of a single one.
        prompts: how many.
    """

    value: float
    stderr: float
    prompts: int


class ChatBench(Protocol):
    """A bench.

    Attributes:
        name: as `--bench` has it.
        samples: pictures a prompt in its published figures.
        official: what judged those.
    """

    name: str
    samples: int
    official: str

    def read(self, path: Path) -> list[Item]:
        """Its prompt file."""
        ...

    def picture(self, item: Item, sample: int, samples: int) -> str:
        """Where its scorer looks for a picture, below the folder of the bench."""
        ...

    def pictures(self, place: Path, items: Sequence[Item]) -> list[list[Path]]:
        """The pictures of each prompt that lie there, in the bench's own layout, whoever drew them."""
        ...

    def questions(self, item: Item) -> list[Question]:
        """What is asked of a picture of this prompt; all have the same fields."""
        ...

    def score(self, item: Item, answers: Sequence[Answer]) -> tuple[float, dict[str, Any]]:
        """(score in [0, 1], what it is made of)."""
        ...

    def figures(self, rows: Sequence[Row]) -> dict[str, Mean]:
        """The figures of all pictures, the main one first."""
        ...

    def write_input(self, folder: Path, items: Sequence[Item]) -> None:
        """Writes what its scorer needs besides the pictures."""
        ...

    def write(self, folder: Path, items: Sequence[Item], rows: Sequence[Row]) -> list[str]:
        """Writes what its own scripts read on, and returns the names of the files."""
        ...


def ask(
    bench: ChatBench, judge: ChatJudge, items: Sequence[Item], pictures: Sequence[Sequence[Path]], place: Path
) -> tuple[list[Row], set[str]]:
    """Has every picture judged; what was answered before is not asked again.

    Args:
        bench: whose questions.
        judge: who is asked.
        items: the prompts.
        pictures: of each.
        place: below which they lie.

    Returns:
        A row a picture: "filename", "tag" (the bench), "prompt", "group", "correct", "score", "parts" (what the score is made
        of), "answers"; and the names by which the server calls the model.
    """
    asked = [(item, path) for item, paths in zip(items, pictures, strict=True) for path in paths]
    questions = Questions(judge, "[chat]")
    rows: list[Row] = []
    served: set[str] = set()
    with progress(len(asked), f"asking {judge.model}") as bar:
        for start in range(0, len(asked), TOGETHER):
            chunk = asked[start : start + TOGETHER]
            of_each = [bench.questions(item) for item, _ in chunk]
            shown = [picture_content(Picture(path).open(), judge.side) for _, path in chunk]
            bodies = [_body(judge, q, seen) for those, seen in zip(of_each, shown, strict=True) for q in those]
            replies = iter(questions.answers(bodies, tuple(of_each[0][0].fields)))
            for (item, path), those in zip(chunk, of_each, strict=True):
                given = [next(replies) for _ in those]
                served |= {reply.model for reply in given if reply.model}
                rows.append(_row(bench, item, path, place, [reply.answer for reply in given]))
                bar.advance()
    return rows, served


def mean_over(parts: Iterable[tuple[float, int]]) -> Mean:
    """The mean of things that come in groups, such as the questions of a prompt, whose groups are what is independent.

    With the sums s_i and counts n_i of m groups: p = sum s / sum n, and by linearisation its standard error is
    sqrt(m / (m - 1) * sum (s_i - p n_i)^2) / sum n; with n_i = 1 that is sd / sqrt(m).

    Args:
        parts: (sum, count) of each group; groups without anything are passed over.
    """
    groups = [(s, n) for s, n in parts if n]
    total = sum(n for _, n in groups)
    if not total:
        return Mean(math.nan, math.nan, 0)
    value, m = sum(s for s, _ in groups) / total, len(groups)
    if m == 1:
        return Mean(value, math.nan, 1)
    return Mean(value, math.sqrt(m / (m - 1) * sum((s - value * n) ** 2 for s, n in groups)) / total, m)


def mean_of_prompts(rows: Sequence[Row], part: str = "score") -> Mean:
    """The mean over prompts of the means of their pictures, of the score or of one of its parts."""
    by_prompt: dict[int, list[float]] = {}
    for row in rows:
        by_prompt.setdefault(row["number"], []).append(row[part] if part == "score" else row["parts"][part])
    return mean_over((sum(values) / len(values), 1) for values in by_prompt.values())


def grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each group, in the order in which the groups come."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["group"], []).append(row)
    return found


def said(answer: Answer, field: str) -> str:
    """A field of an answer, without what models add to a word; "" where there is none."""
    return answer[field].strip().strip(".!\"'").casefold() if answer is not None else ""


def _row(bench: ChatBench, item: Item, path: Path, place: Path, answers: Sequence[Answer]) -> Row:
    score, parts = bench.score(item, answers)
    whole, root = path.resolve(), place.resolve()
    name = whole.relative_to(root) if whole.is_relative_to(root) else path
    return {
        "filename": name.as_posix(), "number": item.number, "tag": bench.name, "prompt": item.prompt, "group": item.group,
        "correct": math.isclose(score, 1.0), "score": score, "parts": parts, "answers": list(answers),
    }  # fmt: skip


def _body(judge: ChatJudge, question: Question, seen: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": judge.model,
        "messages": [{"role": "user", "content": [{"type": "text", "text": question.text}, seen]}],
        "temperature": judge.temperature,
        "max_tokens": judge.max_tokens,
        "seed": judge.seed,
        "response_format": as_json("judgement", question.fields),
    }
