"""Batches: what the cache holds does not depend on what was missing when it was filled."""

from __future__ import annotations

from pathlib import Path

import torch

from editkit.data.cache import open_cache
from editkit.recipe.load import load_recipe
from editkit.train.batches import BatchSource
from editkit.train.setup import make_stream, prepare_run
from editkit.train.survey import survey
from tests.train.parallel_runs import write_recipe


def test_an_encoding_is_the_same_bit_by_bit_however_many_are_made_with_it(workplace: Path, tiny_sd: Path) -> None:
    recipe, source = load_recipe(write_recipe(workplace, tiny_sd, "full"), [])
    setup = prepare_run(recipe, source)
    looked = survey(setup.train, setup.all_usable, setup.method, recipe.data)
    with open_cache() as store:
        batches = BatchSource(recipe, setup.method, setup.train, looked, make_stream(setup), setup.device, store)
        wanted = [(row, view) for view in (0, 1) for row in range(20)]
        together = batches._made(wanted)
        for first, count in ((0, 1), (7, 1), (5, 3), (20, 13)):
            for found, expected in zip(batches._made(wanted[first : first + count]), together[first:], strict=False):
                assert found.keys() == expected.keys()
                assert all(torch.equal(found[name], expected[name]) for name in expected)
        batches.close()
