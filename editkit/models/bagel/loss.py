"""The losses of a batch, kept apart by sample: cross-entropy on text and switches, squared error on velocities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from editkit.models.bagel.network import Prediction
from editkit.models.bagel.packing import Packed

CE_WEIGHT, MSE_WEIGHT = 0.25, 1.0  # of BAGEL's recipe (arXiv:2505.14683, table 3)


@dataclass(frozen=True, slots=True)
class SampleLosses:
    """Sums over the tokens of each sample, and over how many (S samples).

    Attributes:
        ce_S, ce_tokens_S: weighted cross-entropy, and the weights' sum.
        mse_S, mse_tokens_S: squared error of the velocity, its mean over a token's numbers, and the tokens.
    """

    ce_S: torch.Tensor
    ce_tokens_S: torch.Tensor
    mse_S: torch.Tensor
    mse_tokens_S: torch.Tensor

    def over_tokens(self, ce_weight: float = CE_WEIGHT, mse_weight: float = MSE_WEIGHT) -> torch.Tensor:
        """The loss as published: means over all tokens of the batch, so that long samples count more.

        Over several processes the sums are to be exchanged first.
        """
        ce = self.ce_S.sum() / self.ce_tokens_S.sum().clamp(min=1e-8)
        mse = self.mse_S.sum() / self.mse_tokens_S.sum().clamp(min=1)
        return ce_weight * ce + mse_weight * mse

    def by_sample(self, ce_weight: float = CE_WEIGHT, mse_weight: float = MSE_WEIGHT) -> torch.Tensor:
        """The loss of each sample as if it were alone, (S,): it depends on nothing that is packed beside it."""
        ce_S = self.ce_S / self.ce_tokens_S.clamp(min=1e-8)
        return ce_weight * ce_S + mse_weight * self.mse_S / self.mse_tokens_S.clamp(min=1)


def sample_losses(prediction: Prediction, packed: Packed) -> SampleLosses:
    """Compares what the network said with what is right.

    Args:
        prediction: of the same batch.
        packed: a training batch: every token that is asked for has a label.
    """
    ce_N = F.cross_entropy(prediction.logits_NV.float(), packed.label_N, reduction="none") * packed.label_weight_N
    mse_N = (prediction.velocity_ND.float() - packed.target_ND.float()).square().mean(-1)
    count = packed.samples
    return SampleLosses(
        _by_sample(ce_N, packed.label_sample_N, count),
        _by_sample(packed.label_weight_N, packed.label_sample_N, count),
        _by_sample(mse_N, packed.target_sample_N, count),
        _by_sample(torch.ones_like(mse_N), packed.target_sample_N, count),
    )


def _by_sample(x_N: torch.Tensor, sample_N: torch.Tensor, count: int) -> torch.Tensor:
    return x_N.new_zeros(count).index_add(0, sample_N, x_N)
