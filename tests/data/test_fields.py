"""Places inside the rows of other people's tables."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit.data.fields import MISSING, find, starts_of

ROW = {
    "prompt": "make it blue",
    "image": ["a.png", "b.png", "c.png"],
    "conversations": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "yes"}],
    "files": [{"id": "original", "url": "0"}, {"id": "final", "url": "9"}],
    "input.jpg": "with a dot",
    "input": {"jpg": "inside", "size": {"w": 3}},
    "edited object": "house",
    "nothing": None,
    "seed": 42,
}


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("prompt", "make it blue"),
        ("image[0]", "a.png"),
        ("image[-1]", "c.png"),
        ("image[1:]", ["b.png", "c.png"]),
        ("image[3]", MISSING),
        ("image[-4]", MISSING),
        ("conversations[0].value", "hello"),
        ("files[id=final].url", "9"),
        ("files[id=other].url", MISSING),
        ("input.jpg", "with a dot"),
        ("input.size.w", 3),
        ("edited object", "house"),
        ("nothing", None),
        ("nothing | prompt", "make it blue"),
        ("absent | nothing", MISSING),
        ("{seed}_0.jpg", "42_0.jpg"),
        ("{image[0]}/{absent}", MISSING),
        ("prompt.value", MISSING),
        ("prom", MISSING),
    ],
)
def test_a_place_is_found(place: str, value: Any) -> None:
    assert find(ROW, place) == value if value is not MISSING else find(ROW, place) is MISSING


def test_only_the_columns_that_places_begin_in_are_read() -> None:
    places = ["conversations[0].value", "{seed}_0.jpg", "absent | edited object", "input.size.w", "promp"]
    assert starts_of(places, list(ROW)) == ["conversations", "input", "edited object", "seed"]


NAMES = st.text("abcdefgh_ ", min_size=1, max_size=5).filter(lambda s: s == s.strip())
VALUES = st.recursive(
    st.integers() | st.text("xyz"), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)
)


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_every_leaf_is_found_by_its_place(row: dict[str, Any]) -> None:
    for place, value in leaves(row, ""):
        assert find(row, place) == value


def leaves(value: Any, place: str) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for k, v in value.items() for leaf in leaves(v, f"{place}.{k}" if place else k)]
    if isinstance(value, list):
        return [leaf for i, v in enumerate(value) for leaf in leaves(v, f"{place}[{i}]")]
    return [(place, value)]
