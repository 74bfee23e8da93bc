"""The detector for real pictures: its post-processing by hand, and the real classes at a tiny random size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor, SwinConfig

from editkit.errors import UserError
from editkit.evaluate.benches.geneval import score_folder, write_prompt_folders, write_sample
from editkit.evaluate.benches.geneval_rules import COLOURS, Detection
from editkit.evaluate.benches.geneval_summary import summarise
from editkit.evaluate.benches.mask2former import Mask2FormerDetector, crop_object, instances
from editkit.models.clip.load import Options as ClipOptions
from editkit.models.clip.load import load as load_clip_parts

LABELS = {0: "apple", 1: "mouse", 2: "remote"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("detector")
    torch.manual_seed(0)
    swin = SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=32,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=32, num_queries=8, id2label=LABELS,
    )  # fmt: skip
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder / "objects")
    Mask2FormerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "objects")
    texts = [f"a photo of a {c} apple" for c in COLOURS]
    load_clip_parts("", ClipOptions(width=16, layers=1, heads=2, size=32, vocab_size=600), lambda: texts).save(folder / "clip")
    return str(folder / "objects"), str(folder / "clip")


def test_instances_worked_out_by_hand() -> None:
    class_logits_QC = torch.tensor([[8.0, 0.0, 0.0], [0.0, 0.0, 8.0], [0.0, 1.0, 0.0]])  # apple; nothing; likely a cat
    masks_QHW = torch.full((3, 6, 8), -9.0)
    masks_QHW[0, 1:3, 2:5] = 9.0
    masks_QHW[2, 4:, :] = 0.5
    found = instances(class_logits_QC, masks_QHW, ["apple", "cat"])
    apple, cat = (next(d for d in found if d.name == name) for name in ("apple", "cat"))
    assert apple.box == (2, 1, 5, 3)
    assert apple.mask is not None
    assert apple.mask.sum() == 6
    assert apple.score == pytest.approx(0.99933 * 0.99988, abs=1e-4)  # softmax(8, 0, 0) x sigmoid(9)
    assert cat.box == (0, 4, 8, 6)
    assert cat.score == pytest.approx(0.57612 * 0.62246, abs=1e-4)  # softmax(0, 1, 0) x sigmoid(0.5)


def test_a_query_without_pixels_is_no_object() -> None:
    assert instances(torch.zeros(2, 3), torch.full((2, 4, 4), -1.0), ["apple", "cat"]) == []


def test_what_is_not_the_object_is_painted_grey() -> None:
    image = Image.new("RGB", (8, 6), "red")
    mask_HW = np.zeros((6, 8), dtype=bool)
    mask_HW[2:4, 3:5] = True
    crop = crop_object(image, Detection("apple", (2, 1, 6, 5), 0.9, mask_HW))
    assert crop.size == (4, 4)
    assert crop.getpixel((0, 0)) == (0x99, 0x99, 0x99)
    assert crop.getpixel((1, 1)) == (255, 0, 0)
    assert crop_object(image, Detection("apple", (2, 1, 6, 5), 0.9)).getpixel((0, 0)) == (255, 0, 0)


def test_the_real_classes_at_a_tiny_size(tiny: tuple[str, str], tmp_path: Path) -> None:
    detector = Mask2FormerDetector(*tiny)
    assert detector.classes == {"apple", "computer mouse", "tv remote"}  # GenEval's words for COCO's
    assert all(part in detector.name for part in tiny)
    image = Image.effect_noise((96, 48), 80).convert("RGB")
    found = detector.detect(image)
    assert found
    for detection in found:
        assert detection.mask is not None
        assert detection.mask.shape == (48, 96)
        assert 0 <= detection.score <= 1
    assert set(detector.colours(image, found[:3])) <= set(COLOURS)
    assert detector.colours(image, []) == []
    asked = {"tag": "colors", "include": [{"class": "apple", "count": 1, "color": "red"}], "prompt": "a photo of a red apple"}
    (samples,) = write_prompt_folders(tmp_path, [asked])
    write_sample(samples, 0, image)
    assert 0 <= summarise(score_folder(tmp_path, detector))["overall"] <= 1


def test_the_colour_of_most_templates_wins(tiny: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A crop that is as one colour's texts, in the space of the encoder, has that colour."""
    detector = Mask2FormerDetector(*tiny)
    wanted = detector._of_class("apple")[COLOURS.index("purple")]
    assert torch.allclose(detector._of_class("apple").norm(dim=1), torch.ones(len(COLOURS)))
    monkeypatch.setattr(type(detector._clip), "images", lambda self, images: wanted.expand(len(images), -1))
    two = [Detection("apple", (0, 0, 4, 4), 0.9), Detection("apple", (2, 2, 8, 8), 0.8)]
    assert detector.colours(Image.new("RGB", (8, 8)), two) == ["purple", "purple"]


def test_what_is_no_detector_and_what_is_missing_are_one_line(
    tiny: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="cannot be loaded as a Mask2Former"):
        Mask2FormerDetector(str(tmp_path), tiny[1]).detect(Image.new("RGB", (8, 8)))

    def without_scipy(*args: object, **kwargs: object) -> None:
        raise ImportError("Mask2FormerLoss requires the scipy library")

    monkeypatch.setattr(Mask2FormerForUniversalSegmentation, "from_pretrained", without_scipy)
    with pytest.raises(UserError, match=r"found no scipy.*editkit\[geneval\]"):
        Mask2FormerDetector(*tiny).detect(Image.new("RGB", (8, 8)))
