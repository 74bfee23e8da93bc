"""An example's numbers are its own: whatever batch it stands in, whatever else is drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editkit.data.draws import CACHED_VIEW, LOSS, VIEW, Draws

PINNED = {
    "normal": [-0.15307228, -1.35708261, 0.13800798, 0.75715762],
    "uniform": [0.2973395, 0.02586436],
    "integers": [998358, 241552],
    "view": 0.92599744,
    "cached view": 0.6337018,
}

POSITIONS = st.lists(st.integers(0, 2**40), min_size=1, max_size=6, unique=True)


def drawn(seed: int, positions: list[int], purpose: int = LOSS) -> dict[int, tuple]:
    """Everything that each example of a batch draws, in the order in which a method would."""
    draws = Draws(seed, positions, purpose)
    assert len(draws) == len(positions)
    made = (draws.normal(torch.zeros(len(positions), 2, 3)), draws.uniform(), draws.integers(1000), draws.uniform(2))
    return {at: tuple(m[i].tolist() for m in made) for i, at in enumerate(positions)}


@given(st.integers(-(2**62), 2**62), POSITIONS, st.randoms(use_true_random=False))
def test_an_example_draws_the_same_in_any_batch_in_any_order(seed: int, positions: list[int], random: object) -> None:
    together = drawn(seed, positions)
    shuffled = positions.copy()
    random.shuffle(shuffled)
    assert drawn(seed, shuffled) == together
    alone: dict[int, tuple] = {}
    for at in positions:
        alone |= drawn(seed, [at])
    assert alone == together


def test_a_shape_goes_on_where_the_last_one_stopped() -> None:
    cut, whole = Draws(1, [5]), Draws(1, [5])
    parts = torch.cat([cut.uniform(3), cut.uniform(4)], dim=1)
    assert torch.equal(parts, whole.uniform(7))


def test_ranges_types_and_devices() -> None:
    draws = Draws(3, range(500))
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        like = torch.empty(500, 4, dtype=dtype)
        assert draws.normal(like).dtype == dtype
        assert draws.normal(like).shape == like.shape
    uniform = draws.uniform(20)
    assert (uniform.dtype, uniform.shape) == (torch.float32, (500, 20))
    assert 0 <= uniform.min() < 0.001
    assert 0.999 < uniform.max() < 1
    whole = draws.integers(7)
    assert (whole.dtype, whole.shape) == (torch.int64, (500,))
    assert set(whole.tolist()) == set(range(7))


def ks(sample: np.ndarray, cumulative: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance times root n: above 1.95 with probability 0.001 where the distribution is the named one."""
    count = len(sample)
    steps = np.arange(count + 1) / count
    return float(np.maximum(np.abs(cumulative - steps[1:]), np.abs(cumulative - steps[:-1])).max() * math.sqrt(count))


def of_stream(seed: int, positions: range, purpose: int = LOSS) -> torch.Tensor:
    return Draws(seed, positions, purpose).uniform(1)[:, 0].double()


@pytest.mark.parametrize("count", [1, 40])
def test_across_examples_and_within_one_the_numbers_have_their_distribution(count: int) -> None:
    draws = Draws(11, range(8000 // count))
    uniform = np.sort(draws.uniform(count).double().flatten().numpy())
    assert ks(uniform, uniform) < 1.95
    normal = draws.normal(torch.empty(8000 // count, count)).double().flatten().sort().values
    assert ks(normal.numpy(), torch.special.ndtr(normal).numpy()) < 1.95


NEAR = [
    ("purposes", lambda at: of_stream(0, at, LOSS), lambda at: of_stream(0, at, VIEW)),
    ("cached views", lambda at: of_stream(0, at, VIEW), lambda at: of_stream(0, at, CACHED_VIEW)),
    ("seeds", lambda at: of_stream(0, at), lambda at: of_stream(1, at)),
    ("a seed's last purpose and the next seed's first", lambda at: of_stream(0, at, CACHED_VIEW), lambda at: of_stream(1, at)),
    ("positions", lambda at: of_stream(0, at), lambda at: of_stream(0, range(at.start + 1, at.stop + 1))),
]


@pytest.mark.parametrize(("name", "one", "other"), NEAR, ids=[n for n, *_ in NEAR])
def test_neighbouring_streams_have_nothing_to_do_with_each_other(name: str, one: object, other: object) -> None:
    a, b = one(range(6000)), other(range(6000))
    assert not torch.equal(a, b), name
    assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 4 / math.sqrt(6000)
    difference = ((a - b) % 1).sort().values.numpy()  # uniform again where both are independent
    assert ks(difference, difference) < 1.95


def test_the_numbers_are_those_that_runs_were_made_with() -> None:
    """A change here changes every run: raise NUMERICS in editkit/train/identity.py with it."""
    draws = Draws(7, [0, 123_456_789_012])
    assert draws.normal(torch.empty(2, 2)).flatten().tolist() == pytest.approx(PINNED["normal"], abs=1e-6)
    assert draws.uniform().tolist() == pytest.approx(PINNED["uniform"], abs=1e-7)
    assert draws.integers(1_000_000).tolist() == PINNED["integers"]
    assert Draws(7, [0], VIEW).uniform().item() == pytest.approx(PINNED["view"], abs=1e-7)
    assert Draws(-1, [0], CACHED_VIEW).uniform().item() == pytest.approx(PINNED["cached view"], abs=1e-7)
