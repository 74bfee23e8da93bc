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
    objects = graph["objects"]
    for noun in said.nouns:
        fits = [o for o in objects if o["class"] == noun.kind and noun.colour in ("", o["color"])]
        if len(fits) != noun.count:
            return False
    stated = {(objects[i]["class"], name, objects[j]["class"]) for i, name, j in graph["relations"]}
    stated |= {(b, OPPOSITE[name], a) for a, name, b in stated}
    return all((r.kind, r.name, r.other) in stated for r in said.relations)


def count_true_captions(texts: Sequence[str], graphs: Sequence[Graph]) -> int:
    """How many captions, one a graph, are true."""
    return sum(is_true(text, graph) for text, graph in zip(texts, graphs, strict=True))
