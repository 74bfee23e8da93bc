"""Whether what was said of a picture of the scenes world is true, by the picture's graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from editkit.lab.scenes import OPPOSITE
from editkit.lab.trace_reading import UnreadableError, read_description

Graph = Mapping[str, Any]  # as `editkit.lab.scenes.Scene.graph` gives it


def is_true(text: str, graph: Graph) -> bool:
    """Whether a text is a caption of this world, and all that it states is so: numbers exactly, colours, relations.

    What it leaves out is no fault, as captions that say only what a prompt asks for leave something out.

    Args:
        text: what was said.
        graph: of the picture.
    """
    try:
        said = read_description(text)
    except UnreadableError:
        return False
    meant: dict[str, set[int]] = {}  # class -> the objects that were told of
    for noun in said.nouns:
        fits = {i for i, o in enumerate(graph["objects"]) if o["class"] == noun.kind and noun.colour in ("", o["color"])}
        if len(fits) != noun.count:
            return False
        meant.setdefault(noun.kind, set()).update(fits)
    found = {(i, name, j) for i, name, j in graph["relations"]}
    found |= {(j, OPPOSITE[name], i) for i, name, j in found}
    return all(any((i, r.name, j) in found for i in meant[r.kind] for j in meant[r.other]) for r in said.relations)


def count_true_captions(texts: Sequence[str], graphs: Sequence[Graph]) -> int:
    """How many captions, one a graph, are true."""
    return sum(is_true(text, graph) for text, graph in zip(texts, graphs, strict=True))
