"""A trajectory as a strip of cards, in HTML: each step with its plan, its picture and what was said of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from editkit.evaluate.plan_folder import read_text
from editkit.evaluate.steering import Part, plain
from editkit.evaluate.trajectories import Place, places_of
from editkit.models.generator import Drawn, Said

CRISP_BELOW = 256  # px; smaller pictures are shown with square pixels
BY_HAND = '<span class="by-hand">by hand</span>'
TAGS = re.compile(r"</?(?:ins|des|refine)>|</?[a-z]*$")  # whole, or begun at the end of a text that is being written


@dataclass(frozen=True, slots=True)
class Making:
    """What comes next and is not whole yet.

    Attributes:
        kind: a text or a picture.
        letters: of the text, so far.
    """

    kind: Literal["text", "picture"]
    letters: str = ""


def strip(prompt: str, parts: Sequence[Part], files: Sequence[str], *, done: bool, making: Making | None = None) -> str:
    """The cards.

    Args:
        prompt: what is drawn.
        parts: texts and pictures in their order.
        files: where each picture lies in the page's folder; "" of a text.
        done: whether the model said that this is all, so that the last picture is the final one.
        making: what comes next.

    Returns:
        HTML; "" where there is nothing to show.
    """
    places = places_of(plain(parts))
    if making is not None and (not places or _opens(places[-1], making)):
        places.append(Place())
    if not places:
        return ""
    pictures = [place.picture for place in places if place.picture is not None]
    final = pictures[-1] if done and pictures else None
    cards = []
    for n, place in enumerate(places, 1):
        before = _read(parts, places[n - 2].verdict) if n > 1 else None
        refined = before is not None and before["kind"] == "verdict" and not before["ok"]
        going = making if n == len(places) else None
        marks = ["refined"] * (refined and place.picture is not None)
        marks += ["final"] * (final is not None and place.picture == final)
        cards.append(_card(n, place, parts, files, marks, going))
    return f'<p class="asked">{escape(prompt)}</p><div class="strip">{"".join(cards)}</div>'


def _opens(last: Place, making: Making) -> bool:
    """Whether what comes next stands on a new card."""
    if making.kind == "picture":
        return last.picture is not None or last.verdict is not None
    return last.verdict is not None or making.letters.startswith("<")


def _card(
    n: int, place: Place, parts: Sequence[Part], files: Sequence[str], marks: Sequence[str], making: Making | None
) -> str:
    marked = "".join(f'<span class="mark {mark}">{mark}</span>' for mark in marks)
    letters = making.letters if making is not None else ""
    is_plan = letters.startswith("<") or (bool(letters) and place.picture is None and place.plan is None)
    return (
        f'<section class="card"><header>Step {n}{marked}</header>'
        + _picture(n, place, parts, files, making)
        + (_plan(parts, place) if place.plan is not None else _words("des", letters) if is_plan else "")
        + (_verdict(parts, place) if place.verdict is not None else "" if is_plan else _words("said", letters))
        + "</section>"
    )


def _picture(n: int, place: Place, parts: Sequence[Part], files: Sequence[str], making: Making | None) -> str:
    part = parts[place.picture] if place.picture is not None else None
    if place.picture is not None and isinstance(part, Drawn):
        crisp = ' class="crisp"' if max(part.picture.size) < CRISP_BELOW else ""
        return f'<img{crisp} src="gradio_api/file={escape(files[place.picture])}" alt="the picture of step {n}">'
    if making is not None and place.verdict is None:
        return f'<div class="empty going">{"drawing" if making.kind == "picture" else "writing"}…</div>'
    return '<div class="empty">not drawn</div>'


def _plan(parts: Sequence[Part], place: Place) -> str:
    plan = _read(parts, place.plan)
    if plan is None:
        return ""
    hand = _hand(parts, place.plan)
    if plan["kind"] != "plan":
        return _words("odd", plan.get("text", "")) + f'<p class="quiet-line">cannot be read as a plan or a verdict {hand}</p>'
    return f'<p class="ins">{escape(plan["ins"])} {hand}</p>' + _words("des", plan["des"])


def _verdict(parts: Sequence[Part], place: Place) -> str:
    seen = _read(parts, place.verdict)
    if seen is None:
        return ""
    on, hand = f"the {seen['on']} is", _hand(parts, place.verdict)
    if seen["ok"]:
        said = f'<p class="verdict">✓ {on} right {hand}</p>'
    else:
        issues = "".join(f"<li>{escape(issue)}</li>" for issue in seen["issues"])
        said = f'<p class="verdict">✗ {on} wrong {hand}</p><ul>{issues}</ul>'
    later = f'<p class="quiet-line">still to come: {escape("; ".join(seen["deferred"]))}</p>' if seen["deferred"] else ""
    todo = f'<p class="refine">→ {escape(seen["refine"])}</p>' if seen["refine"] else ""
    return f'<div class="said {"good" if seen["ok"] else "bad"}">{said}{todo}{later}</div>'


def _words(kind: str, text: str) -> str:
    text = TAGS.sub(" ", text).strip() if kind != "odd" else text
    return f'<p class="{kind}">{escape(text)}</p>' if text else ""


def _read(parts: Sequence[Part], number: int | None) -> dict[str, Any] | None:
    part = parts[number] if number is not None else None
    return read_text(part.text) if isinstance(part, Said) else None


def _hand(parts: Sequence[Part], number: int | None) -> str:
    part = parts[number] if number is not None else None
    return BY_HAND if isinstance(part, Said) and part.ids is None else ""
