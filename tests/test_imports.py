"""Dependencies run one way, and the light rooms stay light."""

from __future__ import annotations

import ast
import contextlib
import gc
import subprocess
import sys
from pathlib import Path

import pytest

from editkit.imports import quick_imports

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "editkit"

# From the top to the bottom: a room may import those that stand to its right, and itself.
ORDER = ["cli", "apps", "publish", "train", "modular", "build", "methods", "evaluate", "models", "diffusion", "data", "recipe"]
EVERYWHERE = {"errors", "files", "progress", "runs", "environment", "imports", "bundle", "__init__", "__main__"}
LAB = "lab"  # worlds, teachers and judges stand beside the rooms that use them
MAY_USE_LAB = {"apps", "cli", "modular", "build", "evaluate", "methods"}

MAX_FILE, MAX_FUNCTION = 400, 100
LONGER: dict[str, str] = {}  # file or file:function -> why it may be longer


def modules() -> list[Path]:
    return sorted([*PACKAGE.rglob("*.py"), *(ROOT / "apps").rglob("*.py")])


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0] if parts[0] == "apps" else Path(parts[1]).stem


def imported_rooms(path: Path) -> set[tuple[str, int]]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "editkit" else [f"editkit.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "apps":
                found.add(("apps", node.lineno))
            elif parts[0] == "editkit" and len(parts) > 1:
                found.add((parts[1], node.lineno))
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    room = room_of(path)
    if room in EVERYWHERE:
        return
    for other, line in imported_rooms(path):
        where = f"{path.relative_to(ROOT)}:{line} imports {other}"
        if other == LAB:
            assert room in MAY_USE_LAB | {LAB}, where
        elif room == LAB:
            assert other in {"data", "recipe", "models"} | EVERYWHERE, where
        elif other not in EVERYWHERE:
            assert ORDER.index(other) >= ORDER.index(room), where


def test_nothing_outside_a_family_or_method_knows_its_module() -> None:
    for path in modules():
        text = path.read_text(encoding="utf-8")
        if room_of(path) in ("train", "recipe", "data", "diffusion", "cli"):
            assert "editkit.models.stable_diffusion" not in text, path
            assert "editkit.methods.instruct_edit" not in text, path


@pytest.mark.parametrize("code", ["import editkit", "import editkit.cli", "from editkit.recipe.load import load_recipe"])
def test_light_imports_load_no_torch(code: str) -> None:
    check = f"{code}; import sys; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    name = str(path.relative_to(ROOT))
    assert text.count("\n") <= MAX_FILE or name in LONGER, f"{name} has {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno
            assert length <= MAX_FUNCTION or f"{name}:{node.name}" in LONGER, f"{name}:{node.name} has {length} lines"


def test_every_public_function_says_what_it_does() -> None:
    silent = []
    for path in modules():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if (
                isinstance(node, (ast.FunctionDef, ast.ClassDef))
                and not node.name.startswith("_")
                and not ast.get_docstring(node)
            ):
                silent.append(f"{path.relative_to(ROOT)}:{node.name}")
    assert not silent


@pytest.mark.parametrize("collecting", [True, False])
def test_quick_imports_leave_the_collector_as_it_was(collecting: bool) -> None:
    before = gc.isenabled()
    gc.enable() if collecting else gc.disable()
    try:
        with contextlib.suppress(ImportError), quick_imports():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() == collecting
    finally:
        gc.enable() if before else gc.disable()
