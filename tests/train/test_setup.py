"""What is opened before a training, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest

from editkit.errors import UserError
from editkit.recipe.load import load_recipe
from editkit.train.setup import prepare_run

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["model.vae=lab:nothing"], "expected a shipped model"),
        (["data.resolution=48"], "pictures of 48 px"),  # the method's to refuse
    ],
)
def test_a_fault_of_the_model_is_said_before_its_data_is_built(changes: list[str], said: str, workplace: Path) -> None:
    spec = ROOT / "data_specs" / "scenes.toml"
    fixed = [f"data.train={spec}", "data.mix=[]"]
    recipe, source = load_recipe(str(ROOT / "recipes" / "lab" / "tiny_bagel.toml"), [*fixed, *changes])
    with pytest.raises(UserError, match=said):
        prepare_run(recipe, source)
    assert not any(workplace.iterdir())
