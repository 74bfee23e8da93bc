"""Publishing to a real server on loopback, and loading back what was published with the stock libraries."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi, constants, snapshot_download
from PIL import Image, ImageChops

from editkit.cli import main
from editkit.errors import UserError
from editkit.models import METADATA
from editkit.publish.export import read_run
from editkit.publish.hub import publish, stage
from editkit.recipe.schema import Adapter
from tests.publish.finished import make_run, write_metadata
from tests.publish.hub_server import SECRET, TOKEN, Hub
from tests.tiny import picture

ADAPTERS = [
    *(Adapter(name=name, rank=2, alpha=4) for name in ("lora", "rslora", "dora", "lokr", "loha")),
    Adapter(name="oft", block_size=8),
]


@pytest.fixture(scope="module")
def stock(tiny_editor: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random editor as a run exports it."""
    from editkit.models.editor import load_editor

    folder = tmp_path_factory.mktemp("stock")
    load_editor(str(tiny_editor)).save(folder)
    return folder


@pytest.fixture
def run(workplace: Path, stock: Path) -> Path:
    return make_run(workplace / "runs" / "small-1", stock)


@pytest.fixture
def difference_run(workplace: Path, stock: Path) -> Path:
    """A run whose editor draws what is to be added to the source."""
    from editkit.models.editor import load_editor
    from editkit.models.stable_diffusion.drawn import set_drawn

    editor = load_editor(str(stock))
    set_drawn(editor._parts, "difference", has_adapter=False)
    editor.save(workplace / "difference")
    return make_run(workplace / "runs" / "difference-1", workplace / "difference")


@pytest.fixture
def lora_run(workplace: Path, tiny_sd: Path, request: pytest.FixtureRequest) -> Path:
    """A run that left an adapter for `tiny_sd`, with weights that matter: LoRA, or the one that a test names."""
    from editkit.methods.instruct_edit import InstructEdit
    from editkit.models.stable_diffusion.load import Options, load
    from editkit.recipe.schema import Model
    from tests.methods.test_instruct_edit import recipe

    parts = load(str(tiny_sd), Options())
    model = Model(family="stable_diffusion", base=str(tiny_sd))
    adapter = getattr(request, "param", Adapter(rank=2, alpha=4))
    method = InstructEdit(recipe(adapter=adapter, model=model), InstructEdit.Options(), parts)
    with torch.no_grad():
        for parameter in parts.unet.parameters():
            if parameter.requires_grad:
                parameter.add_(0.03)
    folder = make_run(workplace / "runs" / "lora-1", None, base=str(tiny_sd), adapter=adapter)
    write_metadata(method.export(folder), str(tiny_sd))
    return folder


def noise() -> torch.Tensor:
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def edited_by(run: Path) -> Image.Image:
    """What `editkit edit` makes of the red picture."""
    from editkit.models.editor import load_editor

    settings = {"steps": 3, "text_guidance": 7.5, "image_guidance": 1.5}
    return load_editor(str(run)).edit([picture("red")], ["make the hair red"], **settings)[0]


def assert_same_edit(found: Image.Image, expected: Image.Image) -> None:
    """Equal but for the last rounding: the sums of a convolution may run in another order."""
    assert found.size == expected.size
    worst = max(high for _, high in ImageChops.difference(found, expected).getextrema())
    assert worst <= 1, f"differs by {worst} of 255"


LOAD_AND_EDIT = """
import os, sys, torch
from PIL import Image
for name in sys.argv[1:]:
    os.chdir(name)
    names = {}
    exec(open("lines.py").read(), names)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    names["pipe"](
        "make the hair red", image=Image.open("source.png"), latents=noise, num_inference_steps=3, guidance_scale=7.5,
        image_guidance_scale=1.5,
    ).images[0].save("again.png")
"""


def python_of(card: Path) -> str:
    return card.read_text().partition("```python\n")[2].partition("```")[0]


def test_a_model_goes_up_and_comes_back_equal(run: Path, hub: Hub, tmp_path: Path) -> None:
    from diffusers import StableDiffusionInstructPix2PixPipeline

    assert publish("small-1", "tester/editor") == f"{hub.address}/tester/editor"
    back = Path(snapshot_download("tester/editor", endpoint=hub.address, cache_dir=tmp_path / "back"))
    weights = [p for p in (run / "model").rglob("*") if p.is_file()]
    assert len(weights) > 8
    for path in weights:
        assert (back / path.relative_to(run / "model")).read_bytes() == path.read_bytes()
    assert (back / "recipe.toml").read_bytes() == (run / "recipe.toml").read_bytes()
    assert {"README.md", "LICENSE.md", "samples.png", METADATA} <= {p.name for p in back.iterdir()}
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(back)
    ask = {"image": picture("red"), "latents": noise(), "guidance_scale": 7.5, "image_guidance_scale": 1.5}
    assert_same_edit(pipeline("make the hair red", num_inference_steps=3, **ask).images[0], edited_by(run))
    # The Hub's pages read the header of the weights alone, through a range.
    header = HfApi(endpoint=hub.address).parse_safetensors_file_metadata(
        "tester/editor", "unet/diffusion_pytorch_model.safetensors"
    )
    assert header.parameter_count["F32"] == sum(p.numel() for p in pipeline.unet.parameters())


def test_the_card_says_how_a_difference_is_added(
    workplace: Path, difference_run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import StableDiffusionInstructPix2PixPipeline as Pipeline

    from editkit.models.editor import load_editor

    publish("difference-1", "tester/difference")
    back = snapshot_download("tester/difference", endpoint=hub.address, cache_dir=workplace / "back")
    loaded = Pipeline.from_pretrained(back)
    monkeypatch.setattr(loaded, "prepare_latents", lambda *_: noise() * loaded.scheduler.init_noise_sigma)
    monkeypatch.setattr(Pipeline, "from_pretrained", lambda _: loaded)  # the lines ask the public Hub
    picture("red").save("source.png")
    exec(python_of(Path(back) / "README.md"), {})
    expected = load_editor(str(difference_run)).edit([picture("red")], ['make the "hair" red'])[0]
    assert_same_edit(Image.open("edited.png"), expected)


@pytest.mark.slow
def test_the_loading_lines_of_the_cards_work_in_a_new_process(
    workplace: Path, run: Path, lora_run: Path, tiny_sd: Path, hub: Hub
) -> None:
    expected = {"editor": edited_by(run), "lora": edited_by(lora_run)}
    shutil.copytree(tiny_sd, hub.make("tester/base"), dirs_exist_ok=True)
    write_metadata(lora_run / "adapter", "tester/base")
    publish("small-1", "tester/editor", private=True)
    publish("lora-1", "tester/lora")
    assert hub.private == {"tester/base": False, "tester/editor": True, "tester/lora": False}
    for name in expected:
        (workplace / name).mkdir()
        (workplace / name / "lines.py").write_text(python_of(hub.repo(f"tester/{name}") / "README.md"))
        picture("red").save(workplace / name / "source.png")
    place = {"HF_HOME": str(workplace / "home"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    folders = [str(workplace / name) for name in expected]
    done = subprocess.run(
        [sys.executable, "-c", LOAD_AND_EDIT, *folders], env=os.environ | place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name, edit in expected.items():
        assert_same_edit(Image.open(workplace / name / "again.png"), edit)
        assert Image.open(workplace / name / "edited.png").size == (32, 32)


@pytest.mark.parametrize("lora_run", ADAPTERS, ids=lambda a: a.name, indirect=True)
def test_an_adapter_of_a_lab_model_loads_with_the_cards_lines(
    workplace: Path, lora_run: Path, tiny_sd: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = edited_by(lora_run)
    shutil.copytree(tiny_sd, workplace / "lab" / "tiny-sd")
    monkeypatch.setattr("editkit.models.locate.LAB", workplace / "lab")
    write_metadata(lora_run / "adapter", "lab:tiny-sd")
    publish("lora-1", "tester/lora")
    back = snapshot_download("tester/lora", endpoint=hub.address, cache_dir=workplace / "back")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo: back)  # the lines ask the public Hub
    picture("red").save("source.png")
    names: dict = {}
    exec(python_of(hub.repo("tester/lora") / "README.md"), names)
    ask = {"image": picture("red"), "latents": noise(), "guidance_scale": 7.5, "image_guidance_scale": 1.5}
    assert_same_edit(names["pipe"]("make the hair red", num_inference_steps=3, **ask).images[0], expected)


def test_publishing_again_replaces_what_editkit_published(run: Path, lora_run: Path, hub: Hub) -> None:
    publish("small-1", "tester/mine")
    publish("lora-1", "tester/mine")
    assert hub.files("tester/mine").keys() == {
        ".gitattributes", "LICENSE.md", "README.md", METADATA, "conv_in.safetensors", "pytorch_lora_weights.safetensors",
        "recipe.toml", "samples.png",
    }  # fmt: skip


def test_what_others_put_there_is_left_alone(run: Path, hub: Hub) -> None:
    (hub.make("tester/taken") / "model.bin").write_bytes(b"years of work")
    before = hub.files("tester/taken")
    with pytest.raises(UserError, match='"tester/taken" is taken'):
        publish("small-1", "tester/taken")
    assert hub.files("tester/taken") == before


def test_private_is_never_published_in_public(run: Path, hub: Hub) -> None:
    publish("small-1", "tester/closed", private=True)
    assert hub.private == {"tester/closed": True}
    hub.make("tester/open")
    with pytest.raises(UserError, match="there already and public"):
        publish("small-1", "tester/open", private=True)
    assert hub.files("tester/open").keys() == {".gitattributes"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"repo": "no-user"}, "expected USER/NAME, such as me/no-user"),
        ({"repo": "tester/two--dashes"}, "expected USER/NAME"),
        ({"repo": "a/b/c"}, "expected USER/NAME"),
        ({"repo": "somebody-else/editor"}, "refused (403): the token may not write there"),
        ({"HF_TOKEN": f"hf_another_{SECRET}"}, "refused (401): the token is not valid"),
        ({"HF_TOKEN": f"hf_{SECRET}_é"}, "characters that no token has"),
        ({"HF_TOKEN": ""}, "found no token"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, 'failed (ConnectError); "tester/editor" was not made'),
        ({"HF_ENDPOINT": "huggingface.co"}, "failed (UnsupportedProtocol)"),
        ({"fail": 507}, 'refused (507): try again later; nothing was written to "tester/editor"'),
        ({"fail": "cut"}, 'nothing was written to "tester/editor"; try again'),
        ({"large": True}, 'failed (ConnectionError); nothing was written to "tester/editor"; try again'),
    ],
)
def test_what_goes_wrong_is_one_line_without_the_token(
    run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture,
    tmp_path: Path, change: dict, words: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))  # whoever runs the tests may be logged in
    hub.fail_commit, hub.large = change.get("fail"), "large" in change
    for name in ("HF_TOKEN", "HF_ENDPOINT"):
        if name in change:
            monkeypatch.setenv(name, change[name])
    with caplog.at_level(logging.DEBUG), pytest.raises(SystemExit) as left:
        main(["publish", "small-1", "--repo", change.get("repo", "tester/editor")])
    shown = capfd.readouterr()
    assert left.value.code == 2
    assert words in shown.err.splitlines()[-1]
    assert "Traceback" not in shown.err
    assert SECRET not in shown.out + shown.err + caplog.text
    assert all(set(hub.files(name)) == {".gitattributes"} for name in hub.private)
    assert not list(run.glob(".publish-*"))


def test_a_failed_upload_goes_through_when_tried_again(run: Path, hub: Hub) -> None:
    hub.fail_commit = "cut"
    with pytest.raises(UserError):
        publish("small-1", "tester/editor")
    hub.fail_commit = None
    publish("small-1", "tester/editor")
    assert "README.md" in hub.files("tester/editor")


def test_offline_is_said(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.utils.close_session()
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        publish("small-1", "tester/editor")
    assert hub.requests == []


def test_no_log_and_no_file_holds_the_token(
    run: Path, hub: Hub, workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(constants, "HF_DEBUG", True)  # the library then logs every request
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    caplog.set_level(logging.DEBUG, logger="huggingface_hub")
    with caplog.at_level(logging.DEBUG), pytest.raises(SystemExit) as left:
        main(["publish", "small-1", "--repo", "tester/editor"])
    assert left.value.code == 0
    shown = capfd.readouterr()
    assert shown.out == f"{hub.address}/tester/editor\n"
    assert "authorization: <token>" in caplog.text.lower()
    assert SECRET not in shown.out + shown.err + caplog.text
    files = [p for p in workplace.rglob("*") if p.is_file()]  # the run, and all that the server got
    assert len(files) > 20
    assert not [p for p in files if SECRET.encode() in p.read_bytes()]


def test_a_token_pasted_into_the_recipe_is_not_published(run: Path, hub: Hub) -> None:
    recipe = run / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('description = ""', f'description = "{TOKEN}"'))
    assert TOKEN in recipe.read_text()
    with pytest.raises(UserError, match=r"recipe.toml holds your token") as caught:
        publish("small-1", "tester/editor")
    assert SECRET not in str(caught.value)
    assert hub.requests == []


def test_a_dry_run_writes_what_would_go_up_and_asks_nobody(
    run: Path, hub: Hub, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    for _ in range(2):  # the second replaces the first
        folder = Path(publish("small-1", "tester/editor", dry_run=True))
    assert hub.requests == []
    said = capsys.readouterr().out
    for name in ("README.md", "recipe.toml", "unet/diffusion_pytorch_model.safetensors"):
        assert (folder / name).is_file()
        assert said.count(f"{(folder / name).stat().st_size:,}  {name}\n") == 2
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    publish("small-1", "tester/editor")
    staged = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert {k: v for k, v in hub.files("tester/editor").items() if k != ".gitattributes"} == staged


def test_a_run_without_weights_for_diffusers_is_refused(workplace: Path, stock: Path, tmp_path: Path, hub: Hub) -> None:
    make_run(workplace / "runs" / "cut-1", None)
    make_run(workplace / "runs" / "judge-1", stock / "vae")
    make_run(workplace / "runs" / "torn-1", stock)
    (workplace / "runs" / "torn-1" / "model" / METADATA).unlink()
    for name, words in (("cut-1", "has not come to its end"), ("judge-1", "no model_index.json"), ("torn-1", "--resume")):
        with pytest.raises(UserError, match=words):
            publish(name, "tester/editor")
    assert hub.requests == []


def test_the_stage_leaves_the_run_as_it_was(run: Path, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    stage(read_run("small-1"), "tester/editor", tmp_path / "staging")
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
