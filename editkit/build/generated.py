"""What builders in several stages have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from editkit.data.read import open_dataset
from editkit.errors import UserError


class GeneratedExamples:
    """Holds options only, so that any process can do any part; `stages` fills in whom to credit and what taught it.

    Args:
        kind: of the spec.
        options: with `train` and `test`, the rows that the first stage is asked for.
    """

    builder = ""  # its name in a spec
    kinds: tuple[str, ...] = ("edit_pairs",)  # what it can make

    def __init__(self, kind: str, options: Any) -> None:
        if kind not in self.kinds:
            made = " or ".join(f'"{k}"' for k in self.kinds)
            raise UserError(f'found kind = "{kind}"; builder = "{self.builder}" makes kind = {made}')
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

    def _parents(self, where: str, kind: str, *, one_each: bool) -> dict[str, str]:
        """Looks at the data set that the examples are made from, and credits whom it credits.

        Args:
            where: a data spec, a folder or a URL.
            kind: what it must hold.
            one_each: whether every row is made from an example of its own; else all may be from one.

        Returns:
            Split -> hash of the data, of the splits that rows are asked of.
        """
        sums = {}
        for split, count in self.counts().items():
            if not count:
                continue
            dataset = open_dataset(where, split)
            if dataset.info["kind"] != kind:
                raise UserError(f"{where}: found {dataset.info['kind']}; expected {kind}")
            if len(dataset) < (count if one_each else 1):
                raise UserError(f'{where}: found {len(dataset)} examples of "{split}"; [build] asks for {count}')
            sums[split] = str(dataset.info.get("sha256", ""))
            said = dataset.info.get("licences", {})
            self._credits |= {name: str(about.get("credit", "")) for name, about in said.items()}
        return sums
