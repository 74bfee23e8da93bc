"""Who sees whom, that company changes nothing, which weights learn from what, and the published positions and labels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editkit.models.bagel.config import LatentConfig
from editkit.models.bagel.layers import rotary, rotate
from editkit.models.bagel.loss import SampleLosses, sample_losses
from editkit.models.bagel.masks import CAUSAL, FULL, NOISE, PADDING, Places, dense_mask
from editkit.models.bagel.network import Bagel
from editkit.models.bagel.packing import pack, patchify, unpatchify
from editkit.models.bagel.parts import (
    CleanImage,
    Gap,
    NoisedImage,
    SeenImage,
    Text,
    count_tokens,
    drop_conditions,
    fill_rows,
    one_per_row,
)
from tests.models.bagel.small import SIZES, TOKENS, direct, image, small_bagel, text, trace

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def network() -> Bagel:
    return small_bagel()


def losses(network: Bagel, rows) -> SampleLosses:
    packed = pack(rows, TOKENS, SIZES)
    return sample_losses(network(packed), packed)


def test_company_and_padding_change_no_samples_loss(network: Bagel) -> None:
    samples = [trace(10), direct(3), trace(21, size=(4, 12)), direct(5)]
    alone = torch.cat([losses(network, [[s]]).by_sample() for s in samples])
    assert (alone > 0.1).all()
    padded = losses(network, one_per_row(samples)).by_sample()
    packed = losses(network, [samples]).by_sample()
    two_rows = losses(network, [samples[:2], samples[2:]]).by_sample()
    for together in (padded, packed, two_rows):
        torch.testing.assert_close(together, alone, **CLOSE)


def test_gradients_of_padded_and_packed_rows_are_the_same(network: Bagel) -> None:
    samples = [trace(10), direct(3)]
    found = []
    for rows in (one_per_row(samples), [samples]):
        network.zero_grad()
        losses(network, rows).over_tokens().backward()
        found.append({n: p.grad.clone() for n, p in network.named_parameters()})
    for name, gradient in found[0].items():
        assert gradient.isfinite().all(), name
        torch.testing.assert_close(found[1][name], gradient, **CLOSE)


def test_the_loss_over_tokens_is_what_is_published(network: Bagel) -> None:
    packed = pack(one_per_row([trace(10), trace(21)]), TOKENS, SIZES)
    said = network(packed)
    ce = torch.nn.functional.cross_entropy(said.logits_NV, packed.label_N)
    mse = (said.velocity_ND - packed.target_ND).square().mean()
    torch.testing.assert_close(sample_losses(said, packed).over_tokens(0.25, 1.0), 0.25 * ce + mse)


# What each part of a trace is, and which of the later ones see it.
SEEN_BY = {0: {1, 2, 3, 4, 5, 6}, 1: {2, 3, 4, 5, 6}, 2: set(), 3: {4, 5, 6}, 4: {5, 6}, 5: {6}, 6: set()}


@pytest.mark.parametrize("changed", SEEN_BY)
def test_a_part_is_seen_by_the_later_ones_and_a_noised_one_by_nobody(network: Bagel, changed: int) -> None:
    parts = trace(10)
    part = parts[changed]
    if isinstance(part, Text):
        other = replace(part, ids=[part.ids[0] + 1 if part.ids[0] < 39 else 5, *part.ids[1:]])
    elif isinstance(part, NoisedImage):
        other = replace(part, clean_CHW=part.clean_CHW + 1)
    elif isinstance(part, CleanImage):
        other = replace(part, latents_CHW=part.latents_CHW + 1)
    else:
        other = replace(part, pixels_CHW=part.pixels_CHW + 1)
    before, after = (states_by_part(network, p) for p in (parts, [*parts[:changed], other, *parts[changed + 1 :]]))
    moved = {n for n, (a, b) in enumerate(zip(before, after, strict=True)) if (a - b).abs().max() > 1e-4}
    still = {n for n, (a, b) in enumerate(zip(before, after, strict=True)) if torch.equal(a, b)}
    assert moved == SEEN_BY[changed] | {changed}
    assert still == set(range(len(parts))) - moved


def states_by_part(network: Bagel, parts) -> list[torch.Tensor]:
    """What stands behind the last layer at the places of each part."""
    packed = pack([[parts]], TOKENS, SIZES)
    caught = []
    hook = network.layers[-1].register_forward_hook(lambda _, __, output: caught.append(output))
    with torch.no_grad():
        network(packed)
    hook.remove()
    in_order = torch.empty_like(caught[0])
    in_order[packed.place_N] = caught[0]
    return list(in_order.split([count_tokens(p, SIZES) for p in parts]))


def test_text_does_not_see_what_is_ahead_of_it(network: Bagel) -> None:
    whole, other = text(1, 6), text(1, 6)
    other = replace(other, ids=[*whole.ids[:4], 7, 8])
    a, b = (states_by_part(network, [t])[0] for t in (whole, other))
    assert torch.equal(a[:5], b[:5])
    assert not torch.equal(a[5], b[5])


def test_the_mask_of_a_small_row_is_the_written_one() -> None:
    # sample 0: text of 2, noised of 2, clean of 2; sample 1: text of 1; then padding
    c, f, n = CAUSAL, FULL, NOISE
    places = Places(
        *(torch.tensor([row]) for row in (
            [0, 0, 0, 0, 0, 0, 1, PADDING], [0, 0, 1, 1, 2, 2, 3, 0], [c, c, n, n, f, f, c, f],
        ))
    )  # fmt: skip
    rows = ["".join("x" if seen else "." for seen in row) for row in dense_mask(places)[0, 0].tolist()]
    assert rows == ["x.......", "xx......", "xxxx....", "xxxx....", "xx..xx..", "xx..xx..", "......x.", ".......x"]


def test_blocks_and_the_dense_mask_give_the_same(network: Bagel) -> None:
    packed = pack([[trace(10), direct(3)], [direct(5)]], TOKENS, SIZES)
    with torch.no_grad():
        dense = network(packed)
        network.attention = "blocks"
        blocks = network(packed)
        network.attention = "auto"
    torch.testing.assert_close(blocks.logits_NV, dense.logits_NV, **CLOSE)
    torch.testing.assert_close(blocks.velocity_ND, dense.velocity_ND, **CLOSE)


def test_each_expert_learns_from_its_own_tokens(network: Bagel) -> None:
    def sums(sample, weights) -> dict[str, float]:
        network.zero_grad()
        losses(network, [[sample]]).over_tokens(*weights).backward()
        return {n: float(p.grad.abs().sum()) for n, p in network.named_parameters()}

    words = sums([text(1, 5, learn=True)], (1.0, 0.0))
    assert all(g > 0 for n, g in words.items() if ".und." in n or n.startswith(("norm_und", "lm_head", "embed_tokens")))
    assert not any(
        g for n, g in words.items() if ".gen." in n or n.startswith(("norm_gen", "latent", "time", "vision", "connector"))
    )
    drawing = sums([text(1, 5), NoisedImage(image(1), image(2), 0.5)], (0.0, 1.0))
    assert all(g > 0 for n, g in drawing.items() if ".gen." in n or n.startswith(("norm_gen", "latent", "time")))
    # of the words the last layer needs keys and values alone
    last = f"layers.{SIZES.decoder.layers - 1}.und."
    assert drawing[f"{last}v_proj.weight"] > 0
    assert drawing[f"{last}mlp.up_proj.weight"] == drawing["norm_und.weight"] == drawing["lm_head.weight"] == 0
    looking = sums([SeenImage(image(3)), text(1, 2, learn=True)], (1.0, 0.0))
    assert all(g > 0 for n, g in looking.items() if n.startswith(("vision", "connector")) and "k_proj.bias" not in n)


def test_labels_are_the_next_tokens_and_what_follows() -> None:
    words = text(1, 3, learn=True, then="image", weight=0.5)
    seen = SeenImage(image(1), then="stop")
    packed = pack([[[text(2, 2), words, CleanImage(image(1)), seen]]], TOKENS, SIZES)
    assert packed.label_N.tolist() == [*words.ids, TOKENS.text_end, TOKENS.image_start, TOKENS.stop]
    assert packed.label_weight_N.tolist() == [0.5] * 5 + [1.0]
    assert packed.text_N[packed.ask_N].tolist() == [TOKENS.text_start, *words.ids, TOKENS.text_end, TOKENS.image_end]


def test_positions_are_the_published_ones() -> None:
    picture = image(1)
    parts = [text(1, 2), NoisedImage(picture, picture, 0.5), CleanImage(picture), SeenImage(picture), text(2, 1)]
    packed = pack([[parts]], TOKENS, SIZES)
    in_order = torch.empty_like(packed.position_N)
    in_order[packed.place_N] = packed.position_N
    assert in_order.tolist() == [0, 1, 2, 3, *[4] * 6, *[4] * 6, *[5] * 6, 6, 7, 8]
    assert packed.next_positions == [9]


def test_dropped_conditions_leave_their_position_and_take_their_labels_along() -> None:
    picture = image(1)
    parts = [
        text(1, 2, droppable=True, then="image"), NoisedImage(picture, picture, 0.5), CleanImage(picture, droppable=True),
        SeenImage(picture), text(2, 1),
    ]  # fmt: skip
    rates = {Text: 0.1, CleanImage: 0.3, SeenImage: 1.0}
    assert drop_conditions(parts, [0.1, 0.0, 0.3, 0.0, 0.0], rates) == parts
    kept = drop_conditions(parts, [0.05, 0.0, 0.2, 0.0, 0.0], rates)
    assert [type(p) for p in kept] == [NoisedImage, Gap, SeenImage, Text]
    packed = pack([[kept]], TOKENS, SIZES)
    assert packed.next_positions == [5]  # the gap 1, the ViT's copy 1, the text 3
    assert len(packed.label_N) == 0


def test_a_noised_picture_is_on_the_line_and_a_clean_one_is_at_its_end() -> None:
    clean, noise = image(1), image(2)
    packed = pack([[[NoisedImage(clean, noise, 0.25), CleanImage(clean)]]], TOKENS, SIZES)
    torch.testing.assert_close(packed.latents_ND[:4], patchify(0.75 * clean + 0.25 * noise, 4))
    torch.testing.assert_close(packed.latents_ND[4:], patchify(clean, 4))
    torch.testing.assert_close(packed.target_ND, patchify(noise - clean, 4))
    assert packed.time_I.tolist() == [0.25, 0.0]
    assert packed.noised_N.tolist() == [0, 1, 2, 3]


@given(st.integers(1, 3), st.integers(1, 4), st.sampled_from([1, 2, 4]), st.integers(1, 3))
@settings(max_examples=20)
def test_patches_are_put_together_again(rows: int, columns: int, patch: int, channels: int) -> None:
    x = torch.randn(2, channels, rows * patch, columns * patch)
    tokens = patchify(x, patch)
    assert torch.equal(unpatchify(tokens, (rows, columns), patch), x)
    assert torch.equal(tokens[1], patchify(x[1], patch))
    assert torch.equal(tokens[0, 0].view(patch, patch, channels).permute(2, 0, 1), x[0, :, :patch, :patch])


def test_a_network_that_predicts_the_picture_is_read_as_a_velocity() -> None:
    sizes = SIZES.model_copy(update={"latent": LatentConfig(channels=3, patch=4, side=4, prediction="clean")})
    network = small_bagel(sizes)
    with torch.no_grad():
        for weight in (network.latent_out.weight, network.latent_out.bias):
            weight.zero_()  # it says that the picture is grey
    clean, noise = torch.zeros(3, 8, 8), image(2)
    packed = pack([[[NoisedImage(clean, noise, 0.5)]]], TOKENS, sizes)
    torch.testing.assert_close(network(packed).velocity_ND, packed.target_ND)


def test_turning_keeps_lengths_and_depends_on_distance_alone() -> None:
    q, k = torch.randn(2, 1, 1, 8)
    products = []
    for shift in (0, 11):
        a = rotate(q, *rotary(torch.tensor([5 + shift]), 8, 1e4))
        b = rotate(k, *rotary(torch.tensor([2 + shift]), 8, 1e4))
        torch.testing.assert_close(a.norm(), q.norm())
        products.append((a * b).sum())
    torch.testing.assert_close(products[0], products[1], **CLOSE)


def test_rows_are_filled_and_a_sample_that_is_too_long_is_refused() -> None:
    samples = [direct(0), trace(10), direct(1), direct(3)]
    lengths = [sum(count_tokens(p, SIZES) for p in s) for s in samples]
    rows = fill_rows(samples, SIZES, max(lengths) + 1)
    assert sorted(id(s) for row in rows for s in row) == sorted(map(id, samples))
    assert all(sum(count_tokens(p, SIZES) for s in row for p in s) <= max(lengths) + 1 for row in rows)
    assert len(rows) < len(samples)
    with pytest.raises(ValueError, match=f"{max(lengths)} tokens"):
        fill_rows(samples, SIZES, max(lengths) - 1)


@pytest.mark.parametrize("size", [(6, 8), (8, 20)])
def test_a_picture_that_does_not_fit_the_table_is_refused(size: tuple[int, int]) -> None:
    for part in (SeenImage(image(1, size)), CleanImage(image(1, size))):
        with pytest.raises(ValueError, match="multiples of 4 up to 16"):
            pack([[[part]]], TOKENS, SIZES)
