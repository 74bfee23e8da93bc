"""What a newcomer relies on: versions that fit, recipes that load, a README that is true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from editkit.data.spec import load_spec
from editkit.methods import METHODS, method_class
from editkit.models import FAMILIES, family
from editkit.recipe.load import load_recipe, options

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))
SPECS = sorted((ROOT / "data_specs").glob("*.toml"))


def constraints() -> dict[str, str]:
    lines = [s for s in (ROOT / "constraints.txt").read_text().splitlines() if s and not s.startswith("#")]
    return dict(re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)", s).groups() for s in lines)


def test_the_tested_versions_satisfy_what_is_asked_for() -> None:
    pins = {re.sub(r"[._]", "-", n.lower()): v for n, v in constraints().items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    for requirement in map(Requirement, asked):
        name = re.sub(r"[._]", "-", requirement.name.lower())
        assert name in pins, f"{name} is not pinned"
        assert requirement.specifier.contains(pins[name], prereleases=True), requirement
        assert any(s.operator in (">=", "==") for s in requirement.specifier), f"{name} is not bounded below"


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_recipe_loads_with_its_components(path: Path) -> None:
    recipe, source = load_recipe(path)
    options(recipe.method, method_class(recipe.method.name).Options, "method", source)
    options(recipe.model, family(recipe.model.family).Options, "model", source)
    assert recipe.description


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.name)
def test_every_data_spec_loads_with_its_builder(path: Path) -> None:
    from editkit.build.pipeline import builder_of

    spec, source = load_spec(path)
    assert spec.licence
    if spec.build is not None:
        builder_of(spec, source)


def test_the_registries_name_what_exists() -> None:
    for name in METHODS:
        assert method_class(name).kind in ("edit_pairs", "captioned_images")
    for name in FAMILIES:
        assert callable(family(name).load)


def test_the_readme_is_true() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in re.findall(r"make ([a-z]+)", text):
        assert command in targets
    files = re.findall(r"`((?:editkit|apps|recipes|data_specs|docs)/[\w./-]+)`", text)
    assert len([f for f in files if f.endswith(".py")]) >= 6
    for file in files:
        assert (ROOT / file).exists(), file


def test_no_machine_of_ours_is_named() -> None:
    for path in [*ROOT.glob("*"), *(ROOT / "editkit").rglob("*"), *(ROOT / "docs").rglob("*"), *(ROOT / "recipes").rglob("*")]:
        if path.is_file() and path.suffix in (".py", ".toml", ".md", ".txt", ".sh", ""):
            text = path.read_text(encoding="utf-8", errors="ignore")
            assert not re.search(r"(?<![\w.])/(opt|root|work|home)/", text), path
