"""The avatars world: what an avatar may look like, and how it is drawn.

Three DiceBear styles whose parts have words: Critters (DiceBear, CC0 1.0), Personas (Draftbit, CC BY 4.0) and Micah
(Micah Lanier, CC BY 4.0). An avatar is a style and a value for each of its attributes; the same attributes always give
the same picture. What is hidden (the eyes behind sunglasses, the hair colour of a bald head) is not an attribute of the
picture and takes its default, so `facts` never claims what nobody can see.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from random import Random
from typing import Any

import resvg_py
from dicebear import Avatar as DiceBearAvatar
from dicebear import Style as DiceBearStyle
from PIL import Image

HAIR_COLOURS = {
    "black": "#2b2a33", "brown": "#7d4c2c", "yellow": "#f2c230", "red": "#d63a3a", "pink": "#f58ac0",
    "purple": "#8a4fd0", "blue": "#3b6fd4", "green": "#3fa855", "white": "#f6f6f4",
}  # fmt: skip
# The same words with other values than the hair's: DiceBear drops a colour that equals one it must differ from.
CLOTHES_COLOURS = {
    "black": "#34333d", "orange": "#f0822e", "yellow": "#f4c93c", "red": "#dc4545", "pink": "#f794c6",
    "purple": "#8355c8", "blue": "#3f74da", "green": "#46b05c", "white": "#fafafa",
}  # fmt: skip
BODY_COLOURS = {
    "red": "#e85555", "orange": "#f59a4a", "yellow": "#f7d65a", "green": "#7fd06a", "blue": "#5f9df0",
    "purple": "#a67ce6", "pink": "#f7a3d0", "white": "#f0f0f2",
}  # fmt: skip
TOPPER_COLOURS = {
    "red": "#e24a4a", "orange": "#f2903c", "yellow": "#f5d04c", "green": "#74ca5e", "blue": "#5292ea",
    "purple": "#9c70e0", "pink": "#f598ca", "white": "#ececee",
}  # fmt: skip
BACKGROUNDS = {
    "white": "#ffffff", "mint": "#a9e9cb", "peach": "#ffd0a9", "lavender": "#cfbaf6", "grey": "#b8bdc5",
    "navy": "#2a3f6d", "teal": "#2f9a95", "crimson": "#a8325a",
}  # fmt: skip
SKINS = {"light": "#f8d3ba", "tan": "#dc9f73", "brown": "#a0623f", "dark": "#74462f"}


@dataclass(frozen=True, slots=True)
class Attribute:
    """One thing about an avatar that has a word.

    Attributes:
        name: as in `facts`, recipes and reports ("hair colour").
        kind: "choice" (always has one), "optional" (may be "none"), "colour", "expression" or "background".
        option: the DiceBear option that draws it ("hairVariant", "shirtColor").
        values: word -> what the option is set to; None switches an optional part off.
        hidden_by: other attribute -> values under which nobody can see this one.
        editable: whether instructions may change it.
    """

    name: str
    kind: str
    option: str
    values: Mapping[str, str | None]
    hidden_by: Mapping[str, frozenset[str]] = field(default_factory=dict)
    editable: bool = True

    @property
    def default(self) -> str:
        return next(iter(self.values))


@dataclass(frozen=True, slots=True)
class AvatarStyle:
    """A DiceBear style with the attributes that we name; every other part is fixed by `fixed`."""

    name: str
    licence: str
    credit: str
    attributes: tuple[Attribute, ...]
    fixed: Mapping[str, Any]

    def attribute(self, name: str) -> Attribute:
        return next(a for a in self.attributes if a.name == name)


def _background() -> Attribute:
    return Attribute("background", "background", "backgroundColor", BACKGROUNDS)


_ALWAYS_BARE = frozenset({"bald", "beanie", "cap"})
_COVERED_MOUTH = {"facial hair": frozenset({"beard", "moustache"})}

STYLES: dict[str, AvatarStyle] = {
    style.name: style
    for style in (
        AvatarStyle(
            "critters",
            "CC0 1.0",
            "Critters by DiceBear (https://www.dicebear.com)",
            (
                Attribute("shape", "choice", "bodyVariant", {
                    "dome": "dome", "block": "block", "tower": "tower", "bell": "bell", "wedge": "wedge"}),
                Attribute("body colour", "colour", "bodyColor", BODY_COLOURS),
                Attribute("topper", "optional", "topVariant", {
                    "none": None, "horns": "horns", "antennae": "antennae", "round ears": "earsRound",
                    "sprout": "sprout", "fin": "fin"}),
                Attribute("topper colour", "colour", "accentColor", TOPPER_COLOURS,
                          {"topper": frozenset({"none"})}),
                Attribute("eyes", "expression", "eyesVariant", {
                    "open": "round", "one eye": "mono", "three eyes": "trio", "closed": "closedLine",
                    "angry": "angry", "winking": "wink"}),
                Attribute("mouth", "expression", "mouthVariant", {
                    "smile": "smile", "grin": "grin", "frown": "frown", "surprised": "open", "zigzag": "zigzag",
                    "buck teeth": "teeth"}),
                _background(),
            ),
            {"patternProbability": 0, "cheeksProbability": 0, "animationVariant": ["none"]},
        ),
        AvatarStyle(
            "personas",
            "CC BY 4.0",
            "Personas by Draftbit (https://personas.draftbit.com)",
            (
                Attribute("hair", "choice", "hairVariant", {
                    "short": "shortCombover", "long": "long", "bob": "bobCut", "afro": "curly", "mohawk": "mohawk",
                    "pigtails": "pigtails", "bun": "straightBun", "bald": "bald", "beanie": "beanie", "cap": "cap"}),
                Attribute("hair colour", "colour", "hairColor", HAIR_COLOURS, {"hair": _ALWAYS_BARE}),
                Attribute("eyewear", "optional", "eyesVariant", {
                    "none": None, "glasses": "glasses", "sunglasses": "sunglasses"}),
                Attribute("eyes", "expression", "eyesVariant", {"open": "open", "closed": "sleep", "winking": "wink"},
                          {"eyewear": frozenset({"glasses", "sunglasses"})}),
                Attribute("mouth", "expression", "mouthVariant", {
                    "smile": "smile", "grin": "bigSmile", "frown": "frown", "surprised": "surprise",
                    "pacifier": "pacifier"}, _COVERED_MOUTH),
                Attribute("facial hair", "optional", "facialHairVariant", {
                    "none": None, "beard": "beardMustache", "moustache": "walrus"}),
                Attribute("clothes", "choice", "clothesVariant", {"plain": "squared", "checkered": "checkered"}),
                Attribute("clothes colour", "colour", "clothingColor", CLOTHES_COLOURS),
                Attribute("skin", "choice", "skinColor", SKINS, editable=False),
                _background(),
            ),
            {"noseVariant": ["mediumRound"], "scale": 1.15, "facialHairColor": ["#2b1d17"]},
        ),
        AvatarStyle(
            "micah",
            "CC BY 4.0",
            "Avatar Illustration System by Micah Lanier (https://dribbble.com/micahlanier)",
            (
                Attribute("hair", "choice", "hairVariant", {
                    "quiff": "fonze", "long": "full", "bob": "pixie", "mohawk": "mrT", "fringe": "dannyPhantom",
                    "turban": "turban", "bald": "mrClean"}),
                Attribute("hair colour", "colour", "hairColor", HAIR_COLOURS, {"hair": frozenset({"bald"})}),
                Attribute("eyes", "expression", "eyesVariant", {"open": "eyes", "closed": "smiling"}),
                Attribute("mouth", "expression", "mouthVariant", {
                    "smile": "smile", "grin": "laughing", "frown": "frown", "surprised": "surprised",
                    "gritted teeth": "nervous"}, _COVERED_MOUTH),
                Attribute("facial hair", "optional", "facialHairVariant", {"none": None, "beard": "beard"}),
                Attribute("clothes", "choice", "clothesVariant", {"plain": "open", "collared": "collared"}),
                Attribute("clothes colour", "colour", "shirtColor", CLOTHES_COLOURS),
                Attribute("skin", "choice", "baseColor", SKINS, editable=False),
                _background(),
            ),
            # Its glasses and earrings are lines thinner than a pixel at 64 px: nobody could tell whether they are there.
            {"noseVariant": ["curve"], "earsVariant": ["attached"], "eyebrowsVariant": ["up"],
             "glassesProbability": 0, "earringsProbability": 0},
        ),
    )
}  # fmt: skip

TEST_SHARE = 1 / 8
OPTIONAL_SHARE = 0.4  # how often an optional part is there


@dataclass(frozen=True, slots=True)
class Avatar:
    """A style and a word for each of its attributes, hidden ones at their default."""

    style: str
    values: Mapping[str, str]

    @property
    def facts(self) -> dict[str, str]:
        """What a person can see: style and every visible attribute."""
        shown = {a.name: self.values[a.name] for a in STYLES[self.style].attributes if not is_hidden(a, self.values)}
        return {"style": self.style, **shown}

    @property
    def split(self) -> str:
        """ "train" or "test": decided by the picture itself, so that the two never share one."""
        digest = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).digest()
        return "test" if digest[0] < 256 * TEST_SHARE else "train"

    def with_values(self, changes: Mapping[str, str]) -> Avatar:
        """A copy with some attributes changed and whatever is hidden then back at its default."""
        return normalise(self.style, {**self.values, **changes})


def is_hidden(attribute: Attribute, values: Mapping[str, str]) -> bool:
    """Whether some other part covers this one, so that nobody can see its value."""
    return any(values[other] in words for other, words in attribute.hidden_by.items())


def normalise(style: str, values: Mapping[str, str]) -> Avatar:
    """An avatar of these values with every hidden attribute at its default."""
    shown = {a.name: a.default if is_hidden(a, values) else values[a.name] for a in STYLES[style].attributes}
    return Avatar(style, shown)


def is_drawable(avatar: Avatar) -> bool:
    """Whether every visible attribute can be seen: a red fin on a red body cannot."""
    facts = avatar.facts
    return facts.get("topper colour") != facts.get("body colour", "")


def sample_avatar(rng: Random, style: str | None = None) -> Avatar:
    """A uniformly drawn avatar of one style (or of any); optional parts are there with `OPTIONAL_SHARE`."""
    name = style or rng.choice(sorted(STYLES))
    while True:
        values = {}
        for attribute in STYLES[name].attributes:
            words = list(attribute.values)
            if attribute.kind == "optional" and rng.random() >= OPTIONAL_SHARE:
                values[attribute.name] = "none"
            else:
                values[attribute.name] = rng.choice(words[1:] if attribute.kind == "optional" else words)
        avatar = normalise(name, values)
        if is_drawable(avatar):
            return avatar


@cache
def _style(name: str) -> DiceBearStyle:
    text = resources.files("dicebear_styles").joinpath(f"{name}.json").read_text(encoding="utf-8")
    return DiceBearStyle(json.loads(text))


def svg(avatar: Avatar) -> str:
    """The avatar as SVG text."""
    options: dict[str, Any] = {"seed": "editkit", **STYLES[avatar.style].fixed}
    for attribute in STYLES[avatar.style].attributes:
        value = attribute.values[avatar.values[attribute.name]]
        if attribute.kind == "optional" and attribute.option != "eyesVariant":
            options[attribute.option.replace("Variant", "Probability")] = 0 if value is None else 100
        if value is not None and not (is_hidden(attribute, avatar.values) and attribute.option in options):
            options[attribute.option] = [value]
    return DiceBearAvatar(_style(avatar.style), options).to_string()


def render(avatar: Avatar, size: int) -> Image.Image:
    """Draws the avatar, RGB, `size` x `size` px."""
    png = resvg_py.svg_to_bytes(svg_string=svg(avatar), width=size, height=size, skip_system_fonts=True)
    drawn = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    canvas = Image.new("RGBA", drawn.size, "white")
    canvas.alpha_composite(drawn)
    return canvas.convert("RGB")
