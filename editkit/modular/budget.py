"""What a trajectory has used of its budget."""

from __future__ import annotations

import time

from editkit.models.chat.client import Spent
from editkit.modular.options import Budget


class BudgetSpent(Exception):  # noqa: N818 (no error: the trajectory ends with the best that was seen)
    """A limit is reached; its words say which."""


class Meter:
    """Counts, and says when it is enough.

    Args:
        budget: the limits.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._watched: list[Spent] = []
        self._began = time.monotonic()

    def watch(self, spent: Spent) -> None:
        """Counts in what a client uses up."""
        self._watched.append(spent)

    def begin(self) -> None:
        """Starts the clock."""
        self._began = time.monotonic()

    def before_request(self) -> None:
        """Raises BudgetSpent where no request may be sent any more."""
        limits, used = self._budget, self.used()
        self.before_drawing()
        if limits.calls and used.calls >= limits.calls:
            raise BudgetSpent(f"{limits.calls} calls")
        if limits.tokens and used.tokens >= limits.tokens:
            raise BudgetSpent(f"{limits.tokens} tokens")
        if limits.cost and used.cost >= limits.cost:
            raise BudgetSpent(f"a cost of {limits.cost:g}")

    def before_drawing(self) -> None:
        """Raises BudgetSpent where the time is over."""
        if self._budget.seconds and self.seconds >= self._budget.seconds:
            raise BudgetSpent(f"{self._budget.seconds} seconds")

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def used(self) -> Spent:
        """By all that is watched."""
        some = self._watched
        return Spent(sum(s.calls for s in some), sum(s.tokens for s in some), sum(s.cost for s in some))
