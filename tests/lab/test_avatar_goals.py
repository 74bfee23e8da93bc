"""Captions read back, edits that lead from one avatar to another, and what is said of a reading."""

from __future__ import annotations

from random import Random

import pytest

from editkit.data.traces import inspection_text, parse_inspection
from editkit.errors import UserError
from editkit.lab.avatar_goals import inspect_reading, plan_edits, read_goal, seen_as
from editkit.lab.avatar_words import caption
from editkit.lab.avatars import STYLES, Avatar, sample_avatar


def shown(avatar: Avatar) -> dict[str, str]:
    return {name: word for name, word in avatar.facts.items() if name != "style"}


@pytest.mark.parametrize("style", sorted(STYLES))
def test_every_caption_is_read_back_whole_or_in_part(style: str) -> None:
    rng = Random(0)
    for _ in range(150):
        avatar = sample_avatar(rng, style)
        assert read_goal(caption(avatar, rng)).facts == shown(avatar)
        some = rng.sample(sorted(shown(avatar)), 3)
        assert (
            shown(avatar).items()
            >= read_goal(caption(avatar, only=some)).facts.items()
            >= {name: shown(avatar)[name] for name in some}.items()
        )


def test_it_is_read_as_people_write_it() -> None:
    goal = read_goal("A flat portrait with a red bun, an orange shirt and sunglasses.")
    assert goal.facts == {"hair": "bun", "hair colour": "red", "clothes colour": "orange", "eyewear": "sunglasses"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a red star", 'found "a red star"; without a chat model expected a caption'),
        ("a flat portrait with a sword", 'found "a sword"; of a flat portrait expected details such as'),
        ("a flat portrait with red hair and a blue bun", "found hair colour red and blue"),
        ("a flat portrait with sunglasses and closed eyes", "found eyes closed, which something else"),
    ],
)
def test_what_is_no_goal_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_goal(text)


@pytest.mark.parametrize("style", sorted(STYLES))
def test_a_plan_leads_to_the_goal_in_so_many_steps(style: str) -> None:
    rng = Random(1)
    for _ in range(100):
        now, target = sample_avatar(rng, style), sample_avatar(rng, style)
        if "skin" in now.values:
            target = target.with_values({"skin": now.values["skin"]})
        steps = plan_edits(now, read_goal(caption(target)), 5, rng)
        assert len(steps) <= 5
        assert not steps or read_goal(steps[-1][1]).facts == shown(target)


def test_what_edits_do_not_change_is_refused() -> None:
    now = sample_avatar(Random(0), "personas").with_values({"skin": "light"})
    with pytest.raises(UserError, match="found skin light; the prompt asks for dark, to which no edit leads"):
        plan_edits(now, read_goal("a flat portrait with dark skin"), 5, Random(0))
    with pytest.raises(UserError, match="found a flat portrait; the prompt asks for a monster"):
        plan_edits(now, read_goal("a monster with horns"), 5, Random(0))


def test_a_verdict_names_what_is_wrong_what_comes_later_and_what_to_do() -> None:
    avatar = sample_avatar(Random(5), "personas").with_values({"hair": "bun", "hair colour": "red", "background": "mint"})
    prompt, described = "a flat portrait with a red bun and a navy background", "a flat portrait with a red bun"
    reading = {**avatar.values, "style": "personas"}
    seen = inspect_reading(reading, prompt, described, Random(0))
    assert (seen.ok, seen.deferred) == (True, ())  # nobody said yet what the background is to be
    seen = inspect_reading(reading, prompt, f"{described}, a mint background", Random(0))
    assert (seen.ok, seen.deferred) == (True, ("a navy background",))
    seen = inspect_reading({**reading, "hair colour": "blue"}, prompt, described, Random(0))
    assert (seen.ok, seen.issues) == (False, ("hair colour: blue instead of red",))
    assert "red" in seen.refine
    assert parse_inspection(inspection_text(seen)) == seen
    assert seen_as({**reading, "hair": "quiff"}).values["hair"] == "short"  # of another style
