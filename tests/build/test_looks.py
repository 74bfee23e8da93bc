"""The looks that a photograph is given."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from PIL import Image

from editkit.build import looks


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    y, x = np.mgrid[0:1:96j, 0:1:128j]
    disc = (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.08
    colours = np.stack([np.where(disc, 0.9, 0.2 + 0.3 * x), np.where(disc, 0.4, 0.5 * y), 0.7 - 0.3 * x], -1)
    grain = np.random.default_rng(0).normal(0, 0.03, colours.shape)
    return Image.fromarray((np.clip(colours + grain, 0, 1) * 255).astype(np.uint8))


@pytest.mark.parametrize("look", [looks.cartoon, looks.sketch, looks.style], ids=lambda look: look.__name__)
def test_equal_numbers_draw_alike_at_the_size_of_the_picture(look: looks.Look, photo: Image.Image) -> None:
    before = photo.tobytes()
    made, _ = look(photo, Random(1))
    assert look(photo, Random(1))[0].tobytes() == made.tobytes()
    assert photo.tobytes() == before
    assert (made.size, made.mode) == (photo.size, "RGB")
    assert np.abs(np.asarray(made, float) - np.asarray(photo, float)).mean() > 5


def test_a_cartoon_has_flat_colours_and_a_dark_line_at_the_edge(photo: Image.Image) -> None:
    made = np.asarray(looks.cartoon(photo, Random(1))[0], float)
    clean = np.asarray(photo, float)
    inside = (slice(40, 56), slice(56, 72))
    assert made[inside].std(axis=(0, 1)).max() < 0.5 * clean[inside].std(axis=(0, 1)).max()
    edge = made[48, 20:60].mean(-1)
    assert edge.min() < 0.6 * min(edge[0], edge[-1])


def test_a_sketch_has_no_colour(photo: Image.Image) -> None:
    made = np.asarray(looks.sketch(photo, Random(1))[0])
    assert (made[..., 0] == made[..., 1]).all()
    assert (made[..., 0] == made[..., 2]).all()


def test_every_style_has_another_look_and_says_its_name(photo: Image.Image) -> None:
    found = {}
    for seed in range(60):
        made, said = looks.style(photo, Random(seed))
        found.setdefault(said["style"], []).append(np.asarray(made, float).mean((0, 1)))
        if len(found) == len(looks.STYLES):
            break
    assert found.keys() == set(looks.STYLES.values())
    means = [values[0] for values in found.values()]
    assert min(np.abs(a - b).max() for i, a in enumerate(means) for b in means[i + 1 :]) > 4
