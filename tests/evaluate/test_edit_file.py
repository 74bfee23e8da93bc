"""`editkit edit`: from a file and a sentence to a file, as the stock pipeline would have it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from PIL import Image

from editkit.cli import main
from tests.tiny import picture


def edit(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["edit", *arguments])
    return left.value.code


def test_it_equals_the_stock_pipeline_on_the_exported_model(workplace: Path, tiny_editor: Path) -> None:
    picture("red").save("red.png")
    settings = ["--steps", "4", "--text-guidance", "5", "--image-guidance", "1.4", "--seed", "9"]
    assert edit("red.png", "make the hair red", "--run", str(tiny_editor), *settings) == 0
    stock = StableDiffusionInstructPix2PixPipeline.from_pretrained(tiny_editor)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(9 * 1_000_003))
    expected = stock(
        "make the hair red", image=Image.open("red.png"), latents=noise, num_inference_steps=4, guidance_scale=5.0,
        image_guidance_scale=1.4, output_type="np",
    ).images[0]  # fmt: skip
    found = torch.tensor(list(Image.open("red-edit.png").getdata())).view(32, 32, 3) / 255
    torch.testing.assert_close(found, torch.from_numpy(expected).float(), atol=1e-3 + 0.5 / 255, rtol=0)


@pytest.mark.parametrize("name", ["out.jpg", "out.webp", "deep/out.png"])
def test_the_ending_says_the_format(name: str, workplace: Path, tiny_editor: Path) -> None:
    Path("deep").mkdir()
    picture("red", (50, 32)).save("red.png")
    assert edit("red.png", "make it blue", "--run", str(tiny_editor), "--steps", "1", "-o", name) == 0
    assert Image.open(name).size == (32, 32)


@pytest.mark.parametrize(
    ("out", "words"), [("out.doc", 'found the ending ".doc"'), ("nowhere/out.png", "nowhere: no such folder")]
)
def test_a_place_that_cannot_be_written_is_said_before_any_work(
    out: str, words: str, workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    picture("red").save("red.png")
    assert edit("red.png", "make it blue", "--run", "lab:tiny-edit", "-o", out) == 2
    assert words in capsys.readouterr().err
    assert list(Path().glob("**/out.*")) == []
