"""Scoring what was said of pairs: is it the edit, and does the agreement tell right instructions from wrong ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from editkit.data.examples import EditPair
from editkit.errors import UserError
from editkit.lab.avatar_meaning import asks_for

WORLDS = ("", "avatars")  # "" = nobody can decide what a text means
DOUBTFUL = 0.5  # agreement below which given words fit other pairs better than their own


def check_world(world: str) -> None:
    """Raises UserError for a world whose grammar is not known."""
    if world not in WORLDS:
        raise UserError(f'[method] world: found "{world}"; expected "avatars", or "" for pairs whose words have no grammar')


def is_exact(pair: EditPair, text: str) -> bool:
    """Whether it is one of the pair's own phrasings, whatever the case of its letters."""
    return text.lower() in {phrasing.lower() for phrasing in pair.instructions}


def is_right(pair: EditPair, text: str, world: str) -> bool:
    """Whether a text asks for the pair's edit, as far as `world` lets it be known."""
    return asks_for(text, pair.source_facts, pair.target_facts) if world else is_exact(pair, text)


def score_descriptions(pairs: Sequence[EditPair], said: Sequence[str], world: str) -> dict[str, float]:
    """Shares of the pairs, beside what one instruction for all of them would reach.

    Args:
        pairs: at least one.
        said: an instruction for each.
        world: "avatars", or "".

    Returns:
        "means_the_same" where there is a world, "exact", "most_frequent" (the instruction that most of these very pairs
        have, judged as the first of these scores), and "n".
    """
    (favourite, _), *_ = Counter(text for pair in pairs for text in pair.instructions).most_common(1)
    exact = [is_exact(pair, text) for pair, text in zip(pairs, said, strict=True)]
    meant = [is_right(pair, text, world) for pair, text in zip(pairs, said, strict=True)] if world else []
    same = {"means_the_same": sum(meant) / len(meant)} if world else {}
    guessed = [is_right(pair, favourite, world) for pair in pairs]
    return {**same, "exact": sum(exact) / len(exact), "most_frequent": sum(guessed) / len(guessed), "n": len(pairs)}


def score_by_category(pairs: Sequence[EditPair], said: Sequence[str], world: str) -> dict[str, float]:
    """Share of right descriptions by kind of edit; pairs of no kind are left out."""
    marks: dict[str, list[bool]] = {}
    for pair, text in zip(pairs, said, strict=True):
        if pair.category:
            marks.setdefault(pair.category, []).append(is_right(pair, text, world))
    return {kind: sum(found) / len(found) for kind, found in sorted(marks.items())}


def exchanged(pairs: Sequence[EditPair], world: str) -> list[str]:
    """For each pair the first instruction of the one that is half the set away; "" where it would be right here too."""
    half = len(pairs) // 2  # far away: what stands beside a pair is what its agreement is measured by
    others = [pair.instructions[0] for pair in (*pairs[half:], *pairs[:half])]
    return ["" if is_right(pair, text, world) else text for pair, text in zip(pairs, others, strict=True)]


def score_agreement(right: Sequence[float], wrong: Sequence[float]) -> dict[str, float]:
    """How well agreements with right instructions and with wrong ones lie apart.

    Returns:
        "agreement_auc", the probability that a right one is agreed with more than a wrong one (a tie counts half), "caught",
        the share of wrong ones below `DOUBTFUL`, and "false_alarms", that of right ones; {} where one kind is missing.
    """
    if not right or not wrong:
        return {}
    right_R1, wrong_1W = np.asarray(right)[:, None], np.asarray(wrong)[None]
    auc = np.mean((right_R1 > wrong_1W) + 0.5 * (right_R1 == wrong_1W))
    below = {"caught": np.mean(wrong_1W < DOUBTFUL), "false_alarms": np.mean(right_R1 < DOUBTFUL)}
    return {"agreement_auc": float(auc), **{name: float(share) for name, share in below.items()}}
