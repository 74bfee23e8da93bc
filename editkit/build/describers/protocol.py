"""What a describer gives to the stage "describe"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image


@dataclass(frozen=True, slots=True)
class Described:
    """What was said of a pair.

    Attributes:
        instruction: in the describer's own words; "" = it found none.
        agreement: with the instruction that the pair came with, in [0, 1]; None where it had none or nothing is known.
        about: further facts for the provenance.
    """

    instruction: str
    agreement: float | None
    about: Mapping[str, Any] = field(default_factory=dict)


class Describing(Protocol):
    """A describer at work."""

    def look(self, source: Image.Image, target: Image.Image, given: str) -> Any:
        """What it keeps of a pair, small enough for a part of them; `given` is the pair's instruction, "" for none."""
        ...

    def describe(self, seen: Sequence[Any]) -> Sequence[Described | None]:
        """What it says of each pair that it has looked at; None = no usable reply."""
        ...


class Describer(Protocol):
    """Holds options only; `open` loads what it needs."""

    @property
    def processes(self) -> int:
        """See `editkit.build.stages.Stage`."""
        ...

    @property
    def accelerated(self) -> bool:
        """See `editkit.build.stages.Stage`."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """All that its words depend on beside the pairs."""
        ...

    def open(self) -> Describing: ...
