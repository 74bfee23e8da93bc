"""`editkit eval` as a person types it, for the tests of the benches."""

from __future__ import annotations

import json
from typing import Any

import pytest

from editkit.cli import main


def judged(capsys: pytest.CaptureFixture, *arguments: str) -> dict[str, Any]:
    """What `editkit eval ... --json` prints."""
    with pytest.raises(SystemExit) as left:
        main(["eval", *arguments, "--json"])
    shown = capsys.readouterr()
    assert left.value.code == 0, shown.err
    return json.loads(shown.out)


def refused(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line with which it refuses."""
    with pytest.raises(SystemExit) as left:
        main(["eval", *arguments])
    shown = capsys.readouterr()
    assert left.value.code == 2
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("editkit: ")
    return shown.err
