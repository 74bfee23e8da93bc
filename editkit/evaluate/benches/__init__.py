"""Public benches in their own forms. The registry names each by a dotted path that is imported when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# Of models that draw from text: name -> (what draws, looks and sums up; what prints it).
BENCHES = {
    "geneval": ("editkit.evaluate.benches.geneval_run:evaluate", "editkit.evaluate.benches.geneval_run:print_geneval"),
    "geneval2": ("editkit.evaluate.benches.geneval2:evaluate", "editkit.evaluate.benches.chat_run:print_chat"),
    "t2i-compbench": ("editkit.evaluate.benches.compbench:evaluate", "editkit.evaluate.benches.chat_run:print_chat"),
    "plan_refine": ("editkit.evaluate.arms.bench:evaluate", "editkit.evaluate.arms.tables:print_plan_refine"),
    "wise": ("editkit.evaluate.benches.wise:evaluate", "editkit.evaluate.benches.chat_run:print_chat"),
}


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What can be said of a bench.

    Attributes:
        prompts: its prompt file; "" = the lab's own prompts, where the bench has some.
        samples: pictures a prompt; 0 = as the bench has it.
        judge: what looks at the pictures; "" = what the recipe names, or what fits the prompts.
        against: a run, or results, to compare with; "" = nothing.
        pairs: how many of the lab's own prompts; 0 = the bench's number.
    """

    prompts: str = ""
    samples: int = 0
    judge: str = ""
    against: str = ""
    pairs: int = 0


def run_bench(name: str, run: str, options: BenchOptions) -> dict[str, Any]:
    """Runs the bench of that name; its result has the name as "bench"."""
    return _named(BENCHES[name][0])(run, options)


def print_bench(result: Mapping[str, Any]) -> None:
    """Prints what `run_bench` returned."""
    _named(BENCHES[result["bench"]][1])(result)


def without_nan(value: Any) -> Any:
    """None for NaN, which JSON does not have, inside dictionaries."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    return None if isinstance(value, float) and value != value else value


def with_nan(value: Any) -> Any:
    """What `without_nan` was given."""
    if isinstance(value, dict):
        return {k: with_nan(v) for k, v in value.items()}
    return float("nan") if value is None else value


def _named(path: str) -> Callable[..., Any]:
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)
