"""The card says what happened, and nothing that did not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.numpy import save_file

from editkit.models import METADATA
from editkit.publish.export import read_run
from editkit.publish.hub import stage
from tests.publish.finished import make_run, write_metadata
from tests.tiny import picture

EDITOR = "StableDiffusionInstructPix2PixPipeline"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """As much of an editor as the card reads."""
    folder = tmp_path / "stock"
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": EDITOR}))
    return folder


def staged(run: Path) -> Path:
    folder = run.parent / f"{run.name}-staged"
    stage(read_run(str(run)), "tester/editor", folder)
    return folder


def card_of(run: Path) -> ModelCard:
    return ModelCard.load(staged(run) / "README.md")


def test_the_card_says_what_happened(tmp_path: Path, model: Path) -> None:
    card = card_of(make_run(tmp_path / "run", model))
    for words in (
        "by editkit's instruct_edit from lab:tiny-sd on small: 1,000 trained parameters, 6 steps, 48 samples.",
        "On 500 pairs of the test split of small, with 2 steps, text guidance 3, image guidance 1.5, seed 0.",
        "the judge (lab:judges)",
        "| this model | 81.5 % | 96.0 % | 0.020 | 30.0 dB | 0.400 | 0.900 | 500 |",
        "| do nothing | 1.0 % |",
        "| ignore the source | 81.5 % | 30.0 % |",
        "| add | 70.0 % | 95.0 % | 0.030 | 200 |",
        "| keep | - | 99.0 % |",
        "small (12 train, 4 test), sha256 `abc`",
        "2 training examples were skipped",
        "| add | 7 |",
        "| CC BY 4.0 | 16 | An Artist / of pictures |",
        "weakest kind of edit is add: 70.0 % followed, of 200 pairs",
        "1.0 minutes of training on a CPU (cpu, 2 threads), seed 0, finished 2026-01-01T10:02:00+00:00",
        "(small, sha256 `fed`)",
        "editkit 0.1.0, torch 2.13.0",
        "32 x 32 px",
        '"make the \\"hair\\" red"',
    ):
        assert words in card.text, words


def test_the_header_is_what_the_hub_reads(tmp_path: Path, model: Path) -> None:
    data = card_of(make_run(tmp_path / "run", model, base="somebody/base")).data
    assert (data.library_name, data.pipeline_tag, data.datasets) == ("diffusers", "image-to-image", ["small"])
    assert (data.base_model, data.to_dict()["base_model_relation"]) == ("somebody/base", "finetune")
    assert (data.license, data.license_link) == ("other", "LICENSE.md")
    results = {r.metric_type: (r.metric_value, r.dataset_name, r.dataset_split) for r in data.eval_results}
    assert results.pop("followed") == (0.815, "small", "test")
    assert results.keys() == {"kept", "outside_l1", "outside_psnr", "clip_direction", "clip_image"}


def test_a_score_that_is_no_number_is_not_in_the_header(tmp_path: Path, model: Path) -> None:
    run = make_run(tmp_path / "run", model)
    result = json.loads((run / "evaluation" / "scores.json").read_text())
    result["scores"] |= {"outside_psnr": float("inf"), "clip_image": None}
    (run / "evaluation" / "scores.json").write_text(json.dumps(result))
    card = card_of(run)
    assert not {r.metric_type for r in card.data.eval_results} & {"outside_psnr", "clip_image"}
    assert "| inf dB | 0.400 | - | 500 |" in card.text


@pytest.mark.parametrize("base", ["lab:tiny-sd", "", "/home/me/base", "here/base"])
def test_a_base_that_is_not_on_the_hub_is_not_named_as_if_it_were(
    tmp_path: Path, model: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    card = card_of(make_run(tmp_path / "run", model, base=base))
    assert card.data.base_model is None
    known = {"lab:tiny-sd": "from lab:tiny-sd on", "": "from random weights on"}
    assert known.get(base, "from a model in a folder of whoever trained it, which is not on the Hub on") in card.text
    if base not in known:
        assert base not in card.text


def test_the_licences_travel_with_the_weights(tmp_path: Path, model: Path) -> None:
    text = (staged(make_run(tmp_path / "run", model)) / "LICENSE.md").read_text()
    assert "| CC BY 4.0 | 16 | An Artist / of pictures |" in text
    assert "They started from lab:tiny-sd; its licence holds for them as well." in text


def test_the_samples_are_the_first_test_cases(tmp_path: Path, model: Path) -> None:
    folder = staged(make_run(tmp_path / "run", model))
    colours = {colour for _, colour in Image.open(folder / "samples.png").convert("RGB").getcolors(10**6) or ()}
    assert {(255, 0, 0), (0, 128, 0), (0, 0, 255)} <= colours
    assert "(samples.png)" in (folder / "README.md").read_text()


def test_without_scores_it_says_so_and_shows_the_last_preview(tmp_path: Path, model: Path) -> None:
    run = make_run(tmp_path / "run", model, evaluated=False)
    (run / "previews").mkdir()
    for name, colour in (("step-000002", "red"), ("step-000010", "blue"), ("step-000012-grid", "green")):
        picture(colour).save(run / "previews" / f"{name}.png")
    folder = staged(run)
    card = ModelCard.load(folder / "README.md")
    assert "This model has not been evaluated." in card.text
    assert "weakest" not in card.text
    assert card.data.eval_results is None
    assert "last preview of the training" in card.text
    assert (folder / "samples.png").read_bytes() == (run / "previews" / "step-000010.png").read_bytes()


def test_no_picture_is_promised_where_there_is_none(tmp_path: Path, model: Path) -> None:
    folder = staged(make_run(tmp_path / "run", model, evaluated=False))
    assert "samples.png" not in (folder / "README.md").read_text()


def test_an_unfinished_run_with_weights_says_so(tmp_path: Path, model: Path) -> None:
    run = make_run(tmp_path / "run", model, evaluated=False)
    facts = json.loads((run / "run.json").read_text())
    cut = {k: v for k, v in facts.items() if k not in ("steps", "samples", "seconds", "finished")} | {"state": "running"}
    (run / "run.json").write_text(json.dumps(cut))
    text = card_of(run).text
    assert "did not come to its end (state: running)" in text
    for words in ("steps, ", "minutes", "finished"):
        assert words not in text.partition("## Load it")[0] + text.partition("## How it was made")[2]


def test_scores_on_another_data_set_are_named_after_it(tmp_path: Path, model: Path) -> None:
    run = make_run(tmp_path / "run", model)
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('test = ""', 'test = "data_specs/other.toml"'))
    assert "500 pairs of the test split of other," in card_of(run).text
    scores = run / "evaluation" / "scores.json"
    scores.write_text(json.dumps(json.loads(scores.read_text()) | {"data": {"name": "third"}}))
    shutil.rmtree(tmp_path / "run-staged")
    card = card_of(run)
    assert "500 pairs of the test split of third," in card.text
    assert {r.dataset_name for r in card.data.eval_results} == {"third"}


def test_an_adapter_is_called_one_and_its_local_base_stays_unnamed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", None, base="/home/me/base")
    (run / "adapter").mkdir()
    write_metadata(run / "adapter", "/home/me/base")
    import numpy as np

    save_file({"weight": np.zeros((16, 8, 3, 3), np.float32)}, run / "adapter" / "conv_in.safetensors")
    card = card_of(run)
    assert "lora" in card.data.tags
    assert "A LoRA adapter" in card.text
    assert 'from_pretrained("PATH/TO/THE/BASE", safety_checker=None)' in card.text
    assert "Conv2d(8, 16, 3, padding=1)" in card.text
    assert "put your copy of the folder" in card.text
    assert "/home/me" not in card.text


def test_a_text_to_image_model_is_not_called_an_editor(tmp_path: Path, model: Path) -> None:
    (model / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    run = make_run(tmp_path / "run", model, evaluated=False)
    facts = json.loads((run / "run.json").read_text())
    facts["data"] |= {"kind": "captioned_images", "categories": {}}
    (run / "run.json").write_text(json.dumps(facts | {"method": "text_to_image"}))
    (run / "evaluation").mkdir()
    (run / "evaluation" / "scores.json").write_text(json.dumps({"scores": {"attributes": 0.8, "n": 500}}))
    card = card_of(run)
    assert card.data.pipeline_tag == "text-to-image"
    assert 'StableDiffusionPipeline.from_pretrained("tester/editor")' in card.text
    assert EDITOR not in card.text
    assert "image guidance" not in card.text
    assert "| attributes | 80.0 % |" in card.text
    assert [(r.metric_type, r.metric_value) for r in card.data.eval_results] == [("attributes", 0.8)]
    assert (tmp_path / "run-staged" / METADATA).is_file()
