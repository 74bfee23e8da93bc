"""What is computed once and remembered is what is computed at once; rows do not disturb each other; guidance and events."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from editkit.diffusion.flow import sampling_times
from editkit.diffusion.guidance import guide
from editkit.models.bagel.codec import Codec, vit_view
from editkit.models.bagel.generate import Drew, Limits, Sampled, Stopped, Token, Wrote, generate, look_at
from editkit.models.bagel.network import Bagel
from editkit.models.bagel.packing import pack, patchify, unpatchify
from editkit.models.bagel.parts import CleanImage, Gap, NoisedImage, SeenImage, Text
from editkit.models.bagel.session import Drawing, Session, Writing, without_images, without_last_texts
from tests.models.bagel.small import SIZE, SIZES, TOKENS, image, small_bagel, text

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
PLAIN = Drawing(steps=3, shift=2.0, text_scale=1.0, image_scale=1.0)
GUIDED = Drawing(
    steps=4, shift=3.0, text_scale=3.0, image_scale=1.5, interval=(0.6, 0.95), renorm="channel"
)  # two of its four steps


@pytest.fixture(scope="module")
def network() -> Bagel:
    return small_bagel().eval()


def seen(seed: int) -> list:
    return [CleanImage(image(seed)), SeenImage(image(seed))]


CONTEXTS = [
    [text(1, 4), *seen(2), text(3, 5)],
    [text(4, 2)],
    [*seen(5), text(6, 3), *seen(7)],
]


@torch.no_grad()
def next_logits(network: Bagel, parts) -> torch.Tensor:
    return network(pack([[parts]], TOKENS, SIZES, ask_last=True)).logits_NV[0]


@torch.no_grad()
def velocity(network: Bagel, parts, x_ND: torch.Tensor, t: float) -> torch.Tensor:
    """Of a noised picture behind parts, without any memory."""
    noised = unpatchify(x_ND[None], (2, 2), 4)[0]
    # at time t the line from 0 through noise / t is at the noise itself
    return network(pack([[[*parts, NoisedImage(torch.zeros(3, 8, 8), noised / t, t)]]], TOKENS, SIZES)).velocity_ND


def test_remembered_and_recomputed_sequences_say_the_same(network: Bagel) -> None:
    session = Session(network, TOKENS, [c[:1] for c in CONTEXTS], seeds=[0, 1, 2])
    for n in range(1, max(map(len, CONTEXTS))):  # a part at a time; rows end at different lengths
        session.add({row: [c[n]] for row, c in enumerate(CONTEXTS) if n < len(c)})
    expected = torch.stack([next_logits(network, c) for c in CONTEXTS])
    torch.testing.assert_close(session._logits_BV, expected, **CLOSE)
    assert (expected[0] - expected[1]).abs().max() > 0.1


def test_writing_is_what_whole_passes_would_write(network: Bagel) -> None:
    session = Session(network, TOKENS, CONTEXTS, seeds=[0, 1, 2])
    list(session.write([0, 2], Writing(max_tokens=6)))
    for row in (0, 2):
        ids: list[int] = []
        while len(ids) < 6:
            logits = next_logits(network, [*CONTEXTS[row], Text(ids, closes=False)])
            logits[[TOKENS.text_start, TOKENS.image_start, TOKENS.image_end, TOKENS.stop]] = -torch.inf
            if int(logits.argmax()) == TOKENS.text_end:
                break
            ids.append(int(logits.argmax()))
        assert session.parts[row] == [*CONTEXTS[row], Text(tuple(ids))]
        torch.testing.assert_close(session._logits_BV[row], next_logits(network, session.parts[row]), **CLOSE)
    assert session.parts[1] == CONTEXTS[1]
    torch.testing.assert_close(session._logits_BV[1], next_logits(network, CONTEXTS[1]), **CLOSE)


@pytest.mark.parametrize("drawing", [PLAIN, GUIDED], ids=["plain", "guided"])
def test_drawing_is_what_whole_passes_would_draw(network: Bagel, drawing: Drawing) -> None:
    session = Session(network, TOKENS, CONTEXTS, seeds=[7, 8, 9])
    drawn = session.draw([2, 0], (SIZE, SIZE), drawing)
    for got, row in zip(drawn, (2, 0), strict=True):
        x = torch.randn(4, 48, generator=torch.Generator().manual_seed(7 + row))
        parts = CONTEXTS[row]
        for t, t_next in pairwise(sampling_times(drawing.steps, drawing.shift)):
            v = velocity(network, parts, x, t)
            if drawing is GUIDED and 0.6 < t <= 0.95:
                bare = [velocity(network, keep(parts), x, t)[None] for keep in (without_last_texts, without_images)]
                v = guide(v[None], bare[0], bare[1], 3.0, 1.5, "channel")[0]
            x = x - (t - t_next) * v
        torch.testing.assert_close(patchify(got, 4), x, atol=1e-4, rtol=1e-4)


def test_a_row_draws_and_writes_the_same_alone_and_among_others(network: Bagel) -> None:
    writing = Writing(max_tokens=5, temperature=0.8)
    together = Session(network, TOKENS, CONTEXTS, seeds=[3, 4, 5])
    alone = Session(network, TOKENS, CONTEXTS[1:2], seeds=[4])
    for session in (together, alone):
        list(session.write(range(len(session.parts)), writing))
    assert together.parts[1] == alone.parts[0]
    torch.testing.assert_close(
        together.draw([0, 1], (SIZE, SIZE), GUIDED)[1], alone.draw([0], (SIZE, SIZE), GUIDED)[0], **CLOSE
    )


def test_a_picture_does_not_stay_in_memory_until_it_is_shown(network: Bagel) -> None:
    session = Session(network, TOKENS, CONTEXTS[:1], seeds=[0])
    before = session._cache.lengths[:]
    session.draw([0], (SIZE, SIZE), PLAIN)
    assert session._cache.lengths == before
    session.add({0: seen(9)})
    assert session._cache.lengths == [before[0] + 12]
    with pytest.raises(ValueError, match="noised"):
        session.add({0: [NoisedImage(image(1), image(2), 0.5)]})


def test_branches_keep_what_they_should() -> None:
    parts = [text(1, 1), *seen(1), text(2, 1), text(3, 1)]
    assert without_last_texts(parts) == parts[:3]
    assert without_last_texts([text(1, 1), Gap()]) == []
    assert without_images(parts) == [parts[0], *parts[3:]]


def taught(kinds: list[str]) -> list[str]:
    """Events of a network that wants the given kinds one after the other."""
    network = small_bagel().eval()
    config, wanted = SIZES, iter(kinds)
    session = Session(network, TOKENS, [[text(1, 3)], [text(2, 3)]], seeds=[0, 1])
    events = generate(
        session, Codec(config.latent), config, (SIZE, SIZE), Writing(max_tokens=3), PLAIN, Limits(images=2, parts=5),
        decide=lambda row, kind, parts: next(wanted) if row else "stop",
    )  # fmt: skip
    return [f"{type(e).__name__} {e.row}" for e in events if not isinstance(e, (Token, Sampled))]


def test_events_come_in_order_and_rows_end_by_themselves() -> None:
    assert taught(["text", "image", "text", "stop"]) == ["Stopped 0", "Wrote 1", "Drew 1", "Wrote 1", "Stopped 1"]
    assert taught(["image"] * 3) == ["Stopped 0", "Drew 1", "Drew 1", "Stopped 1"]
    assert taught(["text"] * 6) == ["Stopped 0", *["Wrote 1"] * 5, "Stopped 1"]


def test_what_comes_next_is_the_networks_choice(network: Bagel) -> None:
    parts = [text(1, 3)]
    session = Session(network, TOKENS, [parts], seeds=[0])
    logits = next_logits(network, parts)
    openings = {"text": TOKENS.text_start, "image": TOKENS.image_start, "stop": TOKENS.stop}
    expected = max(openings, key=lambda kind: float(logits[openings[kind]]))
    assert session.following() == [expected]
    events = list(
        generate(session, Codec(SIZES.latent), SIZES, (SIZE, SIZE), Writing(max_tokens=2), PLAIN, Limits(images=1, parts=2))
    )
    first = {"text": Token, "image": Drew, "stop": Stopped}[expected]
    assert isinstance(events[0], (first, Wrote))
    assert isinstance(events[-1], Stopped)


def test_tokens_are_those_of_the_text(network: Bagel) -> None:
    session = Session(network, TOKENS, [[text(1, 3)]], seeds=[0])
    steps = list(session.write([0], Writing(max_tokens=4, temperature=1.0)))
    said = session.parts[0][-1]
    assert isinstance(said, Text)
    assert tuple(tokens[0] for tokens in steps) == said.ids
    assert len(said.ids) <= 4


def test_a_drawn_picture_is_looked_at_as_latents_and_by_the_vit() -> None:
    pixels = image(1, (12, 8)).clamp(-1, 1)
    clean, looked = look_at(pixels, Codec(SIZES.latent), SIZES)
    assert torch.equal(clean.latents_CHW, pixels)
    assert torch.equal(looked.pixels_CHW, pixels)
    assert vit_view(torch.zeros(3, 40, 21), SIZES.vit).shape == (3, 16, 8)
    assert vit_view(torch.zeros(3, 6, 9), SIZES.vit).shape == (3, 8, 8)


def test_guidance_is_the_written_formula() -> None:
    v, no_text, no_image = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    both = no_image + 1.5 * (no_text + 4 * (v - no_text) - no_image)
    torch.testing.assert_close(guide(v, no_text, no_image, 4, 1.5, "none"), both)
    for renorm, dims in (("global", (1, 2)), ("channel", (2,))):
        guided = guide(v, no_text, no_image, 4, 1.5, renorm)
        torch.testing.assert_close(guided.norm(dim=dims), torch.minimum(both.norm(dim=dims), v.norm(dim=dims)))
        torch.testing.assert_close(torch.cosine_similarity(guided, both, dim=2), torch.ones(2, 4))
    texted = no_text + 4 * (v - no_text)
    texted = texted * (v.norm(dim=2, keepdim=True) / texted.norm(dim=2, keepdim=True)).clamp(0.9, 1)
    expected = no_image + 1.5 * (texted - no_image)
    torch.testing.assert_close(guide(v, no_text, no_image, 4, 1.5, "text_channel", 0.9), expected)
    torch.testing.assert_close(guide(v, 0 * v, None, 0.3, 1, "global"), 0.3 * v)  # what is weaker stays so
    torch.testing.assert_close(guide(v, None, None, 4, 1.5, "global"), v)
    with pytest.raises(ValueError, match="renorm"):
        guide(v, None, None, 1, 1, "other")  # ty: ignore


def test_times_go_from_noise_to_the_picture() -> None:
    assert sampling_times(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    shifted = sampling_times(49, 3.0)
    assert (shifted[0], shifted[-1], len(shifted)) == (1.0, 0.0, 50)
    assert shifted == pytest.approx([3 * t / (1 + 2 * t) for t in torch.linspace(1, 0, 50).tolist()], abs=1e-6)
