"""What followed and kept mean, on pictures whose truth is known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from PIL import Image

from editkit.errors import UserError
from editkit.evaluate.judge import edited_attributes, load_judge, outside_error, score_captions, score_edits, summarise
from editkit.evaluate.metrics import psnr
from editkit.lab.avatar_edits import sample_avatars, sample_edits
from tests.tiny import picture


@pytest.fixture(scope="module")
def pairs() -> list:
    return sample_edits(40, seed=21, split="test", size=64)


@pytest.fixture(scope="module")
def judge():
    return load_judge("lab:judges")


def test_data_of_another_world_are_refused_in_one_line(judge, pairs: list) -> None:
    other = dataclasses.replace(pairs[0], source_facts={"graph": "a"}, target_facts={"graph": "b"})
    with pytest.raises(UserError, match=r'found the fact "graph" in the data, which evaluate\.judge does not read'):
        score_edits(judge, [other], [other.source.open()])
    (example,) = sample_avatars(1, seed=5)
    with pytest.raises(UserError, match="expected data of its own world"):
        score_captions(judge, [dataclasses.replace(example, facts={"tag": "counting"})], [example.image.open()])


def test_the_reader_reads_real_renders(judge) -> None:
    examples = sample_avatars(150, seed=5)
    readings = judge.read([e.image.open() for e in examples])
    marks = [reading[n] == v for e, reading in zip(examples, readings, strict=True) for n, v in e.facts.items()]
    assert np.mean(marks) >= 0.99


def test_the_encoder_finds_the_right_caption(judge) -> None:
    examples = sample_avatars(60, seed=6)
    similarity = judge.clip.images([e.image.open() for e in examples]) @ judge.clip.texts([e.captions[0] for e in examples]).T
    assert (similarity.argmax(1).numpy() == np.arange(60)).mean() >= 0.9


def test_the_target_scores_full_and_the_source_follows_nothing(judge, pairs: list) -> None:
    perfect = summarise(pairs, score_edits(judge, pairs, [p.target.open() for p in pairs]))
    idle = summarise(pairs, score_edits(judge, pairs, [p.source.open() for p in pairs]))
    assert perfect["followed"] >= 0.98
    assert perfect["kept"] >= 0.99
    assert perfect["outside_l1"] == idle["outside_l1"] == 0.0
    assert idle["followed"] <= 0.02
    assert idle["kept"] >= 0.99
    assert perfect["clip_direction"] > 0.2
    assert idle["clip_image"] == pytest.approx(1.0, abs=1e-4)


def test_another_picture_keeps_little(judge, pairs: list) -> None:
    others = summarise(pairs, score_edits(judge, pairs, [p.source.open() for p in pairs[1:] + pairs[:1]]))
    assert others["kept"] < 0.6
    assert others["outside_l1"] > 0.05


def test_what_is_wrong_is_said_in_words(judge, pairs: list) -> None:
    pair = next(p for p in pairs if p.category == "background")
    (score,) = score_edits(judge, [pair], [pair.source.open()])
    assert score.wrong == (f"background: {pair.source_facts['background']} instead of {pair.target_facts['background']}",)


def test_asked_and_kept_attributes_are_apart_and_hidden_ones_in_neither(pairs: list) -> None:
    for pair in pairs:
        asked, rest = edited_attributes(pair)
        assert not asked.keys() & rest.keys()
        assert asked.keys() | rest.keys() == pair.source_facts.keys() & pair.target_facts.keys()
        assert (pair.category == "keep") == (not asked)


def test_the_error_outside_counts_only_outside(pairs: list) -> None:
    pair = next(p for p in pairs if p.category not in ("background", "keep"))
    source = pair.source.open()
    assert outside_error(pair, source, pair.target.open()) == (0.0, 0.0)
    brighter = Image.fromarray(np.clip(np.asarray(source).astype(int) - 51, 0, 255).astype(np.uint8))
    l1, _ = outside_error(pair, source, brighter)
    assert 0.02 < l1 <= 0.2
    assert math.isnan(outside_error(dataclasses.replace(pair, mask=None), source, source)[0])


def test_psnr_of_a_known_error() -> None:
    a = Image.new("RGB", (8, 8), (100, 100, 100))
    b = Image.new("RGB", (8, 8), (151, 151, 151))
    assert psnr(a, b) == pytest.approx(20 * math.log10(255 / 51))
    assert psnr(picture("red"), picture("red")) == math.inf
