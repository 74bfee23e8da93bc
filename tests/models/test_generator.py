"""Trajectories that are gone on from: as if nobody had stopped, and otherwise where something was changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from editkit.data.prepare import to_image
from editkit.data.traces import PREFIX, plan_text
from editkit.methods.interleaved import InterleavedOptions, drawing
from editkit.models.bagel.generate import Limits, Sampled
from editkit.models.bagel.parts import CleanImage, Text
from editkit.models.bagel.session import Session
from editkit.models.bagel.tokenizer import decode, encode
from editkit.models.generator import BagelGenerator, Drawn, Ended, Letters, Said, load_planner
from editkit.recipe.load import load_recipe
from tests.planners import LEARNED, SAMPLING, TIMES, run_of
from tests.tiny import tiny_bagel_parts

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
PROMPT = LEARNED.prompt


@pytest.fixture(scope="module")
def planner(by_heart: Path) -> BagelGenerator:
    return load_planner(str(by_heart))


def events(planner: BagelGenerator, prompt: str = PROMPT, seed: int = 5, **more: Any) -> list:
    return list(planner.steps(prompt, **SAMPLING, seed=seed, **more))


def parts_of(events: Sequence[Any]) -> list[Said | Drawn]:
    return [e for e in events if isinstance(e, (Said, Drawn))]


def pixels(parts: Sequence[Any]) -> list[torch.Tensor]:
    return [part.pixels_CHW for part in parts if isinstance(part, Drawn)]


@pytest.mark.parametrize("more", [{}, {"guided_above": 0.0}])
def test_it_draws_as_the_training_of_its_run_did(tmp_path: Path, more: dict[str, float]) -> None:
    run = run_of(tmp_path, "plan_refine", tiny_bagel_parts(), **more)
    recipe, _ = load_recipe(run / "recipe.toml")
    found = load_planner(str(run))._drawing
    assert found == drawing(recipe.evaluate, InterleavedOptions.model_validate({**TIMES, **more}))
    assert found.interval == (more.get("guided_above", 0.4), 1.0)


def test_from_each_of_its_own_beginnings_it_goes_on_as_if_nobody_had_stopped(planner: BagelGenerator) -> None:
    whole = events(planner)
    parts = parts_of(whole)
    assert [type(p) for p in parts] == [Said, Drawn, Said, Said, Drawn, Said]
    for count in range(len(parts) + 1):
        again = events(planner, begun=parts[:count])
        rest = parts_of(again)
        assert [p.ids for p in rest if isinstance(p, Said)] == [p.ids for p in parts[count:] if isinstance(p, Said)]
        for got, expected in zip(pixels(rest), pixels(parts[count:]), strict=True):
            torch.testing.assert_close(got, expected, **CLOSE)
        assert again[-1] == whole[-1] == Ended("said so", True)
    other = parts_of(events(planner, begun=parts[:3], seed=6))
    assert (pixels(other)[0] - pixels(parts)[1]).abs().max() > 0.01


def test_tokens_go_on_as_they_were_written_and_not_as_they_would_be_read(planner: BagelGenerator) -> None:
    tokenizer = planner._parts.tokenizer
    text = plan_text(LEARNED.steps[0])
    letters = tuple(i for letter in text for i in encode(tokenizer, letter))
    assert decode(tokenizer, letters) == text
    assert letters != tuple(encode(tokenizer, text))
    for ids in (letters, None):
        session = planner._begin(PREFIX + PROMPT, 5, [Said(text, ids)])
        said = session.parts[0][1]
        assert isinstance(said, Text)
        assert tuple(said.ids) == (ids or tuple(encode(tokenizer, text)))


def test_a_changed_plan_is_what_the_next_picture_is_drawn_from(
    planner: BagelGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts: list[list] = []
    sample = Session.sample

    def watched(self: Session, *arguments: Any) -> Any:
        contexts.append(list(self.parts[0]))
        return sample(self, *arguments)

    parts = parts_of(events(planner))
    monkeypatch.setattr(Session, "sample", watched)
    first = parts[0]
    assert isinstance(first, Said)
    changed = plan_text(replace(LEARNED.steps[0], ins="draw a red star", des="a red star"))
    drawn = parts_of(events(planner, begun=[Said(changed)], then="image"))
    same = parts_of(events(planner, begun=[Said(first.text)], then="image"))
    told = [decode(planner._parts.tokenizer, part.ids) for part in contexts[0] if isinstance(part, Text)]
    assert told == [PREFIX + PROMPT, changed]
    torch.testing.assert_close(pixels(same)[0], pixels(parts)[0], **CLOSE)
    assert (pixels(drawn)[0] - pixels(parts)[0]).abs().max() > 0.01


def test_a_picture_that_was_drawn_is_seen_as_it_was_drawn(planner: BagelGenerator) -> None:
    parts = parts_of(events(planner))
    drawn = parts[1]
    assert isinstance(drawn, Drawn)
    assert to_image(drawn.pixels_CHW).tobytes() == drawn.picture.tobytes()
    kept = planner._begin(PREFIX + PROMPT, 5, parts[:2]).parts[0][2]
    assert isinstance(kept, CleanImage)
    assert torch.equal(kept.latents_CHW, drawn.pixels_CHW)  # its latents are pixels
    changed = [parts[0], replace(drawn, pixels_CHW=-drawn.pixels_CHW), *parts[2:4]]
    redrawn = pixels(parts_of(events(planner, begun=changed, then="image")))[0]
    assert (redrawn - pixels(parts)[1]).abs().max() > 0.01


def test_what_was_begun_counts_and_who_decides_gets_a_step_more(planner: BagelGenerator) -> None:
    parts = parts_of(events(planner))
    short = BagelGenerator(planner._parts, 32, planner._drawing, planner._writing, Limits(images=2, parts=20))
    full = Ended("as many pictures as it may have", False)
    begun = [*parts[:5], *parts[2:4]]  # the second picture is found wrong too
    assert events(short, begun=begun)[-1] == full
    more = events(short, begun=begun, then="image")
    assert len(pixels(parts_of(more))) == 1
    assert parts_of(more)[0] == more[SAMPLING["steps"]]
    few = BagelGenerator(planner._parts, 32, planner._drawing, planner._writing, Limits(images=5, parts=4))
    assert events(few)[-1] == Ended("as many parts as it may have", False)
    assert len(parts_of(events(few, begun=parts[:3]))) == 1
    assert len(parts_of(events(few, begun=parts[:3], then="text"))) == 3


def test_letters_and_sampling_steps_are_told_before_what_they_lead_to(planner: BagelGenerator) -> None:
    told = events(planner)
    first = next(n for n, e in enumerate(told) if isinstance(e, Said))
    assert "".join(e.text for e in told[:first] if isinstance(e, Letters)) == told[first].text
    assert told[first + 1 : first + 3] == [Sampled(1), Sampled(2)]
    assert isinstance(told[first + 3], Drawn)
