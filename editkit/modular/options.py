"""A file of back ends: which models plan, draw and inspect together, and how much they may use."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from editkit.build.plan_refine_taught import CANVAS
from editkit.build.teachers.inspector import InspectorOptions
from editkit.build.teachers.planner import MAX_STEPS, Planning
from editkit.recipe.schema import NonNegativeInt, PositiveInt, Section

Guidance = Annotated[float, Field(ge=1)]


class EditorTable(Section):
    """The table `[editor]`: what draws a step from the picture before it, and mends it."""

    model: str  # an editor: a run, "latest", "lab:NAME", a folder or a Hub id; or any editing pipeline of diffusers
    steps: PositiveInt | None = None  # sampling steps; left out = as the editor has it
    text_guidance: Guidance | None = None
    image_guidance: Guidance | None = None  # for editors that have one
    precision: Literal["fp32", "bf16"] = "bf16"  # of pipelines that editkit does not train itself


class Beginning(Section):
    """The table `[start]`: what the first step is drawn on, where no picture is given to begin with."""

    generator: str = ""  # draws the first step from its description: "lab:tiny-sd", a run, a Hub id; "" = an empty canvas
    canvas: str = CANVAS  # its colour; the editor draws the first step on it
    resolution: PositiveInt = 512  # px, of the canvas


class Budget(Section):
    """`[budget]`: what a trajectory may use; 0 = no limit. What is under way when a limit is reached is waited for."""

    steps: Annotated[int, Field(gt=0, le=MAX_STEPS)] = MAX_STEPS  # of the plan
    refines: NonNegativeInt = 2  # of a step; 0 = drafts are inspected and stay as they are
    calls: NonNegativeInt = 60  # requests to the endpoints, useless ones and repetitions included
    tokens: NonNegativeInt = 0  # in and out, as the endpoints count them
    cost: Annotated[float, Field(ge=0)] = 0.0  # by price_in and price_out of the endpoints
    seconds: NonNegativeInt = 0


class BackEnds(Section):
    """The whole file."""

    format: Literal[1] = 1
    name: str
    description: str = ""
    editor: EditorTable
    start: Beginning = Beginning()
    planner: Planning | None = None  # left out = the grammar of the avatars world, for editors of that world
    inspector: InspectorOptions | None = None  # left out = its attribute reader
    budget: Budget = Budget()
