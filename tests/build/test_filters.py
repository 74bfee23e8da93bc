"""What the filters throw away, and that they say why."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from editkit.build.filters import SCORES, FilterOptions, decide, score_pairs
from editkit.build.rows import Row
from editkit.build.text_filters import SelectTexts, plain
from tests.tiny import encoded, picture

# Mostly high enough, so that it often matters how many of a prompt are kept.
SCORE = st.fixed_dictionaries({name: st.floats(0.7, 1) | st.floats(0.75, 1) for name in SCORES})
PAIRS = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), SCORE), max_size=30)


@given(PAIRS, st.integers(1, 4))
def test_a_pair_is_kept_when_all_its_scores_are_high_enough_and_few_of_its_prompt_agree_better(
    pairs: list[tuple[str, dict[str, float]]], keep: int
) -> None:
    options = FilterOptions(clip="any", keep=keep)
    why = decide([{"key": key} for key, _ in pairs], [s for _, s in pairs], options)
    for (key, score), reason in zip(pairs, why, strict=True):
        enough = score["image"] >= 0.75 and min(score[n] for n in SCORES[1:]) >= 0.2
        better = sum(
            other["direction"] > score["direction"]
            for (k, other), r in zip(pairs, why, strict=True)
            if k == key and r in ("", "others agree better")
        )
        assert enough == (reason in ("", "others agree better"))
        if enough and better >= keep:
            assert reason == "others agree better"
    for key in "abc":
        kept = sum(k == key and not r for (k, _), r in zip(pairs, why, strict=True))
        could = sum(k == key and r in ("", "others agree better") for (k, _), r in zip(pairs, why, strict=True))
        assert kept == min(keep, could)


def test_of_each_prompt_those_are_kept_whose_changes_agree_best() -> None:
    rows = [{"key": key} for key in "aaaabb"]
    scores = [dict.fromkeys(SCORES, 0.9) | {"direction": d} for d in (0.5, 0.9, 0.3, 0.7, 0.4, 0.1)]
    why = decide(rows, scores, FilterOptions(clip="any", keep=2))
    assert why == ["others agree better", "", "others agree better", "", "", "low direction"]


@pytest.mark.parametrize("name", SCORES)
def test_a_threshold_itself_is_enough_and_what_is_no_number_is_not(name: str) -> None:
    options = FilterOptions(clip="any", image=0.5, direction=0.5, source_caption=0.5, target_caption=0.5)
    good = dict.fromkeys(SCORES, 0.5)
    assert decide([{"key": "a"}], [good], options) == [""]
    for bad in (0.4999, float("nan")):
        assert decide([{"key": "a"}], [good | {name: bad}], options) == [f"low {name.replace('_', ' ')}"]


class _Colours:
    """An encoder of three colours: pictures and words for the same colour are the same vector."""

    AXES = {"red": [1.0, 0.0, 0.0], "green": [0.0, 1.0, 0.0], "blue": [0.0, 0.0, 1.0]}

    def images(self, images: list) -> torch.Tensor:
        pixels = torch.tensor([image.getpixel((31, 31)) for image in images], dtype=torch.float32)
        return torch.nn.functional.normalize(pixels, dim=1)

    def texts(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([self.AXES[text] for text in texts])


def _pair(before: str, after: str, caption: str, edited: str) -> Row:
    sides = {"source": encoded(picture(before)), "target": encoded(picture(after))}
    return {"key": "a", "caption": caption, "edited_caption": edited, **sides}


def test_the_scores_are_cosines_of_pictures_captions_and_of_both_changes() -> None:
    asked = _pair("#ff0000", "#0000ff", "red", "blue")
    other = _pair("#ff0000", "#00ff00", "red", "blue")
    backwards = _pair("#0000ff", "#ff0000", "red", "blue")
    scores = score_pairs(_Colours(), [asked, other, backwards])
    assert scores[0] == pytest.approx({"image": 0, "direction": 1, "source_caption": 1, "target_caption": 1}, abs=1e-6)
    assert scores[1] == pytest.approx({"image": 0, "direction": 0.5, "source_caption": 1, "target_caption": 0}, abs=1e-6)
    assert scores[2] == pytest.approx({"image": 0, "direction": -1, "source_caption": 0, "target_caption": 0}, abs=1e-6)


def _proposal(caption: str, edited: str, instruction: str = "do it") -> Row:
    return {"split": "train", "caption": caption, "edited_caption": edited, "instructions": [instruction]}


@pytest.mark.parametrize(
    ("proposal", "reason"),
    [
        (_proposal("a red house", "a blue house"), ""),
        (_proposal("A red house.", "a red house!"), "same caption"),
        (_proposal("a red house?", "A RED HOUSE"), "same caption"),
        (_proposal("a red house", " . "), "empty"),
        (_proposal("", "a blue house"), "empty"),
        (_proposal("a red house", "a blue house", " "), "empty"),
    ],
)
def test_texts_that_teach_nothing_are_dropped(proposal: Row, reason: str) -> None:
    (found,) = SelectTexts(4).gather(iter([proposal]))
    assert found["dropped"] == reason


def test_a_caption_is_taken_once_and_what_was_dropped_does_not_count() -> None:
    rows = [_proposal("a", "a."), _proposal("A.", "b"), _proposal("a", "c"), _proposal("d", "e")]
    assert [r["dropped"] for r in SelectTexts(4).gather(iter(rows))] == ["same caption", "", "duplicate caption", ""]


@given(st.text())
def test_comparing_texts_ignores_case_and_the_marks_at_the_end(text: str) -> None:
    assert plain(f"{text}.!? ") == plain(text)
    assert plain(plain(text)) == plain(text)
