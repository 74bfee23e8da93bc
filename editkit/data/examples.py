"""The vocabulary: what one record of a data set is, whatever file or builder it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from editkit.data.pictures import Picture
from editkit.data.traces import PlanTrace, inspection_text, plan_text

SCORE = "score"  # of `EditPair.scores`: how good the pair is, as its makers say


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """A picture and what it shows.

    Attributes:
        key: unique in its data set, stable between runs; caches and reports name the example by it.
        image: the picture, opened when asked for.
        captions: descriptions of the same picture; training draws one, evaluation takes the first.
        facts: what is known to be true of the picture (attribute -> value), where a world knows it.
        licence: of the picture, as its author states it.
    """

    key: str
    image: Picture
    captions: tuple[str, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
    licence: str = ""


@dataclass(frozen=True, slots=True)
class EditPair:
    """A source, an instruction and the target that the instruction asks for.

    Attributes:
        key: unique in its data set, stable between runs.
        source: the picture before the edit.
        target: the picture after it.
        instructions: phrasings of the same edit; training draws one, evaluation takes the first.
        category: the kind of edit ("add", "colour", "keep" ...), for tables by kind.
        mask: white where source and target may differ; None where it is not known.
        source_caption, target_caption: descriptions of both pictures, for the CLIP direction.
        source_facts, target_facts: true attributes of both pictures, where a world knows them.
        licence: of the pictures, as their authors state it.
        references: further pictures that the instruction speaks of, in the order in which it does.
        scores: numbers that the data set's authors give the example, by the name of the column; SCORE is the doctor's.
        provenance: of a generated pair, how it came about, as JSON; "" = nobody wrote it down.
    """

    key: str
    source: Picture
    target: Picture
    instructions: tuple[str, ...]
    category: str = ""
    mask: Picture | None = None
    source_caption: str = ""
    target_caption: str = ""
    source_facts: Mapping[str, str] = field(default_factory=dict)
    target_facts: Mapping[str, str] = field(default_factory=dict)
    licence: str = ""
    references: tuple[Picture, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    provenance: str = ""


@dataclass(frozen=True, slots=True)
class EditRequest:
    """A source and an instruction whose result nobody drew: what many evaluation sets are. Nothing can be trained on it.

    Attributes are those of `EditPair`.
    """

    key: str
    source: Picture
    instructions: tuple[str, ...]
    category: str = ""
    mask: Picture | None = None
    source_caption: str = ""
    target_caption: str = ""
    licence: str = ""
    references: tuple[Picture, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)


Example = CaptionedImage | EditPair  # what can be trained on
AnyExample = Example | EditRequest
E_co = TypeVar("E_co", covariant=True)


class Dataset(Protocol[E_co]):
    """A map-style data set: random access, so that an order can be resumed by index."""

    @property
    def info(self) -> Mapping[str, Any]:
        """What `dataset.json` or the reader knows: counts, licences, the hash that a resume compares."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> E_co: ...


def all_texts(example: AnyExample | PlanTrace) -> tuple[str, ...]:
    """The texts of an example: its captions, its instructions, or of a trace the prompt and all that is written in it."""
    if isinstance(example, PlanTrace):
        plans = [plan_text(step) for step in example.steps]
        return (example.prompt, *plans, *(inspection_text(s.inspection) for s in example.steps if s.inspection is not None))
    return example.captions if isinstance(example, CaptionedImage) else example.instructions


def pictures_of(example: AnyExample | PlanTrace) -> Sequence[tuple[str, Picture]]:
    """The pictures of an example with their roles, for checks that open every one."""
    if isinstance(example, CaptionedImage):
        return (("image", example.image),)
    if isinstance(example, PlanTrace):
        return [(f"step {n}", step.sketch) for n, step in enumerate(example.steps, 1) if step.sketch is not None]
    found = [("source", example.source)]
    if isinstance(example, EditPair):
        found.append(("target", example.target))
    if example.mask is not None:
        found.append(("mask", example.mask))
    return [*found, *((f"reference {n}", picture) for n, picture in enumerate(example.references, 1))]
