"""What `train` says before long work: peak memory, pace and the expected end.

An estimate takes seconds of computing and depends on nothing that changes between two starts of a recipe, so it is remembered
in the cache folder, by everything that it was made from.
"""

from __future__ import annotations

from importlib.metadata import version

from pydantic import TypeAdapter, ValidationError

from editkit.data.cache import cache_root, entry_key
from editkit.errors import UserError
from editkit.files import write_whole
from editkit.recipe.load import dump
from editkit.train.estimate import MEASURED, Estimate, estimate
from editkit.train.machines import this_machine
from editkit.train.record import PACKAGES, machine_facts
from editkit.train.setup import Setup

STORED: TypeAdapter[Estimate] = TypeAdapter(Estimate)


def expected_line(setup: Setup, done: int) -> str:
    """The estimate in a line, with `done` steps behind it; where it fails, that and why: no training depends on it."""
    try:
        return _remembered(setup).line(done)
    except UserError:
        raise
    except Exception as error:  # it goes through the inside of every network, with tensors that have no numbers
        reason = (str(error).splitlines() or [""])[0]
        return f"expected: no estimate for this recipe ({type(error).__name__}: {reason})"


def _remembered(setup: Setup) -> Estimate:
    key = entry_key(
        content=[dump(setup.recipe).encode(), MEASURED.read_bytes()],
        made_from=setup.made_from,
        machine=machine_facts(setup.device),
        versions={p: version(p) for p in PACKAGES},
    )
    path = cache_root() / "estimates" / f"{key}.json"
    try:
        return STORED.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        found = estimate(setup.recipe, this_machine(setup.device), dataset=setup.train)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, STORED.dump_json(found), shared=True)
    return found
