"""Rectified flow (Liu et al. 2023; Lipman et al. 2023): straight lines from a clean picture to noise, and the way back.

Time t is in [0, 1]: 0 = the clean picture, 1 = noise, as everywhere in this package.
"""

from __future__ import annotations

import torch


def flow_path(clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """x_t = (1 - t) x_0 + t eps (Esser et al. 2024, eq. 13).

    Args:
        clean: x_0, any shape.
        noise: eps, standard normal, of the same shape.
        t: times, of a shape that is broadcast to theirs.
    """
    return (1 - t) * clean + t * noise


def flow_velocity(clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """dx_t / dt = eps - x_0, which a velocity network is asked for."""
    return noise - clean


def velocity_of_clean(x_t: torch.Tensor, clean: torch.Tensor, t: torch.Tensor, t_min: float = 0.05) -> torch.Tensor:
    """The velocity that leads from x_t to a predicted clean picture: (x_t - x_0) / t.

    A network that predicts x_0 and is judged by its velocity learns data of fewer dimensions than its width more easily
    (Li and He 2025, "Back to Basics: Let Denoising Generative Models Denoise").

    Args:
        x_t: the noisy picture.
        clean: the prediction of x_0.
        t: times, of a shape that is broadcast to theirs.
        t_min: below it the division would make any error large; the published value.
    """
    return (x_t - clean) / t.clamp(min=t_min)


def sampling_times(steps: int, shift: float = 1.0) -> list[float]:
    """The times between which Euler's method steps from noise to the picture: `steps` + 1 numbers from 1 to 0.

    Evenly spaced, then shifted by t -> shift t / (1 + (shift - 1) t) as in training (Esser et al. 2024, section 5.3.2), so
    that more of the steps lie in the noise.

    Args:
        steps: evaluations of the network.
        shift: above 1 = more steps at high noise.
    """
    even = [1 - k / steps for k in range(steps + 1)]
    return [shift * t / (1 + (shift - 1) * t) for t in even]
