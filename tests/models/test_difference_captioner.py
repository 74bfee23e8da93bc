"""What a captioner is shown, how it speaks and measures words, and what the stock library loads of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, VisionEncoderDecoderModel

from editkit.errors import UserError
from editkit.lab.avatar_edits import sample_edits
from editkit.models.difference_captioner.captioner import IGNORED, DifferenceCaptioner, mean_loss, tidy, token_labels
from editkit.models.difference_captioner.load import CaptionerParts, Options, load, stack_pictures
from tests.tiny import TEXTS, picture, tiny_captioner

COLOURS = ["red", "blue", "lime"]


@pytest.fixture(scope="module")
def parts() -> CaptionerParts:
    return tiny_captioner()


@pytest.fixture(scope="module")
def shown(parts: CaptionerParts) -> torch.Tensor:
    return DifferenceCaptioner(parts).stack([(picture("black"), picture(colour, (80, 40))) for colour in COLOURS])


def test_source_target_and_their_difference_are_stacked() -> None:
    pixels = torch.randint(0, 256, (2, 2, 3, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    stacked = stack_pictures(pixels)
    assert stacked.shape == (2, 9, 4, 4)
    assert stacked.abs().max() <= 1
    torch.testing.assert_close(stacked[:, 3:6] - stacked[:, :3], 2 * stacked[:, 6:])
    torch.testing.assert_close((stacked[:, :3] + 1) * 127.5, pixels[:, 0].float(), atol=1e-4, rtol=0)


def test_pictures_of_any_size_become_the_networks(shown: torch.Tensor) -> None:
    assert shown.shape == (3, 9, 32, 32)
    assert shown[0, 3:6, 20, 20].tolist() == [1.0, -1.0, -1.0]


def test_what_the_tokenizer_takes_apart_is_put_together_again() -> None:
    texts = {text for pair in sample_edits(60, seed=9, split="train", size=16) for text in pair.instructions}
    tokenizer = tiny_captioner(sorted(texts)).tokenizer
    assert any(mark in text for text in texts for mark in ";:")
    for text in texts:
        assert tidy(tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)) == text


@given(st.lists(st.sampled_from(["make", "it", "red,", "then", "both:", "blue;", "green."]), min_size=1).map(" ".join))
def test_tidying_what_is_tidy_changes_nothing(text: str) -> None:
    assert tidy(text) == text


def test_labels_end_with_the_end_and_ignore_what_is_behind(parts: CaptionerParts) -> None:
    labels = token_labels(parts, ["make the hair red", "add"])
    end = parts.tokenizer.eos_token_id
    assert (labels == end).sum(1).tolist() == [1, 1]
    assert labels[0, -1] == end
    assert set(labels[1, (labels[1] == end).nonzero()[0, 0] + 1 :].tolist()) == {IGNORED}


def test_the_loss_of_a_text_does_not_depend_on_its_company(parts: CaptionerParts, shown: torch.Tensor) -> None:
    together = mean_loss(parts, {"pixel_values": shown}, token_labels(parts, TEXTS[:3]))
    alone = [mean_loss(parts, {"pixel_values": shown[[i]]}, token_labels(parts, TEXTS[i : i + 1])) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_agreement_is_the_chance_of_the_own_pair_against_the_others(parts: CaptionerParts, shown: torch.Tensor) -> None:
    found = DifferenceCaptioner(parts).agreement(shown, ["make the hair red", "", "add a beard"])
    assert found[1] is None
    for i, text in ((0, "make the hair red"), (2, "add a beard")):
        tokens = parts.tokenizer(text, return_tensors="pt").input_ids[:, 1:].expand(3, -1)
        logits = parts.model(pixel_values=shown, labels=tokens).logits.log_softmax(-1)
        own, *others = logits.gather(2, tokens[:, :, None]).sum((1, 2)).exp().roll(-i).tolist()
        assert found[i] == pytest.approx(own / (own + sum(others) / 2), abs=1e-5)


def test_agreement_does_not_depend_on_what_all_pairs_make_unlikely(parts: CaptionerParts, shown: torch.Tensor) -> None:
    twins = shown[:1].expand(4, -1, -1, -1)
    assert DifferenceCaptioner(parts).agreement(twins, ["add a beard", "zyx", "", "red"]) == [
        pytest.approx(0.5, abs=1e-4), pytest.approx(0.5, abs=1e-4), None, pytest.approx(0.5, abs=1e-4),
    ]  # fmt: skip
    assert DifferenceCaptioner(parts).agreement(shown[:1], ["add a beard"]) == [None]


def test_the_stock_class_loads_it_and_says_the_same(parts: CaptionerParts, shown: torch.Tensor, tmp_path: Path) -> None:
    parts.save(tmp_path)
    model = VisionEncoderDecoderModel.from_pretrained(tmp_path).eval()
    tokens = model.generate(pixel_values=shown)
    texts = [tidy(text) for text in AutoTokenizer.from_pretrained(tmp_path).batch_decode(tokens, skip_special_tokens=True)]
    assert texts == DifferenceCaptioner(parts).describe(shown)
    again = DifferenceCaptioner(load(str(tmp_path), Options()))
    assert again.describe(shown) == texts


def test_a_model_that_is_no_captioner_is_refused(parts: CaptionerParts, tiny_sd: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither base nor width"):
        load("", Options())
    with pytest.raises(UserError, match="cannot be loaded as a difference captioner"):
        load(str(tiny_sd / "text_encoder"), Options())
    parts.save(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"num_channels": 9', '"num_channels": 3'))
    with pytest.raises(UserError, match="captioner: found 3 channels; expected 9"):
        load(str(tmp_path), Options())
