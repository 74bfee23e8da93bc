"""Pre-training a BAGEL: its loss restated, what each lesson shows and asks, and that nothing depends on its neighbours."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import torch
import torch.nn.functional as F

from editkit.data.draws import Draws
from editkit.data.examples import CaptionedImage
from editkit.data.pictures import Picture
from editkit.data.prepare import PrepareParams, prepare, to_network
from editkit.errors import UserError
from editkit.lab.scene_edits import sample_scene_edits, sample_scenes
from editkit.lab.scene_readings import reading, seen_in
from editkit.methods.protocol import collate
from editkit.methods.unified import Lessons, Unified
from editkit.models.bagel.packing import pack, patchify
from editkit.models.bagel.parts import CleanImage, Gap, NoisedImage, SeenImage, Text
from editkit.models.bagel.tokenizer import decode, encode
from editkit.recipe.schema import Adapter, Data, Evaluate, Method, Model, Recipe
from tests.methods.test_instruct_edit import recipe as any_recipe
from tests.tiny import encoded, picture, tiny_bagel_parts

SCENES = sample_scenes(4, seed=1, split="train", size=32)
EDITS = sample_scene_edits(4, seed=1, split="train", size=32)
DRAWING = Lessons(draw=1.0, caption=0.0, question=0.0, fit=0.0)


def recipe(**changes: object) -> Recipe:
    values = {
        "method": Method(name="unified"),
        "model": Model(family="bagel"),
        "evaluate": Evaluate(judge="", steps=2, pairs=4, preview_pairs=4, batch_size=3),
    }
    return any_recipe(**(values | changes))


def make(**options: object) -> Unified:
    return Unified(recipe(), Unified.Options(**options), tiny_bagel_parts())


def batch(method: Unified, examples: list, rows: slice = slice(4)) -> dict:
    chosen = examples[rows]
    pixels = [prepare([p.open() for p in method.pictures_of(e)], PrepareParams(32)) for e in chosen]
    return {
        **method.encode(torch.stack(pixels)),
        "text": [method.texts_of(e)[0] for e in chosen],
        **collate([method.targets_of(e) for e in chosen]),
    }


def test_the_loss_is_the_published_one_of_each_example() -> None:
    """By the definition: one example at a time, from the network's own answers to what is asked of it."""
    method = make(lessons=DRAWING, drop_text=0.0)
    parts, given = method._parts, batch(method, SCENES)
    found = method.loss(given, Draws(11, range(4)))

    draws = Draws(11, range(4))
    draws.uniform()
    draws.integers(2**31)
    clean_BCHW = to_network(given["pictures"][:, 0])
    noise_BCHW = draws.normal(clean_BCHW[:, None])[:, 0]
    u_B = draws.uniform(1)[:, 0]
    t_B = torch.sigmoid(torch.special.ndtri(u_B.clamp(1e-6, 1 - 1e-6)))
    losses = []
    for i in range(4):
        ids = encode(parts.tokenizer, given["text"][i])
        packed = pack(
            [[[Text(ids, then="image"), NoisedImage(clean_BCHW[i], noise_BCHW[i], float(t_B[i]))]]], parts.tokens, parts.sizes
        )
        said = parts.network(packed)
        x_t_CHW = (1 - t_B[i]) * clean_BCHW[i] + t_B[i] * noise_BCHW[i]
        assert torch.allclose(packed.latents_ND, patchify(x_t_CHW, 8), atol=1e-4)
        mse = (said.velocity_ND - patchify(noise_BCHW[i] - clean_BCHW[i], 8)).square().mean()
        ce = F.cross_entropy(said.logits_NV, torch.tensor([parts.tokens.image_start]))
        losses.append(0.25 * ce + mse)
    assert found.value.item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-4)
    assert set(found.logs) == {"ce", "mse"}


@pytest.mark.parametrize("examples", [SCENES, EDITS], ids=["scenes", "edits"])
def test_a_step_in_two_parts_is_the_same_step(examples: list) -> None:
    method = make(drop_text=0.5, drop_clean=0.5, drop_seen=0.5, lessons=Lessons(draw=1, caption=1, question=1, fit=1))
    whole = method.loss(batch(method, examples), Draws(5, range(4))).value
    halves = [method.loss(batch(method, examples, slice(i, i + 2)), Draws(5, range(i, i + 2))).value for i in (0, 2)]
    assert whole.item() == pytest.approx(torch.stack(halves).mean().item(), abs=1e-4)


def test_what_each_lesson_shows_and_asks() -> None:
    method = make()
    known = method.targets_of(SCENES[0])["known"]
    shown = method._learner.pictures({"pictures": torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8)}, Draws(0, [0]))[0]

    def told(lesson: str) -> list[tuple]:
        parts = method.sample(lesson, shown, "some words", known, Random(1))
        return [(type(p), getattr(p, "learn", None), getattr(p, "then", None), getattr(p, "droppable", None)) for p in parts]

    assert told("draw") == [(Text, False, "image", True), (NoisedImage, None, None, None)]
    assert told("edit") == [
        (CleanImage, None, None, True), (SeenImage, None, None, True),
        (Text, False, "image", True), (NoisedImage, None, None, None),
    ]  # fmt: skip
    assert told("caption") == [(SeenImage, None, "text", False), (Text, True, "stop", False)]
    assert told("question") == told("fit") == [
        (SeenImage, None, None, False), (Text, False, "text", False), (Text, True, "stop", False),
    ]  # fmt: skip
    answer = method.sample("fit", shown, "", known, Random(1))[-1]
    assert isinstance(answer, Text)
    assert decode(method._parts.tokenizer, answer.ids) in ("yes", "no")


def test_an_edit_shows_the_source_and_draws_the_target() -> None:
    method = make()
    given = batch(method, EDITS)
    shown = method._learner.pictures(given, Draws(0, range(4)))
    for edit, pixels, pictures in zip(EDITS, given["pictures"], shown, strict=True):
        clean, seen, _, noised = method.sample("edit", pictures, edit.instructions[0], None, Random(0))
        source, target = (to_network(pixels[n]) for n in (0, 1))
        assert isinstance(clean, CleanImage)
        assert isinstance(seen, SeenImage)
        assert isinstance(noised, NoisedImage)
        assert torch.equal(clean.latents_CHW, source)
        assert torch.equal(seen.pixels_CHW, source)
        assert torch.equal(noised.clean_CHW, target)


def test_conditions_are_dropped_as_often_as_the_recipe_says() -> None:
    method = make(drop_text=0.25, drop_clean=0.5, drop_seen=0.5)
    learner, kept = method._learner, []
    learner.loss_of = kept.extend  # type: ignore[method-assign]
    given = batch(method, EDITS * 100, slice(400))
    method.loss(given, Draws(3, range(400)))
    counts = Counter(kind for sample in kept for kind in {type(p) for p in sample})
    assert counts[NoisedImage] == 400
    assert counts[Text] == pytest.approx(300, abs=30)
    assert counts[CleanImage] == pytest.approx(200, abs=35)
    assert sum({type(p) for p in s} == {NoisedImage, Gap} for s in kept) == pytest.approx(50, abs=20)  # each by its own coin
    # both copies of a picture go together, as in the sampler's image branch
    assert all({type(p) for p in s} & {CleanImage, SeenImage} in ({CleanImage, SeenImage}, set()) for s in kept)


def test_lessons_come_in_their_shares_and_without_facts_only_what_needs_none() -> None:
    lessons = Lessons(draw=0.5, caption=0.25, question=0.15, fit=0.1)
    us = [i / 1000 for i in range(1000)]
    assert Counter(lessons.choose(u, True) for u in us) == {"draw": 500, "caption": 250, "question": 150, "fit": 100}
    few = Counter(lessons.choose(u, False) for u in us)
    assert set(few) == {"draw", "caption"}
    assert few["draw"] == pytest.approx(667, abs=1)
    plain = CaptionedImage("a", Picture(data=encoded(picture("red"))), ("red",))
    assert make().targets_of(plain) == {"known": None}
    with pytest.raises(ValueError, match="expected one above 0"):
        Lessons(draw=0, caption=0, question=1, fit=1)


def test_pictures_and_answers_do_not_depend_on_their_batch(tmp_path: Path) -> None:
    method, alone = make(), make()
    alone._recipe = recipe(evaluate=recipe().evaluate.model_copy(update={"batch_size": 1}))
    made = [m.draw(["an apple", "two red cups", "a star"]) for m in (method, alone)]
    for a, b in zip(*made, strict=True):
        assert max(abs(x - y) for x, y in zip(a.tobytes(), b.tobytes(), strict=True)) <= 1
    assert len({m.tobytes() for m in made[0]}) == 3
    scores = [m.preview(_Examples(SCENES), tmp_path, 1)["scores"] for m in (method, alone)]
    assert scores[0] == pytest.approx(scores[1], abs=0.01)
    assert {"test_loss", "test_mse", "captions_true", "answers_right", "fits_right"} <= set(scores[0])
    assert (tmp_path / "step-000001.png").is_file()


def test_what_does_not_fit_is_refused_in_a_line() -> None:
    parts = tiny_bagel_parts()
    with pytest.raises(UserError, match=r"\[adapter\]: found one"):
        Unified(recipe(adapter=Adapter()), Unified.Options(), parts)
    for side in (36, 64):
        with pytest.raises(UserError, match=f"found pictures of {side} px; this network takes multiples of 8 px up to 32"):
            Unified(recipe(data=Data(train="nowhere", resolution=side)), Unified.Options(), parts)
    with pytest.raises(UserError, match="which reads avatars"):
        Unified(recipe(evaluate=Evaluate()), Unified.Options(), parts)


class _Examples(list[CaptionedImage]):
    info: dict = {}


def test_the_facts_that_are_asked_about_are_the_pictures() -> None:
    method = make()
    known = method.targets_of(SCENES[0])["known"]
    assert known.graph == json.loads(SCENES[0].facts["graph"])
    assert known.asked["prompt"]
    assert method.targets_of(EDITS[0]) == {"known": None}


def test_its_judge_sees_where_the_network_has_no_weights(recwarn: pytest.WarningsRecorder) -> None:
    named = recipe(evaluate=Evaluate(judge="lab:judges/scene_reader"))
    parts = tiny_bagel_parts()
    with torch.device("meta"):
        method = Unified(named, Unified.Options(), parts)
    assert not [w for w in recwarn if "meta" in str(w.message)]
    examples = [reading(1, "test", i, 0.0) for i in range(4)]
    assert method._detector is not None
    for example in examples:
        found = method._detector.detect(example.image.open())
        assert Counter(f.name for f in found if f.score > 0.5) == Counter(seen.kind for seen in seen_in(example))
