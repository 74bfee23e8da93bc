"""The one preprocessing path."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from editkit.data.draws import Draws
from editkit.data.prepare import PrepareParams, View, draw_views, prepare, to_image, to_network
from tests.tiny import picture


@given(st.integers(0, 2**31), st.floats(0, 1))
def test_flips_and_crops_are_shared_by_the_pictures_of_an_example(seed: int, flip: float) -> None:
    params = PrepareParams(16, "random")
    (view,) = draw_views(params, flip, Draws(seed, [7]))
    image = picture("red", (40, 24))
    pair = prepare([image, image], params, view)
    assert torch.equal(pair[0], pair[1])


def test_flips_happen_as_often_as_asked() -> None:
    flips = [view.flip for view in draw_views(PrepareParams(8), 0.25, Draws(0, range(2000)))]
    assert 0.2 < sum(flips) / len(flips) < 0.3


def test_a_flip_mirrors_and_a_fitting_picture_is_untouched() -> None:
    image = picture("red", (16, 16))
    plain = prepare([image], PrepareParams(16))[0]
    assert torch.equal(plain.permute(1, 2, 0), torch.tensor(list(image.getdata()), dtype=torch.uint8).view(16, 16, 3))
    assert torch.equal(prepare([image], PrepareParams(16), View(flip=True))[0], plain.flip(2))


def test_pictures_are_cropped_not_squashed() -> None:
    wide = Image.new("RGB", (60, 20), "white")
    wide.paste("black", (0, 0, 20, 20))
    assert prepare([wide], PrepareParams(20))[0].min() > 200  # the black third lies outside the centre crop


def test_tensors_and_pictures_go_there_and_back() -> None:
    image = picture("teal", (16, 16))
    assert to_image(to_network(prepare([image], PrepareParams(16)))[0]).tobytes() == image.tobytes()
