"""Plan, sketch, inspect, refine: what of a trace is learned, and what is only seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from PIL import Image

from editkit.data.draws import Draws
from editkit.data.pictures import Picture
from editkit.data.prepare import PrepareParams, prepare
from editkit.data.traces import PREFIX, Inspection, NeedLoss, PlanStep, PlanTrace, inspection_text, plan_text
from editkit.errors import UserError
from editkit.methods.interleaved import coins
from editkit.methods.plan_refine import PlanRefine
from editkit.methods.protocol import collate
from editkit.models.bagel.config import LatentConfig, bagel_7b
from editkit.models.bagel.load import BagelParts
from editkit.models.bagel.load import Options as BagelOptions
from editkit.models.bagel.network import Bagel
from editkit.models.bagel.packing import pack
from editkit.models.bagel.parts import CleanImage, NoisedImage, SeenImage, Text
from editkit.models.bagel.tokenizer import decode
from editkit.recipe.load import load_recipe, options
from editkit.recipe.schema import Evaluate, Method
from tests.methods.test_unified import recipe
from tests.tiny import encoded, picture, tiny_bagel_parts

ROOT = Path(__file__).parents[2]
SEEN = NeedLoss(plan=False, sketch=False, inspection=True)
RED, BLUE, GREEN = (Picture(data=encoded(picture(c))) for c in ("red", "blue", "green"))
WRONG = Inspection(False, "image", ("the star is red, not blue",), (), "make the star blue")
RIGHT = Inspection(True)
MENDED = PlanTrace(
    "mended", "a blue star",
    (PlanStep("draw a blue star", "a blue star", RED, WRONG, SEEN), PlanStep("make the star blue", "a blue star", BLUE, RIGHT)),
    BLUE,
)  # fmt: skip
STEPS = PlanTrace(
    "steps", "a star and a cup",
    (PlanStep("draw a star", "a star", RED), PlanStep("add a cup", "a star and a cup", GREEN)),
    GREEN,
)  # fmt: skip
REJECTED = PlanTrace(
    "rejected", "a blue star",
    (PlanStep("draw a cup", "a cup", None, Inspection(False, "plan", ("a cup is not asked for",), (), "draw a star"), SEEN),),
    None,
)  # fmt: skip
REJECTED_DRAWN = PlanTrace("drawn", "a blue star", MENDED.steps[:1], None)


def make(**options: object) -> PlanRefine:
    chosen = recipe(method=Method(name="plan_refine"))
    return PlanRefine(chosen, PlanRefine.Options(**options), tiny_bagel_parts())


def batch(method: PlanRefine, traces: list[PlanTrace]) -> dict:
    pixels = torch.stack([prepare([p.open() for p in method.pictures_of(t)], PrepareParams(32)) for t in traces])
    return {**method.encode(pixels), "text": [t.prompt for t in traces], **collate([method.targets_of(t) for t in traces])}


def sample(method: PlanRefine, trace: PlanTrace) -> list:
    return list(method.sample(trace, method._learner.pictures(batch(method, [trace]), Draws(0, [0]))[0]))


def told(method: PlanRefine, trace: PlanTrace) -> list[tuple]:
    def one(part: object) -> tuple:
        if isinstance(part, Text):
            return decode(method._parts.tokenizer, part.ids), part.learn, part.then
        return (type(part), getattr(part, "then", None))

    return [one(part) for part in sample(method, trace)]


def test_a_faulty_draft_is_context_and_its_inspection_and_the_mending_are_learned() -> None:
    plan = plan_text(MENDED.steps[0])
    again = plan_text(MENDED.steps[1])
    assert told(make(), MENDED) == [
        (PREFIX + "a blue star", False, "text"),
        (plan, False, None),
        (CleanImage, None), (SeenImage, "text"),
        (inspection_text(WRONG), True, "text"),
        (again, True, "image"),
        (NoisedImage, None), (CleanImage, None), (SeenImage, "text"),
        (inspection_text(RIGHT), True, "stop"),
    ]  # fmt: skip
    assert sum(isinstance(p, NoisedImage) for p in sample(make(learn_faulty_drafts=True), MENDED)) == 2


def test_without_a_look_nothing_is_learned_of_whether_to_look() -> None:
    second = plan_text(STEPS.steps[1])
    data = told(make(always_inspect=False), STEPS)
    assert data[1:] == [
        (plan_text(STEPS.steps[0]), True, "image"),
        (NoisedImage, None), (CleanImage, None), (SeenImage, "text"),
        (second, True, "image"),
        (NoisedImage, None), (CleanImage, None), (SeenImage, "stop"),
    ]  # fmt: skip
    method = make()
    first, rest = (p for p in sample(method, STEPS)[5:7] if isinstance(p, Text))
    assert (first.learn, first.then, first.closes, rest.opens) == (False, None, False, False)
    assert (rest.learn, rest.then) == (True, "image")
    assert decode(method._parts.tokenizer, [*first.ids, *rest.ids]) == second
    assert [kind[-1] for kind in told(method, STEPS) if kind[0] is SeenImage] == [None, None]
    # the same tokens at the same places, and all labels but those of the choice
    whole, split = (pack([[sample(m, STEPS)]], m._parts.tokens, m._parts.sizes) for m in (make(always_inspect=False), method))
    assert torch.equal(whole.text_N, split.text_N)
    assert torch.equal(whole.position_N, split.position_N)
    assert len(whole.label_N) - len(split.label_N) == 4  # two switches, and the first two tokens of the second plan


def test_where_nothing_is_wrong_or_to_come_it_stops() -> None:
    """Also in an example of inspection alone, which is not finished; but not where something is still to come."""
    step = STEPS.steps[0]
    for seen, then in ((RIGHT, "stop"), (Inspection(True, deferred=("a cup",)), "text"), (WRONG, "text")):
        trace = PlanTrace("looked", "a star", (PlanStep(step.ins, step.des, step.sketch, seen, SEEN),), None)
        assert told(make(), trace)[-1] == (inspection_text(seen), True, then)


def test_planned_at_once_only_the_last_picture_is_drawn() -> None:
    first, second = (plan_text(step) for step in STEPS.steps)
    method = make(sketches="last")
    assert told(method, STEPS) == [
        (PREFIX + "a star and a cup", False, "text"),
        (first, True, "text"),
        (second, True, "image"),
        (NoisedImage, None), (CleanImage, None), (SeenImage, "stop"),
    ]  # fmt: skip
    assert method.pictures_of(STEPS) == [GREEN]
    with pytest.raises(UserError, match="not finished"):
        sample(method, REJECTED_DRAWN)


def test_the_loss_is_that_of_the_parts_that_are_learned() -> None:
    method = make(drop_text=0.0, drop_clean=0.0, drop_seen=0.0)
    found = method.loss(batch(method, [MENDED, STEPS]), Draws(7, range(2)))
    shown = method._learner.pictures(batch(method, [MENDED, STEPS]), Draws(7, range(2)))
    losses = []
    for trace, pictures in zip([MENDED, STEPS], shown, strict=True):
        parts = list(method.sample(trace, pictures))
        packed = pack([[parts]], method._parts.tokens, method._parts.sizes)
        said = method._parts.network(packed)
        ce = F.cross_entropy(said.logits_NV, packed.label_N)
        noised = [p for p in parts if isinstance(p, NoisedImage)]
        assert len(packed.noised_N) == 16 * len(noised)
        targets_ND = torch.cat([_tokens(p.noise_CHW - p.clean_CHW) for p in noised])
        losses.append(0.25 * ce + (said.velocity_ND - targets_ND).square().mean())
    assert found.value.item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-4)


def _tokens(x_CHW: torch.Tensor) -> torch.Tensor:
    """Patches of 8 px, row by row, channels last within one."""
    return torch.stack(
        [x_CHW[:, y : y + 8, x : x + 8].permute(1, 2, 0).flatten() for y in range(0, 32, 8) for x in range(0, 32, 8)]
    )


def test_what_is_drawn_on_a_faulty_draft_has_no_error_and_still_changes_what_follows() -> None:
    method = make(drop_text=0.0, drop_clean=0.0, drop_seen=0.0)
    given = batch(method, [MENDED])
    seen = []
    for shade in (10, 200):
        given["pictures"][0, 0] = shade
        seen.append(method.loss(given, Draws(7, [0])))
    assert seen[0].logs["ce"].item() != pytest.approx(seen[1].logs["ce"].item(), abs=1e-5)
    packed = pack([[sample(method, MENDED)]], method._parts.tokens, method._parts.sizes)
    assert len(packed.noised_N) == 16  # of the mended picture alone


def test_a_trace_without_pictures_is_learned_as_text() -> None:
    method = make()
    found = method.loss(batch(method, [REJECTED, REJECTED]), Draws(0, range(2)))
    assert found.logs["mse"].item() == 0.0
    assert found.value.item() == pytest.approx(0.25 * found.logs["ce"].item(), abs=1e-5)
    found.value.backward()


def test_only_what_guides_a_picture_may_be_dropped() -> None:
    parts = sample(make(), MENDED)
    droppable = [getattr(p, "droppable", None) for p in parts]
    # prompt and plan before the faulty draft lead to no picture that is learned, and its inspection has to see it
    assert droppable == [False, False, False, False, True, True, None, False, False, False]
    parts = sample(make(), STEPS)
    assert [getattr(p, "droppable", None) for p in parts] == [True, True, None, True, True, True, True, None, False, False]
    assert coins(parts) == [1, 1, 0, 0, 0, 2, 2, 0, 0, 0]


def test_a_step_in_two_parts_is_the_same_step() -> None:
    method = make(drop_text=0.5, drop_clean=0.5, drop_seen=0.5)
    traces = [MENDED, STEPS, STEPS, MENDED]
    whole = method.loss(batch(method, traces), Draws(5, range(4))).value
    halves = [method.loss(batch(method, traces[i : i + 2]), Draws(5, range(i, i + 2))).value for i in (0, 2)]
    assert whole.item() == pytest.approx(torch.stack(halves).mean().item(), abs=1e-4)


def test_rows_of_many_traces_have_the_same_loss() -> None:
    found = [make(row_tokens=n).loss(batch(make(), [MENDED, STEPS]), Draws(5, range(2))).value.item() for n in (0, 1000)]
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_previews_are_filmstrips_with_scores(tmp_path: Path) -> None:
    method = make(max_pictures=2, max_text=6)

    class Traces(list[PlanTrace]):
        info: dict = {}

    method._recipe = recipe(evaluate=Evaluate(judge="", steps=1, preview_pairs=2, batch_size=2))
    scores = method.preview(Traces([MENDED, STEPS]), tmp_path, 3)["scores"]
    assert {"test_ce", "test_mse", "well_formed", "stopped", "pictures", "inspected"} <= set(scores)
    with Image.open(tmp_path / "step-000003.png") as sheet:
        assert sheet.height > 200


def test_the_recipe_of_the_large_model_says_what_was_published() -> None:
    full, source = load_recipe(ROOT / "recipes" / "full" / "plan_refine_bagel7b.toml")
    chosen = options(full.method, PlanRefine.Options, "method", source)
    options(full.model, BagelOptions, "model", source)
    assert (full.train.steps, full.parallel.processes, full.optim.lr, full.optim.schedule) == (10_000, 8, 2e-5, "cosine")
    assert (chosen.row_tokens, chosen.max_pictures, full.evaluate.steps) == (33_000, 5, 50)
    assert (chosen.ce_weight, chosen.timesteps.shift, chosen.learn_faulty_drafts) == (0.25, 4.0, False)
    latent = bagel_7b().latent
    step = latent.px * latent.patch
    assert full.data.resolution in range(step, step * latent.side + 1, step)


def test_latents_of_an_autoencoder_are_drawn_anew_for_each_example() -> None:
    torch.manual_seed(1)
    vae = AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, scaling_factor=0.5, shift_factor=0.1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    parts = tiny_bagel_parts()
    sizes = parts.sizes.model_copy(update={"latent": LatentConfig(channels=4, patch=2, side=8, px=2)})
    method = PlanRefine(recipe(), PlanRefine.Options(), BagelParts("", Bagel.of(sizes), parts.tokenizer, vae))
    given = batch(method, [MENDED, STEPS])
    shown = method._learner.pictures(given, Draws(2, range(2)))

    draws = Draws(2, range(2))
    x_BNCHW = given["pictures"] / 127.5 - 1
    eps_BNCHW = draws.normal(torch.zeros(2, 2, 4, 16, 16))
    posterior = vae.encode(x_BNCHW[1]).latent_dist
    expected = (posterior.mean + posterior.std * eps_BNCHW[1] - 0.1) * 0.5
    noise_BNCHW = draws.normal(torch.zeros(2, 2, 4, 16, 16))
    for n in range(2):
        assert torch.allclose(shown[1].noised(n).clean_CHW, expected[n], atol=1e-4)
        assert torch.equal(shown[1].noised(n).noise_CHW, noise_BNCHW[1, n])
    alone = method._learner.pictures({"pictures": given["pictures"][1:]}, Draws(2, [1]))[0]
    assert torch.allclose(alone.noised(1).clean_CHW, expected[1], atol=1e-4)
    method.loss(given, Draws(2, range(2))).value.backward()
    assert all(p.grad is None for p in vae.parameters())


def test_latents_that_are_no_draw_are_made_once() -> None:
    torch.manual_seed(1)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=4, scaling_factor=0.5,
    )  # fmt: skip
    parts = tiny_bagel_parts()
    sizes = parts.sizes.model_copy(update={"latent": LatentConfig(channels=4, patch=2, side=8, px=2)})
    method = PlanRefine(recipe(), PlanRefine.Options(), BagelParts("", Bagel.of(sizes), parts.tokenizer, vae))
    given = batch(method, [MENDED, STEPS])
    expected_BCHW = 0.5 * vae.encode(given["pictures"].flatten(0, 1) / 127.5 - 1).latents
    assert torch.allclose(given["latents"].flatten(0, 1), expected_BCHW, atol=1e-5)
    vae.encode = lambda *a: pytest.fail("encoded again")
    shown = method._learner.pictures(given, Draws(2, range(2)))
    assert torch.equal(shown[1].noised(1).clean_CHW, given["latents"][1, 1])
    assert set(method.encode(given["pictures"][:, :0])) == {"pictures"}  # of traces that are text alone
