"""What a person's word does to a trajectory: what stays, what is left out, what comes next, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from editkit.data.prepare import to_image
from editkit.data.trace_files import read_traces
from editkit.errors import UserError
from editkit.evaluate.plan_folder import PlanFolder
from editkit.evaluate.steering import Begun, declare_right, declare_wrong, plain, remark, replan
from editkit.models.generator import Drawn, Said


def drawn(level: float) -> Drawn:
    pixels_CHW = torch.full((3, 4, 4), level)
    return Drawn(to_image(pixels_CHW), pixels_CHW)


def said(text: str) -> Said:
    return Said(text, (7,))


PLAN_1, PLAN_2 = said("<ins>draw a star</ins><des>a star</des>"), said("<ins>add a cup</ins><des>a star and a cup</des>")
WRONG = said("The image is wrong: it is red. Still to come: a cup. <refine>make it blue</refine>")
RIGHT, NO_PLAN = said("The image is correct."), said("The plan is wrong: no cup. <refine>draw a cup</refine>")
FIRST, SECOND = drawn(-1.0), drawn(1.0)
PARTS = [PLAN_1, FIRST, WRONG, PLAN_2, SECOND, RIGHT]
REJECTED = [PLAN_1, NO_PLAN, PLAN_2, SECOND]
SO = "The plan is wrong: {}. <refine>{}</refine>"


@pytest.mark.parametrize(
    ("begun", "expected"),
    [
        (replan(PARTS, 1, " draw  a\ncat ", "a cat"), Begun([Said("<ins>draw a cat</ins><des>a cat</des>")], "image")),
        (replan(PARTS, 2, "add a hat", "a star"), Begun([*PARTS[:3], Said("<ins>add a hat</ins><des>a star</des>")], "image")),
        (replan(PARTS, 2, "add a cup", "a star and a cup"), Begun(PARTS[:4], "image")),  # as the model wrote it
        (replan([RIGHT], 1, "draw", "a cat"), Begun([Said("<ins>draw</ins><des>a cat</des>")], "image")),
        (declare_right(PARTS, 1), Begun([*PARTS[:2], Said("The image is correct. Still to come: a cup.")], None)),
        (declare_right(PARTS[:2], 1), Begun([*PARTS[:2], Said("The image is correct.")], None)),
        (declare_right(REJECTED, 1), Begun([PLAN_1], "image")),
        (
            declare_wrong(PARTS, 2, "it is small; it is cut off.", "make it large"),
            Begun([*PARTS[:5], Said("The image is wrong: it is small; it is cut off. <refine>make it large</refine>")], "text"),
        ),
        (
            declare_wrong(PARTS, 1, "no", "do"),
            Begun([*PARTS[:2], Said("The image is wrong: no. Still to come: a cup. <refine>do</refine>")], "text"),
        ),
        (declare_wrong(REJECTED, 1, "too much", "less"), Begun([PLAN_1, Said(SO.format("too much", "less"))], "text")),
        (
            remark(PARTS[:4], "make it large"),
            Begun(
                [*PARTS[:2], Said("The image is wrong: not as asked. Still to come: a cup. <refine>make it large</refine>")],
                "text",
            ),
        ),
        (declare_wrong(PARTS[:4], 2, "no", "do"), Begun([*PARTS[:4], Said(SO.format("no", "do"))], "text")),
    ],
)
def test_what_stood_before_stays_and_what_stood_behind_is_left_out(begun: Begun, expected: Begun) -> None:
    assert begun == expected


@pytest.mark.parametrize(
    ("step_in", "words"),
    [
        (lambda: replan(PARTS, 3, "a", "b"), "found step 3; expected 1 to 2"),
        (lambda: replan([], 1, "a", "b"), "found no step"),
        (lambda: replan(PARTS, 1, " ", "b"), "the instruction is empty"),
        (lambda: replan(PARTS, 1, "a", ""), "the description is empty"),
        (lambda: replan(PARTS, 1, "a", "b</des>"), "found </des> inside des"),
        (lambda: replan(PARTS, 1, "a\ud800", "b"), "found a character that is none"),
        (lambda: declare_right(PARTS, 2), "says already that it is right"),
        (lambda: declare_right([said("hm")], 1), "found 'hm'; expected <ins>"),
        (lambda: declare_right([NO_PLAN], 1), "write the plan first"),
        (lambda: declare_wrong(PARTS, 2, "", "do"), "what is wrong is empty"),
        (lambda: declare_wrong(PARTS, 2, " ; .", "do"), "what is wrong is empty"),
        (lambda: remark(REJECTED[:2], "do"), "found no picture to remark on"),
        (lambda: remark(PARTS, " "), "the remark is empty"),
        (lambda: declare_wrong(PARTS, 2, "no", " "), "what to do is empty"),
        (lambda: declare_wrong(PARTS, 2, "no. Still to come: a cup", "do"), "read as another verdict"),
        (lambda: declare_wrong(PARTS, 2, "no", "<refine>"), "found <refine> inside refine"),
    ],
)
def test_what_no_trace_can_have_is_refused_in_one_line(step_in: Callable[[], Begun], words: str) -> None:
    with pytest.raises(UserError) as refused:
        step_in()
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_steered_is_a_trace_that_says_what_a_person_wrote(tmp_path: Path) -> None:
    begun = declare_wrong(PARTS, 2, "it is small", "make it large").parts
    begun = replan([*begun, PLAN_1, FIRST, RIGHT], 3, "make it huge", "a huge star").parts
    folder = PlanFolder(tmp_path / "star", "a star", {"seed": 1})
    for part in [*begun, FIRST, RIGHT]:
        if isinstance(part, Said):
            folder.add_text(part.text, by_hand=part.ids is None)
        else:
            folder.add_picture(part.picture)
    found = folder.finish("said so", by_itself=True)
    assert found["by_hand"] == [6, 7]
    assert found["unread"] == ""
    trace = next(read_traces(tmp_path / "star"))
    assert len(trace.steps) == 3
    assert '"by_hand": [6, 7]' in trace.provenance
    assert plain(begun)[-1] == "<ins>make it huge</ins><des>a huge star</des>"
