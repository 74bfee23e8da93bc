"""A chat model that inspects: whether the plan of a step agrees with the prompt, or a picture with its plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from editkit.build.teachers.chat_client import Reply
from editkit.build.teachers.endpoint import Endpoint, Questions, as_json, as_picture
from editkit.build.teachers.planner import one_line
from editkit.data.traces import Inspection, PlanTrace
from editkit.recipe.schema import PositiveInt

FIELDS = {"verdict": ("correct", "wrong"), "issues": (), "still_to_come": (), "correction": ()}
PROMPT = """\
You inspect one step of a picture that is painted step by step. Judge {what}. What the prompt asks for and is not there \
yet is no fault: a later step adds it. Answer with the verdict; with the issues, each a short clause, separated by \
semicolons, and empty where the verdict is correct; with what is still to come, separated by semicolons; and with the \
correction: one instruction to an editor of pictures that mends the issues, empty where the verdict is correct."""
WHAT = {
    "plan": "the last plan against the prompt: instruction and description contradict neither the prompt nor each other",
    "image": "the picture against the last plan: it shows the description, with the right objects, counts, colours and places",
}


class InspectorOptions(Endpoint):
    """The keys of `[build.inspect]`: a model that looks at pictures."""

    prompt: str = PROMPT  # with {what} where it is said what is judged
    temperature: Annotated[float, Field(ge=0)] = 0.0
    max_tokens: PositiveInt = 512
    side: PositiveInt = 512  # px; larger pictures are sent that large


@dataclass(frozen=True, slots=True)
class Asked:
    """A question: which step of a trace, from 1, and whether its "plan" or its "image"."""

    trace: PlanTrace
    step: int
    on: str


def inspections(questions: Questions, options: InspectorOptions, seed: int, asked: Sequence[Asked]) -> list[Inspection | None]:
    """What the model says of each; None where no reply was a verdict with its reasons."""
    replies = questions.answers([_body(options, seed, one) for one in asked], tuple(FIELDS))
    return [_read(reply, one.on) for reply, one in zip(replies, asked, strict=True)]


def _body(options: InspectorOptions, seed: int, asked: Asked) -> dict[str, Any]:
    lines = [options.prompt.replace("{what}", WHAT[asked.on]), f"Prompt: {asked.trace.prompt}"]
    for number, step in enumerate(asked.trace.steps[: asked.step], 1):
        lines.append(f"Step {number}: {step.ins} Then: {step.des}")
    content: list[dict[str, Any]] = [{"type": "text", "text": "\n".join(lines)}]
    sketch = asked.trace.steps[asked.step - 1].sketch
    if asked.on == "image" and sketch is not None:
        content.append(as_picture(sketch, options.side))
    return {
        "model": options.model,
        "messages": [{"role": "user", "content": content}],
        "temperature": options.temperature,
        "max_tokens": options.max_tokens,
        "seed": seed,
        "response_format": as_json("inspection", FIELDS),
    }


def _read(reply: Reply, on: str) -> Inspection | None:
    if reply.answer is None or reply.answer["verdict"] not in FIELDS["verdict"]:
        return None
    ok = reply.answer["verdict"] == "correct"
    issues, deferred = (_listed(reply.answer[name]) for name in ("issues", "still_to_come"))
    refine = one_line(reply.answer["correction"])
    if not ok and not (issues and refine):
        return None
    looked = "plan" if on == "plan" else "image"
    return Inspection(ok, looked, () if ok else issues, deferred, "" if ok else refine)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(item for part in one_line(text).split(";") if (item := part.strip(" .")))
