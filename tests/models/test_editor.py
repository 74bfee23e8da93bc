"""An editor as a function on pictures: what it does not depend on, what it reports, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from editkit.errors import UserError
from editkit.models import METADATA
from editkit.models.editor import StableDiffusionEditor, load_editor
from editkit.models.locate import locate_model
from editkit.models.stable_diffusion.drawn import set_drawn
from tests.tiny import picture


@pytest.fixture(scope="module")
def editor(tiny_editor: Path) -> StableDiffusionEditor:
    return load_editor(str(tiny_editor))


def test_an_edit_does_not_depend_on_its_neighbours(editor: StableDiffusionEditor) -> None:
    images, texts = [picture("red"), picture("blue"), picture("green")], ["add a beard", "make the hair red", "change nothing"]
    together = editor.edit(images, texts, steps=2)
    alone = StableDiffusionEditor(editor._parts, name="alone", resolution=32, batch_size=1).edit(images, texts, steps=2)
    for a, b in zip(together, alone, strict=True):
        difference = np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int))
        assert difference.max() <= 1, "rounding at most"


def test_every_setting_matters(editor: StableDiffusionEditor) -> None:
    def edit(**changes: float) -> bytes:
        return editor.edit([picture("red")], ["add a beard"], **({"steps": 2, "seed": 1} | changes))[0].tobytes()

    made = [edit(), edit(seed=2), edit(steps=3), edit(text_guidance=2.0), edit(image_guidance=1.1), edit(source_weight=0.0)]
    assert len(set(made)) == len(made)
    assert edit() == made[0]


def test_progress_counts_the_steps_of_all_batches(tiny_editor: Path) -> None:
    parts = load_editor(str(tiny_editor))._parts
    editor = StableDiffusionEditor(parts, name="x", resolution=32, batch_size=2)
    seen: list[tuple[int, int]] = []
    editor.edit([picture("red")] * 3, ["a"] * 3, steps=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_pictures_of_any_size_come_out_square(editor: StableDiffusionEditor) -> None:
    made = editor.edit([picture("red", (90, 40)), picture("red", (7, 300))], ["a", "b"], steps=1)
    assert [m.size for m in made] == [(32, 32), (32, 32)]
    assert all(isinstance(m, Image.Image) and m.mode == "RGB" for m in made)


def test_as_many_instructions_as_pictures(editor: StableDiffusionEditor) -> None:
    with pytest.raises(ValueError, match="2 images and 1 instructions"):
        editor.edit([picture("red")] * 2, ["a"])


def test_its_defaults_travel_with_the_weights(tiny_editor: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(tiny_editor, folder)
    sampling = {"steps": 3, "text_guidance": 2.5, "image_guidance": 1.2}
    facts = {"format": 1, "name": "mine", "prepare": {"resolution": 32}, "sampling": sampling}
    (folder / METADATA).write_text(json.dumps(facts))
    editor = load_editor(str(folder))
    assert editor.defaults == {**sampling, "resolution": 32}
    asked = editor.edit([picture("red")], ["a"], steps=3, text_guidance=2.5, image_guidance=1.2)[0]
    assert editor.edit([picture("red")], ["a"])[0].tobytes() == asked.tobytes()


def test_a_difference_of_nothing_is_the_source(tiny_editor: Path, tmp_path: Path) -> None:
    parts = load_editor(str(tiny_editor))._parts
    with torch.no_grad():  # it says that nothing is behind the noise
        parts.unet.conv_out.weight.zero_()
        parts.unet.conv_out.bias.zero_()
    parts.put("scheduler", DDIMScheduler.from_config(parts.scheduler.config, prediction_type="sample", set_alpha_to_one=True))
    editor = StableDiffusionEditor(parts, name="x", resolution=32)
    sources = [picture("red"), picture("blue")]
    ask = {"steps": 2, "text_guidance": 3.0, "image_guidance": 1.5}
    assert editor.edit(sources, ["a", "b"], **ask) != editor.reconstruct(sources)
    set_drawn(parts, "difference", has_adapter=False)
    assert editor.edit(sources, ["a", "b"], **ask) == editor.reconstruct(sources)
    editor.save(tmp_path / "saved")
    assert load_editor(str(tmp_path / "saved")).edit(sources, ["a", "b"], **ask) == editor.reconstruct(sources), "it is saved"


def test_a_text_to_image_model_is_no_editor(tiny_sd: Path) -> None:
    with pytest.raises(UserError, match="takes 4 channels, so it draws from text and cannot edit"):
        load_editor(str(tiny_sd))


@pytest.mark.parametrize("name", ["latest", "nowhere-at-all"])
def test_what_is_not_there_is_said(name: str, workplace: Path) -> None:
    with pytest.raises(UserError, match="found no"):
        load_editor(name)


def test_a_lab_model_that_is_not_shipped_names_those_that_are() -> None:
    with pytest.raises(UserError, match="lab:judges"):
        locate_model("lab:tiny-sdd")


def test_a_hub_id_without_a_network_is_said() -> None:
    with pytest.raises(UserError, match="the Hub cannot be reached"):
        locate_model("somebody/something")
