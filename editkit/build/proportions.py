"""Dividing a number of examples among kinds in given proportions, and in which order they come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from fractions import Fraction


def largest_remainder(total: int, weights: Mapping[str, int]) -> dict[str, int]:
    """How many each kind gets: its exact share rounded down, and one more for the largest remainders (Hamilton's method).

    Args:
        total: to divide, 0 or more.
        weights: kind -> its part in the proportion, whole numbers of which one is positive; of equal remainders the first one
            goes first.
    """
    whole = sum(weights.values())
    found = {kind: total * weight // whole for kind, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda kind: -(total * weights[kind] % whole))  # stable: the first of equals stays first
    for kind in by_remainder[: total - sum(found.values())]:
        found[kind] += 1
    return found


def spread(counts: Mapping[str, int]) -> list[str]:
    """The kinds in an order in which every beginning has them in proportion, to within one example of each.

    Args:
        counts: kind -> how many there are in the end.
    """
    total = sum(counts.values())
    given = dict.fromkeys(counts, 0)
    order = []
    for place in range(1, total + 1):
        # of those that are owed something, the one whose next example is due first: proportionate fair scheduling
        owed = [kind for kind in counts if place * counts[kind] > given[kind] * total]
        kind = min(owed, key=lambda k: Fraction(given[k] + 1, counts[k]))
        given[kind] += 1
        order.append(kind)
    return order


def numbered(total: int, weights: Mapping[str, int]) -> list[tuple[str, int]]:
    """(kind, how many of it come before) of every example, in the order of `spread`."""
    counts: Counter[str] = Counter()
    found = []
    for kind in spread(largest_remainder(total, weights)):
        found.append((kind, counts[kind]))
        counts[kind] += 1
    return found
