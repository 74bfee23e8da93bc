"""A chat model that plans: from a prompt to a scene graph and the steps in which it is drawn."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from editkit.data.pictures import Picture
from editkit.models.chat.endpoint import Endpoint, as_json
from editkit.models.chat.pictures import picture_content
from editkit.recipe.schema import PositiveInt

MAX_STEPS = 5  # pictures of a trace, as in the paper
FIELDS = ("scene_graph", *(f"{what}_{n}" for n in range(1, MAX_STEPS + 1) for what in ("instruction", "description")))
PROMPT = """\
You plan how a picture is painted step by step. You are given what it shall show, and a route. First write its scene \
graph: the objects, the attributes of each, the relations between them, in one line. Then write at most five steps. The \
instruction of a step says one change, as one tells an editor of pictures: "Add a running dog that chases the boy." Its \
description says all that the picture shows after it, and nothing else. Begin with the background or the largest object, \
give objects their attributes when they appear, and relate them to what is there. The last description fulfils the prompt. \
Leave the fields of steps that are not needed empty."""
ROUTES: Mapping[str, str] = {
    "additive": "Route: every step only adds.",
    "attribute change": "Route: give one object another attribute at first, and change it to the right one in a later step.",
    "swap": "Route: put two objects in each other's places at first, and let them change places in a later step.",
    "removal": "Route: add one object that is not asked for, and remove it in a later step.",
}


START = """\
The painting begins with the picture that you see. Plan only the changes that lead from it to what it shall show; \
descriptions tell of all that is seen, of what stays too."""


class Planning(Endpoint):
    """A model that plans: where it is, and how it is asked."""

    prompt: str = PROMPT
    temperature: Annotated[float, Field(ge=0)] = 0.7
    max_tokens: PositiveInt = 1024
    side: PositiveInt = 512  # px; a larger picture to begin with is sent that large


class PlannerOptions(Planning):
    """The keys of `[build.propose]`."""

    captions: str  # a text file with a prompt a line, or a data set of captioned pictures, as a recipe's data.train has it
    part_size: PositiveInt = 50


def question(options: Planning, seed: int, prompt: str, route: str, start: Picture | None = None) -> dict[str, Any]:
    """The request for one plan.

    Args:
        options: of the model.
        seed: of its sampling.
        prompt: what the picture shall show.
        route: a key of `ROUTES`.
        start: what the painting begins with, which a model that sees is then shown; None = an empty canvas.
    """
    asked = f"{prompt}\n\n{ROUTES[route]}"
    content: Any = asked
    if start is not None:
        content = [{"type": "text", "text": f"{asked}\n{START}"}, picture_content(start.open(), options.side)]
    return {
        "model": options.model,
        "messages": [
            {"role": "system", "content": options.prompt},
            {"role": "user", "content": content},
        ],
        "temperature": options.temperature,
        "max_tokens": options.max_tokens,
        "seed": seed,
        "response_format": as_json("plan", dict.fromkeys(FIELDS, ())),
    }


def steps_of_reply(answer: Mapping[str, str]) -> tuple[list[tuple[str, str]], str]:
    """((instruction, description) of every step up to the first that lacks one, the scene graph), each in one line."""
    steps = []
    for n in range(1, MAX_STEPS + 1):
        ins, des = (one_line(answer[f"{what}_{n}"]) for what in ("instruction", "description"))
        if not ins or not des:
            break
        steps.append((ins, des))
    return steps, one_line(answer["scene_graph"])


def one_line(text: str) -> str:
    """The text without line breaks, and without the tags of the grammar of traces."""
    return " ".join(re.sub(r"</?(?:ins|des|refine|image)>", " ", text).split())
