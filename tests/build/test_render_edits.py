"""Pairs whose targets an editor made, from end to end: a real server proposes, the lab's editor edits, CLIP filters."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline

from editkit.build.editor import EditorModel, InstructionEditor
from editkit.build.pipeline import build_spec, builder_of
from editkit.build.render_edits import EditorOptions, RenderEdits
from editkit.data.read import open_dataset
from editkit.data.spec import load_spec
from editkit.errors import UserError
from editkit.models.editor import StableDiffusionEditor
from editkit.models.locate import LAB
from editkit.models.stable_diffusion.drawn import set_drawn
from editkit.models.stable_diffusion.load import Options, load
from tests.build.chat_server import ChatServer
from tests.tiny import avatars_spec

FACES = avatars_spec(4, 2, 64, name="faces", kind="captioned_images")
SPEC = """\
format = 1
name = "edited"
kind = "edit_pairs"
licence = "as the faces"
[build]
builder = "instruct_pix2pix"
train = 4
test = 2
[build.propose]
teacher = "chat"
url = "{url}"
model = "any"
captions = "faces.toml"
[build.render]
renderer = "editor"
model = "lab:tiny-edit"
samples = 2
steps = 2
guidance = [2.0, 4.0]
image_guidance = 1.5
precision = "fp32"
[build.filter]
clip = "lab:tiny-clip"
image = -1.0
direction = -1.0
source_caption = -1.0
target_caption = -1.0
"""


@pytest.fixture
def spec(running: ChatServer, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDITKIT_CACHE", str(workplace / "cache"))
    Path("faces.toml").write_text(FACES)
    Path("edited.toml").write_text(SPEC.format(url=running.url))
    return Path("edited.toml")


def stage_of(spec: Path) -> RenderEdits:
    stage = builder_of(*load_spec(spec)).stages(load_spec(spec)[0])[2]
    assert isinstance(stage, RenderEdits)
    return stage


def test_the_editor_edits_the_pictures_whose_captions_were_asked_about(spec: Path) -> None:
    folder = build_spec(spec, None)
    faces = {split: open_dataset("faces.toml", split) for split in ("train", "test")}
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(LAB / "tiny-edit", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    count = 0
    for split, dataset in faces.items():
        pairs = open_dataset("edited.toml", split)
        rows = pq.read_table(sorted((folder / "data").glob(f"{split}-*"))[0]).to_pylist()
        for i, row in enumerate(rows):
            came, pair = json.loads(row["provenance"]), pairs[i]
            index = int(came["proposal"].rpartition("-")[2])
            assert came["parent"] == dataset[index].key
            source = dataset[index].image.open()
            assert pair.source.open().tobytes() == source.tobytes()
            again = pipeline(
                pair.instructions[0], image=source, num_inference_steps=2, guidance_scale=came["guidance"],
                image_guidance_scale=1.5, generator=torch.Generator().manual_seed(came["seed"]),
            ).images[0]  # fmt: skip
            assert pair.target.open().tobytes() == again.convert("RGB").tobytes()
            assert 2 <= came["guidance"] <= 4
            assert came["renderer"]["name"] == "StableDiffusionInstructPix2PixPipeline"
            count += 1
    said = {d[i].captions[0] for d in faces.values() for i in range(len(d))}
    assert count == 2 * len(said)
    assert "editkit build edited.toml" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('"lab:tiny-edit"', '"lab:tiny-clip"'), "is no pipeline of diffusers"),
        (('"lab:tiny-edit"', '"lab:tiny-sd"'), "takes no picture and words; expected an editor"),
        (("steps = 2", "steps = 2\nshare = [0.1, 0.9]"), "share"),
        (('renderer = "editor"', 'renderer = "editr"'), "editr"),
        (('captions = "faces.toml"', 'captions = "lines.txt"'), 'teacher = "chat" knows of none'),
    ],
)
def test_what_cannot_be_rendered_is_one_line(spec: Path, change: tuple[str, str], words: str) -> None:
    Path("lines.txt").write_text("a\n" * 20)
    spec.write_text(spec.read_text().replace(*change))
    with pytest.raises(UserError, match=re.escape(words)):
        stage_of(spec).open()


def test_an_editor_without_image_guidance_says_so(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(self: Any, prompt: str, image: Any, guidance_scale: float, num_inference_steps: int, generator: Any) -> Any: ...

    monkeypatch.setattr(StableDiffusionInstructPix2PixPipeline, "__call__", call)
    with pytest.raises(UserError, match="image_guidance: StableDiffusionInstructPix2PixPipeline has none; take the key out"):
        stage_of(spec).open()


def test_pictures_that_changed_meanwhile_are_refused(spec: Path) -> None:
    stage = stage_of(spec)
    row = {"split": "train", "key": "train-000001", "parent": "somebody-else", "instructions": ["make it red"]}
    with pytest.raises(UserError, match="changed since its captions were read"):
        stage.open()([row])


def test_pictures_are_brought_to_the_size_that_is_asked_for(spec: Path) -> None:
    options = EditorOptions(renderer="editor", model="lab:tiny-edit", samples=1, steps=1, precision="fp32", resolution=32)
    stage = RenderEdits(options, 0, "v", "faces.toml")
    open_dataset("faces.toml", "train")
    (row,) = stage.open()(
        [{"split": "train", "key": "train-000001", "parent": "train-000001", "instructions": ["make it red"]}]
    )
    from editkit.data.pictures import Picture

    assert Picture(data=row["source"]).open().size == Picture(data=row["target"]).open().size == (32, 32)


def test_an_editor_that_draws_differences_is_refused(tiny_editor: Path, tmp_path: Path) -> None:
    parts = load(str(tiny_editor), Options())
    set_drawn(parts, "difference", has_adapter=False)
    StableDiffusionEditor(parts, name="x", resolution=32).save(tmp_path / "model")
    with pytest.raises(UserError, match="draws what is to be added to a picture"):
        InstructionEditor(EditorModel(model=str(tmp_path / "model")), "")
