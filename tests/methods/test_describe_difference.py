"""Describing a difference against transformers' own loss, and on pairs whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, VisionEncoderDecoderModel

from editkit.data.draws import Draws
from editkit.data.examples import EditPair
from editkit.errors import UserError
from editkit.lab.avatar_edits import sample_edits
from editkit.methods.describe_difference import DescribeDifference
from editkit.models.difference_captioner.load import CaptionerParts, stack_pictures
from editkit.recipe.schema import Data, Evaluate, Model
from tests.methods.test_instruct_edit import recipe
from tests.tiny import TEXTS, tiny_captioner

CHOSEN = recipe(model=Model(family="difference_captioner"), evaluate=Evaluate(pairs=8, preview_pairs=8, batch_size=3))
AVATARS = sample_edits(8, seed=11, split="train", size=32)


def make(parts: CaptionerParts, world: str = "", forgotten: float = 0.0) -> DescribeDifference:
    return DescribeDifference(CHOSEN, DescribeDifference.Options(world=world, forgotten=forgotten), parts)


def batch(method: DescribeDifference, rows: slice = slice(4)) -> dict:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (4, 2, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return method.encode(pixels[rows]) | {"text": TEXTS[:4][rows]}


def test_the_loss_is_transformers_own_of_each_example() -> None:
    parts = tiny_captioner()
    method = make(parts)
    given = batch(method)
    expected = []
    for pictures, text in zip(stack_pictures(given["pictures"]), given["text"], strict=True):
        labels = parts.tokenizer(text, return_tensors="pt").input_ids[:, 1:]  # it puts the beginning in front itself
        expected.append(parts.model(pixel_values=pictures[None], labels=labels).loss)
    found = method.loss(given, Draws(0, range(4))).value
    assert found.item() == pytest.approx(torch.stack(expected).mean().item(), abs=1e-5)


def test_a_step_in_two_parts_is_the_same_step() -> None:
    method = make(tiny_captioner(), forgotten=0.5)
    whole = method.loss(batch(method), Draws(5, range(4))).value
    parts = [method.loss(batch(method, slice(i, i + 2)), Draws(5, range(i, i + 2))).value for i in (0, 2)]
    assert whole.item() == pytest.approx(torch.stack(parts).mean().item(), abs=1e-5)


def test_forgotten_words_are_hidden_from_those_behind_them_and_still_asked_for() -> None:
    parts = tiny_captioner()
    losses = {}
    for share in (0.0, 1.0):
        method = make(parts, forgotten=share)
        losses[share] = method.loss(batch(method), Draws(0, range(4))).value.item()
    method = make(parts)
    given = batch(method)
    blind = []
    for pictures, text in zip(stack_pictures(given["pictures"]), given["text"], strict=True):
        labels = parts.tokenizer(text, return_tensors="pt").input_ids[:, 1:]
        inputs = torch.full_like(labels, parts.tokenizer.pad_token_id)
        inputs[:, 0] = parts.tokenizer.bos_token_id
        logits = parts.model(pixel_values=pictures[None], decoder_input_ids=inputs).logits
        blind.append(torch.nn.functional.cross_entropy(logits[0], labels[0]))
    assert losses[1.0] == pytest.approx(torch.stack(blind).mean().item(), abs=1e-5)
    assert losses[1.0] != pytest.approx(losses[0.0], abs=1e-4)


@pytest.fixture(scope="module")
def learned() -> DescribeDifference:
    """A captioner that has learned a few pairs by heart."""
    texts = sorted({text for pair in AVATARS for text in pair.instructions})
    method = make(tiny_captioner(texts), world="avatars")
    optimizer = torch.optim.AdamW(method.trainable.parameters(), lr=3e-3)
    pixels = torch.stack([torch.stack([_pixels(p.open()) for p in method.pictures_of(pair)]) for pair in AVATARS])
    given = method.encode(pixels) | {"text": [method.texts_of(pair)[0] for pair in AVATARS]}
    method.trainable.train()
    for step in range(150):
        loss = method.loss(given, Draws(step, range(len(AVATARS)))).value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    method.trainable.eval()
    assert loss.item() < 0.1
    return method


def _pixels(image: Image.Image) -> torch.Tensor:
    import numpy as np

    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


class _Pairs(list[EditPair]):
    info: dict = {}


def test_what_it_has_learned_it_says_and_it_knows_others_words_for_wrong(learned: DescribeDifference, tmp_path: Path) -> None:
    result = learned.evaluate(_Pairs(AVATARS), tmp_path)
    scores = result["scores"]
    assert (scores["means_the_same"], scores["exact"], scores["n"]) == (1.0, 1.0, 8)
    assert scores["most_frequent"] < 0.5
    assert (scores["agreement_auc"], scores["false_alarms"]) == (1.0, 0.0)
    assert scores["caught"] > 0
    assert set(result["by_category"].values()) == {1.0}
    json.dumps(result)


def test_the_preview_shows_both_pictures_of_every_pair(learned: DescribeDifference, tmp_path: Path) -> None:
    scores = learned.preview(_Pairs(AVATARS), tmp_path, 7)["scores"]
    assert scores["means_the_same"] == 1.0
    with Image.open(tmp_path / "step-000007.png") as sheet:
        assert sheet.width > 4 * 2 * 32
        assert len(sheet.getcolors(100_000)) > 20
    backwards = [EditPair(p.key, p.target, p.source, p.instructions, p.category) for p in AVATARS]
    assert "[" in learned._marked(AVATARS[0], "something else")
    assert "[" not in learned._marked(AVATARS[0], AVATARS[0].instructions[0])
    assert learned._describe(backwards) != learned._describe(AVATARS)


def test_what_is_exported_is_loaded_by_the_stock_class(learned: DescribeDifference, tmp_path: Path) -> None:
    folder = learned.export(tmp_path)
    model = VisionEncoderDecoderModel.from_pretrained(folder).eval()
    tokens = model.generate(pixel_values=learned._stack(AVATARS))
    said = AutoTokenizer.from_pretrained(folder).batch_decode(tokens, skip_special_tokens=True)
    assert [text.replace(" ", "") for text in said] == [pair.instructions[0].replace(" ", "") for pair in AVATARS]


def test_a_recipe_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match='world: found "moon"'):
        make(tiny_captioner(), world="moon")
    other = CHOSEN.model_copy(update={"data": Data(train="nowhere", resolution=64)})
    with pytest.raises(UserError, match="resolution: found 64; this captioner sees 32 px"):
        DescribeDifference(other, DescribeDifference.Options(), tiny_captioner())
