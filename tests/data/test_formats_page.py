"""docs/FORMATS.md is what the data specs say."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_specs_say() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "formats_page.py"))["page"]()
    assert (ROOT / "docs" / "FORMATS.md").read_text(encoding="utf-8") == made, "run python scripts/formats_page.py"
