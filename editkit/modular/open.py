"""What `editkit generate --plan` draws with: a network that plans by itself, or several models that work together."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import torch
from PIL import Image

from editkit.errors import UserError
from editkit.lab.judges import LabJudge
from editkit.models.generator import Generator, Planner, load_generator, load_planner
from editkit.modular.budget import Meter
from editkit.modular.editors import is_editor, open_editor
from editkit.modular.loop import ModularPlanner
from editkit.modular.options import BackEnds, EditorTable
from editkit.modular.roles import AvatarInspector, AvatarPlanner, ChatInspector, ChatPlanner
from editkit.modular.roles import Inspector as InspectorRole
from editkit.modular.roles import Planner as PlannerRole
from editkit.recipe.load import load_recipe, load_toml_model
from editkit.runs import find_run

JUDGES, FIRST = "lab:judges", "lab:tiny-sd"  # of the avatars world: who reads, and who draws the first picture


def open_planner(run: str, *, start: Image.Image | None = None, device: torch.device | None = None) -> Planner:
    """Loads what draws in steps.

    Args:
        run: a run of the method plan_refine; an editor (a run, "lab:NAME", a folder, a Hub id); or a TOML file of back ends
            (`editkit.modular.options`).
        start: the picture to begin with, of editors and back ends.
        device: where it computes; None = the CPU.

    Raises:
        UserError: there is none, it cannot edit, or it is not said who plans and inspects.
    """
    if run.endswith(".toml"):
        return modular_planner(load_toml_model(run, BackEnds)[0], run, start=start, device=device)
    if is_editor(run):
        alone = BackEnds(name=Path(run).name, editor=EditorTable(model=run))
        return modular_planner(alone, run, start=start, device=device)
    if start is not None:
        raise UserError(
            f"--start: found it with {run}, which is no editor; expected one, such as lab:tiny-edit, or leave it out"
        )
    return load_planner(run, device=device)


def modular_planner(
    said: BackEnds, place: str, *, start: Image.Image | None = None, device: torch.device | None = None
) -> ModularPlanner:
    """The loop over the models that a file of back ends names.

    Args:
        said: the file.
        place: its name, for messages.
        start, device: see `open_planner`.

    Raises:
        UserError: a model is not there or does something else; a key is in no environment variable.
    """
    of_avatars = _of_avatars(said.editor.model)
    missing = [name for name in ("planner", "inspector") if getattr(said, name) is None]
    if missing and not of_avatars:
        raise UserError(
            f"{place}: found no [{missing[0]}]; with {said.editor.model} expected a chat model in a TOML file, as in "
            "back_ends/kontext.toml; none is needed for editors of the avatars world alone, such as lab:tiny-edit"
        )
    meter = Meter(said.budget)
    judge = cache(partial(LabJudge, JUDGES))
    planner: PlannerRole = ChatPlanner(said.planner, f"[planner] of {place}", meter) if said.planner else AvatarPlanner(judge)
    inspector: InspectorRole = AvatarInspector(judge)
    if said.inspector is not None:
        inspector = ChatInspector(said.inspector, f"[inspector] of {place}", meter)
    editor = open_editor(said.editor, f"{place}: [editor]", device)
    # What the lab's editors know are portraits: on an empty canvas they have nothing to begin with.
    first = said.start.generator or (FIRST if of_avatars else "")
    beginning = said.start.model_copy(update={"generator": first})
    generator: Generator | None = load_generator(first, device=device) if first and start is None else None
    return ModularPlanner(
        planner, inspector, editor, start=start, generator=generator, beginning=beginning, budget=said.budget, meter=meter
    )


def _of_avatars(model: str) -> bool:
    """Whether an editor is of the avatars world: one that is shipped, or a run that the lab's judges score."""
    if model.startswith("lab:"):
        return True
    try:
        folder = find_run(model)
    except UserError:
        return False
    return load_recipe(folder / "recipe.toml")[0].evaluate.judge == JUDGES
