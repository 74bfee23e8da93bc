"""Publishing to a real server on loopback, and loading back what was published with the stock libraries."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard, constants, snapshot_download

from editkit.errors import UserError
from editkit.models import METADATA
from editkit.publish.hub import publish
from tests.publish.hub_server import Hub, serving
from tests.tiny import picture

TOKEN = "hf_planted0secret0token0planted0secret"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.utils.close_session()  # it was made while offline
    with serving(tmp_path / "hub", TOKEN) as server:
        yield server
    huggingface_hub.utils.close_session()


def make_run(folder: Path, model: Path | None, *, evaluated: bool = True) -> Path:
    """A finished run, as the training leaves it."""
    folder.mkdir(parents=True)
    if model is not None:
        shutil.copytree(model, folder / "model")
    facts = {
        "format": 1, "name": "small", "method": "instruct_edit", "base": "lab:tiny-sd", "seed": 0, "state": "done",
        "trained_parameters": 1000, "steps": 6, "samples": 48, "seconds": 61.0, "started": "2026-01-01T10:00:00+00:00",
        "finished": "2026-01-01T10:02:00+00:00",
        "data": {
            "name": "small", "kind": "edit_pairs", "sha256": "abc", "counts": {"train": 12, "test": 4}, "skipped": 2,
            "licences": {"CC BY 4.0": {"count": 16, "credit": "An Artist"}}, "categories": {"train": {"add": 7, "colour": 5}},
        },
        "versions": {"editkit": "0.1.0", "torch": torch.__version__},
        "machine": {"name": "a CPU", "device": "cpu", "threads": 2},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(facts))
    (folder / "recipe.toml").write_text('name = "small"\n')
    metadata = {
        "format": 1, "method": "instruct_edit", "base": "lab:tiny-sd", "prepare": {"resolution": 32, "crop": "center"},
        "sampling": {"steps": 2, "text_guidance": 3.0, "image_guidance": 1.5},
    }  # fmt: skip
    if model is not None:
        (folder / "model" / METADATA).write_text(json.dumps(metadata))
    if evaluated:
        row = {
            "followed": 0.815,
            "kept": 0.96,
            "outside_l1": 0.02,
            "outside_psnr": 30.0,
            "clip_direction": 0.4,
            "clip_image": 0.9,
            "n": 500,
        }
        images = folder / "evaluation" / "images"
        images.mkdir(parents=True)
        for role in ("source", "edit", "target"):
            picture("red").save(images / f"a-{role}.png")
        scores = {
            "scores": row | {"by_category": {}, "by_attribute": {}},
            "baselines": {"do_nothing": row | {"followed": 0.01}, "ignore_source": row | {"kept": 0.3}},
            "settings": {"judge": "lab:judges", "steps": 2, "text_guidance": 3.0, "image_guidance": 1.5, "seed": 0},
        }
        (folder / "evaluation" / "scores.json").write_text(json.dumps(scores))
        example = {"instruction": "make it red", **{r: f"images/a-{r}.png" for r in ("source", "edit", "target")}}
        (folder / "evaluation" / "examples.jsonl").write_text(json.dumps(example) + "\n")
    return folder


@pytest.fixture
def run(workplace: Path, tiny_editor: Path) -> Path:
    from editkit.models.editor import load_editor

    load_editor(str(tiny_editor)).save(workplace / "stock")
    return make_run(workplace / "runs" / "small-1", workplace / "stock")


def test_a_model_goes_up_and_comes_back_equal(run: Path, hub: Hub, tmp_path: Path) -> None:
    from diffusers import StableDiffusionInstructPix2PixPipeline

    url = publish("small-1", "tester/editor", endpoint=hub.address)
    assert url.startswith(hub.address)
    back = Path(snapshot_download("tester/editor", endpoint=hub.address, cache_dir=tmp_path / "back"))
    for path in (run / "model").rglob("*"):
        if path.is_file() and path.name != "README.md":
            assert (back / path.relative_to(run / "model")).read_bytes() == path.read_bytes()
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(back)
    made = pipeline("make it red", image=picture("red"), num_inference_steps=2, guidance_scale=3.0).images[0]
    assert made.size == (32, 32)


def test_the_card_says_what_happened(run: Path, hub: Hub) -> None:
    publish("small-1", "tester/editor", endpoint=hub.address)
    card = ModelCard.load(hub.repo("tester/editor") / "README.md")
    results = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert results["followed"] == 0.815
    for words in (
        "On 500 unseen pairs", "81.5 %", "do nothing", "1.0 %", "ignore the source", "30.0 %", "An Artist", "CC BY 4.0",
        "| add | 7 |",
        "2 were skipped", "1.0 minutes", "a CPU", "from_pretrained",
    ):  # fmt: skip
        assert words in card.text, words
    assert (hub.repo("tester/editor") / "samples.png").is_file()


def test_a_run_without_scores_says_so(workplace: Path, tiny_editor: Path, hub: Hub) -> None:
    make_run(workplace / "runs" / "bare-1", tiny_editor, evaluated=False)
    publish("bare-1", "tester/bare", endpoint=hub.address)
    assert "This model has not been evaluated." in (hub.repo("tester/bare") / "README.md").read_text()


def test_the_loading_lines_of_an_adapter_work(
    workplace: Path, tiny_sd: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from editkit.methods.instruct_edit import InstructEdit
    from editkit.models.editor import load_editor
    from editkit.models.stable_diffusion.load import Options, load
    from editkit.recipe.schema import Adapter, Model
    from tests.methods.test_instruct_edit import recipe

    parts = load(str(tiny_sd), Options())
    method = InstructEdit(
        recipe(adapter=Adapter(rank=2, alpha=4), model=Model(family="stable_diffusion", base=str(tiny_sd))),
        InstructEdit.Options(), parts,
    )  # fmt: skip
    with torch.no_grad():
        for p in parts.unet.parameters():
            if p.requires_grad:
                p.add_(0.03)
    run = make_run(workplace / "runs" / "lora-1", None)
    method.export(run)
    sampling = {"steps": 2, "text_guidance": 3.0, "image_guidance": 1.5}
    facts = {"name": "lora", "base": str(tiny_sd), "prepare": {"resolution": 32}, "sampling": sampling}
    (run / "adapter" / METADATA).write_text(json.dumps(facts))
    publish("lora-1", "tester/lora", endpoint=hub.address)

    text = (hub.repo("tester/lora") / "README.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    back = snapshot_download("tester/lora", endpoint=hub.address, cache_dir=workplace / "back")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo: back)
    names: dict = {}
    exec(code, names)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    ask = {"image": picture("red"), "num_inference_steps": 3, "guidance_scale": 7.5, "image_guidance_scale": 1.5}
    found = names["pipe"]("make the hair red", latents=noise, **ask).images[0]
    expected = load_editor(str(run)).edit(
        [picture("red")], ["make the hair red"], steps=3, text_guidance=7.5, image_guidance=1.5
    )[0]
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repo": "no-user"}, "expected USER/NAME"),
        ({"repo": "somebody-else/editor"}, "403"),
        ({"token": "hf_another_planted0secret"}, "401"),
        ({"endpoint": "http://127.0.0.1:9"}, "cannot be reached"),
        ({"fail": 507}, "507"),
    ],
)
def test_what_goes_wrong_is_one_line_without_the_token(
    run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, change: dict, message: str
) -> None:
    if "token" in change:
        monkeypatch.setenv("HF_TOKEN", change["token"])
    hub.fail_commit_with = change.get("fail")
    with pytest.raises(UserError, match=message) as caught:
        publish("small-1", change.get("repo", "tester/editor"), endpoint=change.get("endpoint", hub.address))
    shown = "".join([str(caught.value), *capfd.readouterr(), str(caught.value.__cause__)])
    assert "planted0secret" not in shown
    assert "\n" not in str(caught.value)


def test_no_token_is_said_and_no_file_holds_one(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    publish("small-1", "tester/editor", endpoint=hub.address)
    for path in [*run.rglob("*"), *hub.root.rglob("*")]:
        if path.is_file():
            assert TOKEN.encode() not in path.read_bytes(), path
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("editkit.publish.hub.get_token", lambda: None)
    with pytest.raises(UserError, match="found no token"):
        publish("small-1", "tester/editor", endpoint=hub.address)


def test_a_dry_run_writes_the_folder_and_asks_nobody(run: Path, hub: Hub) -> None:
    folder = Path(publish("small-1", "tester/editor", dry_run=True, endpoint=hub.address))
    assert (folder / "README.md").is_file()
    assert (folder / "unet").is_dir()
    assert hub.requests == []


def test_an_unfinished_run_is_refused(workplace: Path, hub: Hub) -> None:
    make_run(workplace / "runs" / "cut-1", None)
    with pytest.raises(UserError, match="has not come to its end"):
        publish("cut-1", "tester/editor", endpoint=hub.address)
