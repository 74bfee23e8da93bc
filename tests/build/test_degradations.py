"""What spoils a photograph does what its formula says."""

from __future__ import annotations

import json
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.image import peak_signal_noise_ratio as psnr

from editkit.build import degradations
from editkit.build.degradations import Spoil, from_image, to_linear, to_srgb
from editkit.build.tuning_tasks import TASKS
from editkit.data.prepare import to_image

SPOILS = [task.spoil for task in TASKS.values() if task.spoil]


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """Smooth colours with edges and a texture, as a photograph has them."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 48), torch.linspace(0, 1, 64), indexing="ij")
    stripes = 0.15 * torch.sin(60 * x) * (y > 0.5)
    return torch.stack([0.2 + 0.6 * x, 0.3 + 0.4 * y + stripes, 0.8 - 0.5 * x * y]).clamp(0, 1)


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda s: s.__name__)
def test_equal_numbers_spoil_alike_and_the_clean_picture_is_lost(spoil: Spoil, photo: torch.Tensor) -> None:
    before = photo.clone()
    made, drawn = spoil(photo, Random(5))
    again, _ = spoil(photo, Random(5))
    other, _ = spoil(photo, Random(6))
    assert torch.equal(photo, before)
    assert torch.equal(made, again)
    assert torch.equal(made, other) == (spoil is degradations.grey)
    assert made.shape == photo.shape
    assert 0 <= made.min() <= made.max() <= 1
    assert psnr(made, photo, data_range=1.0) < 34
    assert json.loads(json.dumps(drawn)) == drawn


def test_light_is_computed_in_linear_intensities_and_comes_back() -> None:
    grey = torch.linspace(0, 1, 256).view(1, 1, 256).expand(3, 1, 256)
    linear = to_linear(grey)
    assert linear[0, 0, 128].item() == pytest.approx(((128 / 255 + 0.055) / 1.055) ** 2.4, rel=1e-4)
    assert torch.allclose(to_srgb(linear), grey, atol=1e-5)


def test_the_noise_of_a_sensor_has_the_variance_of_its_light() -> None:
    flat = torch.full((3, 300, 300), 0.5)
    made, drawn = degradations._sensor(flat, Random(1), shot=(0.01, 0.02), read=(0.01, 0.02))
    assert made.var().item() == pytest.approx(drawn["shot"] * 0.5 + drawn["read"] ** 2, rel=0.02)
    assert made.mean().item() == pytest.approx(0.5, abs=1e-3)


def test_a_short_exposure_takes_the_stops_that_it_says(photo: torch.Tensor) -> None:
    made, drawn = degradations.low_light(photo, Random(2))
    assert to_linear(made).mean() / to_linear(photo).mean() == pytest.approx(2 ** -drawn["stops"], rel=0.1)


def test_haze_draws_everything_towards_the_airlight(photo: torch.Tensor) -> None:
    made, drawn = degradations.haze(photo, Random(3))
    airlight = drawn["airlight"]
    ratio = (made - airlight) / (photo - airlight)
    steady = (photo - airlight).abs() > 0.1
    assert ((ratio > 0) & (ratio < 1))[steady].all()
    top, bottom = (made - airlight).abs()[:, 0].mean(), (made - airlight).abs()[:, -1].mean()
    assert top / (photo - airlight).abs()[:, 0].mean() < bottom / (photo - airlight).abs()[:, -1].mean()


def test_rain_only_brightens_and_leaves_most_places(photo: torch.Tensor) -> None:
    dark = photo * 0.5
    made, _ = degradations.rain(dark, Random(4))
    assert (made >= dark - 1e-6).all()
    assert 0.02 < ((made - dark).abs().amax(0) > 0.02).float().mean() < 0.9


@pytest.mark.parametrize("seed", range(4))  # a shaking hand and a lens out of focus among them
def test_blur_spreads_light_and_loses_none(seed: int) -> None:
    star = torch.zeros(3, 65, 65)
    star[:, 32, 32] = 1.0
    made, drawn = degradations.blur(star, Random(seed))
    linear = to_linear(made)
    assert linear.max() < 0.5
    assert linear.sum().item() == pytest.approx(3.0, rel=0.05), drawn


def test_jpeg_is_the_codec_at_the_quality_that_it_says(photo: torch.Tensor, tmp_path) -> None:
    made, drawn = degradations.jpeg(photo, Random(5))
    to_image(photo * 2 - 1).save(tmp_path / "a.jpg", quality=drawn["quality"])
    assert torch.equal(made, from_image(Image.open(tmp_path / "a.jpg")))


def test_other_colours_leave_the_brightness_of_places_in_order(photo: torch.Tensor) -> None:
    image = to_image(photo * 2 - 1)
    made, said = degradations.recolour(image, Random(3))
    assert degradations.recolour(image, Random(3))[0].tobytes() == made.tobytes()
    assert abs(said["hue_rad"]) <= 3.1416
    hues = [torch.tensor(np.asarray(x.convert("HSV"))[..., 0] / 255 * 2 * np.pi) for x in (image, made)]
    turned = torch.remainder(hues[1] - hues[0] - said["hue_rad"] + torch.pi, 2 * torch.pi) - torch.pi
    assert turned.abs().median() < 0.05
    values = [from_image(x).amax(0) for x in (image, made)]
    assert torch.allclose(values[0], values[1], atol=0.02)


def test_a_picture_goes_to_floats_and_back() -> None:
    picture = Image.effect_noise((9, 7), 80).convert("RGB")
    assert to_image(from_image(picture) * 2 - 1).tobytes() == picture.tobytes()
