"""The order of the examples and the plan of batches: pure functions of how far they have come."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit.data.sampler import BLOCK, BatchPlan, MixedStream, Planned, ShuffledStream, Stream, shares_of

GROUPS = st.lists(st.integers(1, 7), min_size=1, max_size=12)


def taken(stream: Stream, start: int, stop: int) -> list[int]:
    return [stream.at(position) for position in range(start, stop)]


@given(st.integers(1, 60), st.integers(0, 99), st.integers(1, 4))
def test_every_example_once_an_epoch_in_an_order_of_its_own(count: int, seed: int, epochs: int) -> None:
    stream = ShuffledStream(count, seed)
    orders = [taken(stream, e * count, (e + 1) * count) for e in range(epochs)]
    assert all(sorted(order) == list(range(count)) for order in orders)
    if count >= 20:
        assert len({tuple(order) for order in orders}) == epochs
        assert orders[0] != taken(ShuffledStream(count, seed + 1), 0, count)


@given(GROUPS, st.integers(0, 4), st.integers(0, 99), st.data())
def test_an_order_that_is_cut_anywhere_goes_on_as_if_it_had_not_been(
    groups: list[int], window: int, seed: int, data: st.DataObject
) -> None:
    count = sum(groups)
    whole = taken(ShuffledStream(count, seed, groups, window), 0, 3 * count)
    cut = data.draw(st.integers(0, 3 * count - 1))
    assert taken(ShuffledStream(count, seed, groups, window), cut, 3 * count) == whole[cut:]
    backwards = ShuffledStream(count, seed, groups, window)
    assert [backwards.at(p) for p in reversed(range(3 * count))] == whole[::-1]


@given(GROUPS, st.integers(1, 4), st.integers(0, 99))
def test_windows_need_only_so_many_groups_in_memory_and_visit_all(groups: list[int], window: int, seed: int) -> None:
    count = sum(groups)
    group_of = [number for number, size in enumerate(groups) for _ in range(size)]
    stream = ShuffledStream(count, seed, groups, window)
    order = taken(stream, 0, count)
    assert sorted(order) == list(range(count))
    if window < len(groups):  # the groups of the epoch come in sets of `window`, and none comes back
        runs = [frozenset()]
        for row in order:
            grown = runs[-1] | {group_of[row]}
            if len(grown) > window:
                grown = frozenset({group_of[row]})
                runs.append(grown)
            runs[-1] = grown
        assert sum(len(run) for run in runs) == len(groups)
        assert len(runs) == -(-len(groups) // window)


def test_within_a_window_neighbours_are_mixed_across_groups() -> None:
    order = taken(ShuffledStream(400, 0, [100] * 4, 2), 0, 200)
    changes = sum((a // 100) != (b // 100) for a, b in itertools.pairwise(order))
    assert 70 < changes < 130, "half of all neighbours come from different groups, as chance has it"


def test_what_cannot_be_an_order_is_refused() -> None:
    with pytest.raises(ValueError, match="needs examples"):
        ShuffledStream(0, 0)
    with pytest.raises(ValueError, match="groups of 3"):
        ShuffledStream(4, 0, [1, 2], 1)


WEIGHTS = st.lists(st.floats(0.001, 1000), min_size=1, max_size=6)


@given(WEIGHTS)
def test_shares_are_whole_and_as_near_as_can_be(weights: list[float]) -> None:
    counts = shares_of(weights, BLOCK)
    assert sum(counts) == BLOCK
    assert min(counts) >= 1
    exact = [w * BLOCK / sum(weights) for w in weights]
    if min(exact) >= 1:
        assert all(abs(c - x) < 1 for c, x in zip(counts, exact, strict=True))


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0.1, 10)), min_size=1, max_size=4), st.integers(0, 99))
def test_a_mixture_has_its_shares_in_every_block_and_each_part_its_own_epochs(
    parts: list[tuple[int, float]], seed: int
) -> None:
    sizes, weights = [size for size, _ in parts], [weight for _, weight in parts]
    starts = [0, *itertools.accumulate(sizes)]
    stream = MixedStream([ShuffledStream(n, seed + i) for i, n in enumerate(sizes)], sizes, weights, seed)
    order = taken(stream, 0, 2 * BLOCK)
    which = [next(i for i, end in enumerate(starts[1:]) if row < end) for row in order]
    for block in (0, 1):
        found = Counter(which[block * BLOCK : (block + 1) * BLOCK])
        assert [found[i] for i in range(len(sizes))] == shares_of(weights, BLOCK)
    for part, size in enumerate(sizes):  # what of a part comes by is its own order, epoch by epoch
        rows = [row - starts[part] for row, w in zip(order, which, strict=True) if w == part]
        assert rows == taken(ShuffledStream(size, seed + part), 0, len(rows))


def mixture(seed: int = 3) -> MixedStream:
    return MixedStream([ShuffledStream(7, seed), ShuffledStream(30, seed + 1)], [7, 30], [1.0, 2.5], seed)


def test_a_mixture_is_mixed_and_goes_on_from_anywhere() -> None:
    order = taken(mixture(), 0, 2500)
    for cut in (1, 999, 1000, 1001, 2400):
        assert taken(mixture(), cut, 2500) == order[cut:]
    assert order[:1000] != order[1000:2000]
    sides = [row < 7 for row in order[:1000]]
    assert sum(a != b for a, b in itertools.pairwise(sides)) > 300, "the parts alternate; they do not come one after the other"


# The plan of batches.


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    """(bucket of every example, batch size of every bucket, seed)."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    bucket_of = draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=40))
    return bucket_of, sizes, draw(st.integers(0, 99))


def plan_of(bucket_of: list[int], sizes: list[int], seed: int) -> BatchPlan:
    return BatchPlan(ShuffledStream(len(bucket_of), seed), bucket_of, sizes)


@given(plans(), st.integers(1, 40))
def test_batches_are_full_of_one_bucket_and_every_example_is_in_the_stream_once(
    given_plan: tuple[list[int], list[int], int], count: int
) -> None:
    bucket_of, sizes, seed = given_plan
    plan = plan_of(*given_plan)
    stream = ShuffledStream(len(bucket_of), seed)
    seen: list[int] = []
    for _ in range(count):
        batch = plan.next()
        assert len(batch.rows) == len(batch.positions) == sizes[batch.bucket]
        assert {bucket_of[row] for row in batch.rows} == {batch.bucket}
        assert [stream.at(at) for at in batch.positions] == list(batch.rows)
        assert list(batch.positions) == sorted(batch.positions)
        seen += batch.positions
    assert len(set(seen)) == len(seen)
    # What was drawn and is in no batch waits: less than a batch in every bucket.
    left = sorted(set(range(max(seen) + 1)) - set(seen))
    waiting = Counter(bucket_of[stream.at(at)] for at in left)
    assert all(waiting[b] < sizes[b] for b in waiting)


@given(plans())
def test_over_the_epochs_nobody_is_left_out(given_plan: tuple[list[int], list[int], int]) -> None:
    bucket_of, sizes, _ = given_plan
    plan = plan_of(*given_plan)
    seen: Counter[int] = Counter()
    epochs = max(sizes) + 3
    while sum(seen.values()) < epochs * len(bucket_of):
        seen.update(plan.next().rows)
    # Each was drawn at least `epochs` times, and of a bucket less than one batch is waiting.
    assert all(seen[row] >= epochs - sizes[bucket] + 1 for row, bucket in enumerate(bucket_of))


@given(plans(), st.integers(0, 30))
def test_a_plan_goes_on_from_its_state(given_plan: tuple[list[int], list[int], int], done: int) -> None:
    plan = plan_of(*given_plan)
    for _ in range(done):
        plan.next()
    state = json.loads(json.dumps(plan.state_dict()))
    again = plan_of(*given_plan)
    again.next()  # the state replaces whatever was there
    again.load_state_dict(state)
    assert [again.next() for _ in range(10)] == [plan.next() for _ in range(10)]


def test_a_state_is_not_moved_on_by_the_plan_that_gave_it() -> None:
    plan = BatchPlan(ShuffledStream(9, 0), [0, 1, 2] * 3, [2, 3, 4])
    plan.next()
    state = plan.state_dict()
    kept = json.dumps(state)
    for _ in range(5):
        plan.next()
    assert json.dumps(state) == kept


@given(st.integers(1, 20), st.integers(1, 8), st.integers(0, 9))
def test_one_bucket_takes_the_stream_as_it_comes(count: int, size: int, seed: int) -> None:
    plan = BatchPlan(ShuffledStream(count, seed), None, [size])
    stream = ShuffledStream(count, seed)
    for number in range(5):
        positions = tuple(range(number * size, (number + 1) * size))
        assert plan.next() == Planned(0, tuple(stream.at(p) for p in positions), positions)
