"""Who draws: an editor that editkit trains, or any editing pipeline of diffusers; and who draws the first picture."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any, Protocol

import torch
from PIL import Image

from editkit.build.editor import EditorModel, InstructionEditor
from editkit.models.adapters import is_adapter
from editkit.models.editor import load_editor
from editkit.models.generator import EDITS, Tick
from editkit.models.locate import locate_trained, read_metadata, version_of
from editkit.modular.options import EditorTable

STEPS, TEXT_GUIDANCE = 28, 2.5  # of a pipeline for which nothing is said


class Editor(Protocol):
    """Edits pictures by words.

    Attributes:
        defaults: "steps", "text_guidance", "image_guidance"; None = it has none.
        about: what it is, for provenance.
    """

    defaults: dict[str, Any]
    about: dict[str, Any]

    def edit(
        self, source: Image.Image, instruction: str, *, text_guidance: float | None, image_guidance: float | None, steps: int,
        seed: int, after_step: Tick | None,
    ) -> Image.Image:  # fmt: skip
        """An RGB picture; `after_step` is called after each sampling step."""
        ...


class TrainedEditor:
    """An editor that editkit trains or ships."""

    def __init__(self, table: EditorTable, device: torch.device | None) -> None:
        self._editor = load_editor(table.model, device=device)
        stated = table.model_dump(include={"steps", "text_guidance", "image_guidance"}, exclude_none=True)
        self.defaults: dict[str, Any] = {**self._editor.defaults, **stated}
        self.about: dict[str, Any] = {"model": table.model}

    def edit(
        self, source: Image.Image, instruction: str, *, text_guidance: float | None, image_guidance: float | None, steps: int,
        seed: int, after_step: Tick | None,
    ) -> Image.Image:  # fmt: skip
        """See `Editor.edit`; the picture has the model's resolution."""
        return self._editor.edit(
            [source], [instruction], text_guidance=text_guidance, image_guidance=image_guidance, steps=steps, seed=seed,
            progress=lambda done, of: after_step() if after_step is not None else None,
        )[0]  # fmt: skip


class PipelineEditor:
    """An editing pipeline of diffusers that takes a picture and words, such as FLUX.1 Kontext or Qwen-Image-Edit."""

    def __init__(self, table: EditorTable, place: str) -> None:
        steps, guidance = table.steps or STEPS, table.text_guidance or TEXT_GUIDANCE
        self._options = EditorModel(
            model=table.model, steps=steps, guidance=[guidance, guidance], image_guidance=table.image_guidance,
            precision=table.precision,
        )  # fmt: skip
        self._editor = InstructionEditor(self._options, version_of(table.model), place)
        self.defaults: dict[str, Any] = {"steps": steps, "text_guidance": guidance, "image_guidance": table.image_guidance}
        self.about: dict[str, Any] = {"model": table.model, "pipeline": self._editor.name, **self._editor.about}

    def edit(
        self, source: Image.Image, instruction: str, *, text_guidance: float | None, image_guidance: float | None, steps: int,
        seed: int, after_step: Tick | None,
    ) -> Image.Image:  # fmt: skip
        """See `Editor.edit`; the picture has the size of the source."""
        guidance = TEXT_GUIDANCE if text_guidance is None else text_guidance
        asked = {"steps": steps, "guidance": [guidance, guidance], "image_guidance": image_guidance}
        options = self._options.model_copy(update=asked)
        return self._editor.edit(source, instruction, Random(seed), options, after_step).picture


def open_editor(table: EditorTable, place: str, device: torch.device | None) -> Editor:
    """Loads an editor.

    Raises:
        UserError: there is none, or it cannot edit.
    """
    folder = locate_trained(table.model, ("adapter", "model"))
    if is_adapter(folder) or read_metadata(folder) or not _is_pipeline(folder) or _is_stable_diffusion(folder):
        return TrainedEditor(table, device)
    return PipelineEditor(table, place)


def is_editor(run: str) -> bool:
    """Whether a run, a shipped model, a folder or a Hub id is an editor, as far as its files say it.

    Raises:
        UserError: there is nothing of that name.
    """
    folder = locate_trained(run, ("model", "adapter"))
    method = read_metadata(folder).get("method", "")
    if method:
        return method == EDITS
    if is_adapter(folder):
        return True
    if _is_stable_diffusion(folder):
        unet, vae = (json.loads((folder / part / "config.json").read_text(encoding="utf-8")) for part in ("unet", "vae"))
        return unet["in_channels"] == 2 * vae["latent_channels"]
    return _is_pipeline(folder)


def _is_pipeline(folder: Path) -> bool:
    return (folder / "model_index.json").is_file()


def _is_stable_diffusion(folder: Path) -> bool:
    """Whether it has the parts of a Stable Diffusion 1.x or 2.x, with one text encoder."""
    parts = (folder / "unet" / "config.json", folder / "vae" / "config.json", folder / "text_encoder")
    return all(part.exists() for part in parts) and not (folder / "text_encoder_2").exists()
