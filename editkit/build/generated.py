"""What builders of generated edit pairs have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from editkit.errors import UserError


class GeneratedPairs:
    """Holds options only, so that any process can do any part; `stages` fills in whom to credit and what taught it.

    Args:
        kind: of the spec.
        options: with `train` and `test`, the rows that the first stage is asked for.
    """

    builder = ""  # its name in a spec

    def __init__(self, kind: str, options: Any) -> None:
        if kind != "edit_pairs":
            raise UserError(f'found kind = "{kind}"; builder = "{self.builder}" makes kind = "edit_pairs"')
        self._options = options
        self._credits: dict[str, str] = {}
        self._teachers: dict[str, Any] = {}

    def counts(self) -> Mapping[str, int]:
        """See `editkit.build.pipeline.StagedBuilder`."""
        return {"train": self._options.train, "test": self._options.test}

    def credits(self) -> Mapping[str, str]:
        """See `editkit.build.pipeline.StagedBuilder`."""
        return self._credits

    def teachers(self) -> Mapping[str, Any]:
        """See `editkit.build.pipeline.StagedBuilder`."""
        return self._teachers
