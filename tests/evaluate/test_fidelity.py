"""Comparing outputs with their targets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity

from editkit.data.examples import EditPair
from editkit.data.pictures import Picture
from editkit.environment import EXTRAS
from editkit.errors import UserError
from editkit.evaluate import fidelity
from editkit.evaluate.fidelity import MOST_DB, PerceptualDistance, TargetScoring
from editkit.evaluate.metrics import psnr
from editkit.evaluate.scores import figures_of, kinds_of
from editkit.evaluate.scoring import load_scoring
from tests.tiny import encoded


@pytest.fixture(scope="module")
def target() -> Image.Image:
    coarse = Image.fromarray(np.random.default_rng(1).integers(0, 255, (8, 8, 3), dtype=np.uint8))
    return coarse.resize((64, 64), Image.Resampling.BICUBIC)


def noisy(image: Image.Image, amount: float) -> Image.Image:
    noise = np.random.default_rng(2).normal(0, amount, (*image.size[::-1], 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def pair(source: Image.Image, target: Image.Image, category: str = "denoise") -> EditPair:
    pictures = (Picture(data=encoded(image)) for image in (source, target))
    return EditPair("a", *pictures, ("denoise it",), category)


def test_psnr_and_ssim_are_those_of_the_libraries(target: Image.Image) -> None:
    target = target.resize((256, 256), Image.Resampling.BICUBIC)
    source, output = noisy(target, 40), noisy(target, 12)
    scoring = TargetScoring()
    (score,) = scoring.score([pair(source, target)], [output])
    assert score.psnr == pytest.approx(psnr(output, target), abs=1e-3)
    reference = structural_similarity(
        np.asarray(output) / 255, np.asarray(target) / 255, channel_axis=2, data_range=1.0, gaussian_weights=True,
        sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    assert score.ssim == pytest.approx(reference, abs=0.01)  # which leaves out the border
    assert score.improved


def test_doing_nothing_improves_nothing_and_the_target_is_perfect(target: Image.Image) -> None:
    source = noisy(target, 30)
    pairs = [pair(source, target), replace(pair(source, target), category="deblur")]
    scoring = TargetScoring()
    idle, perfect = (scoring.summarise(pairs, scoring.score(pairs, [made] * 2)) for made in (source, target))
    assert idle["improved"] == 0.0
    assert perfect["improved"] == 1.0
    assert (perfect["psnr"], perfect["ssim"], perfect["perceptual"]) == (MOST_DB, pytest.approx(1), pytest.approx(0, abs=1e-6))
    assert idle["by_category"].keys() == {"denoise", "deblur"}
    assert idle["by_category"]["deblur"]["n"] == 1
    assert [*kinds_of(idle)] == ["psnr", "ssim", "perceptual", "improved", "n"]
    assert "followed" not in figures_of(idle)


def test_scores_do_not_depend_on_the_precision_that_the_editor_computes_in(target: Image.Image) -> None:
    scoring = TargetScoring()
    arguments = ([pair(noisy(target, 30), target)], [noisy(target, 10)])
    alone = scoring.score(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        assert scoring.score(*arguments) == alone


def test_the_perceptual_distance_grows_with_the_damage_and_is_of_the_network_as_it_is(target: Image.Image) -> None:
    distance = PerceptualDistance()
    clean, *spoiled = (
        torch.tensor(np.asarray(image)).permute(2, 0, 1)[None] / 255 for image in (target, noisy(target, 5), noisy(target, 40))
    )
    near, far = (distance(clean, x).item() for x in spoiled)
    assert 0 < near < far < 4
    assert distance(spoiled[1], clean).item() == pytest.approx(far, rel=1e-5)
    seen = []
    handle = distance._network._blocks[10].register_forward_hook(lambda _m, _i, out: seen.append(out))
    distance._network.extract_features((clean * 255 - 127) / 128)
    handle.remove()
    *_, last = distance._features(clean)
    assert torch.allclose(last, torch.nn.functional.normalize(seen[0], dim=1), atol=1e-5)


def test_without_the_network_the_rest_is_measured_and_that_is_said(
    target: Image.Image, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fidelity, "is_installed", lambda _: False)
    scoring = load_scoring("target")
    scores = scoring.summarise([pair(target, target)], scoring.score([pair(target, target)], [target]))
    assert scores["perceptual"] is None
    assert EXTRAS["efficientnet-lite"].cost in capsys.readouterr().err


def test_a_judge_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(UserError, match='found "psnr"; expected "lab:judges", or "target"'):
        load_scoring("psnr")
