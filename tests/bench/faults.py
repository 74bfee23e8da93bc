"""Faults as data sets have them, planted in sound pairs: for the benchmark of the doctor and for its tests."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageEnhance

from editkit.data.examples import SCORE, EditPair
from editkit.data.pictures import Picture

NO_INSTRUCTIONS = (
    "IMG_20240311_142233.jpg", "before/0001_a.png", "00012345", "n/a", "TODO", "caption", "?!", "none",
    "https://example.org/cat.png",
    "masterpiece, best quality, 1girl, solo, looking at viewer, red hair",
    "portrait of a woman, 8k, highly detailed, sharp focus",
    "I'm sorry, but I can't help with that.", "As an AI language model, I cannot see images.", "<lora:styleA:0.8> red hair",
    "a cat (fluffy:1.3), masterpiece", "e3b0c44298fc1c149afbf4c8996fb924", "The first image shows a face and the second a hat.",
)  # fmt: skip


def png(image: Image.Image, **how: Any) -> Picture:
    return _encoded(image, "PNG", **how)


def _encoded(image: Image.Image, kind: str, **how: Any) -> Picture:
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return Picture(data=stream.getvalue())


def copy_of(picture: Picture, rng: Random, tone: bool = True) -> Picture:
    """The same picture as somebody else would have it: coded anew, scaled, a little brighter or flatter."""
    image = picture.open()
    way = rng.choice(["jpeg", "webp", "scaled", "toned"] if tone else ["jpeg", "webp", "noise"])
    if way == "scaled":
        side = rng.choice([48, 56, 80, 96, 128])
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    elif way == "toned":
        image = ImageEnhance.Brightness(ImageEnhance.Contrast(image).enhance(rng.uniform(0.95, 1.05))).enhance(
            rng.uniform(0.97, 1.03)
        )
    elif way == "noise":
        noise = np.random.default_rng(rng.randrange(2**32)).normal(0, 1.5, (image.height, image.width, 3))
        image = Image.fromarray((np.asarray(image) + noise).clip(0, 255).round().astype(np.uint8))
    if way in ("jpeg", "webp"):
        return _encoded(image, way.upper(), quality=rng.randint(75, 95))
    return png(image)


def moved(image: Image.Image, *, zoom: float = 0.0, degrees: float = 0.0, dx: float = 0.0, dy: float = 0.0) -> Image.Image:
    """The picture enlarged by exp(zoom), turned clockwise and moved by (dx, dy) px, cubic, its border going on outside."""
    pad = max(image.size) // 2
    wide = Image.fromarray(np.pad(np.asarray(image), ((pad, pad), (pad, pad), (0, 0)), mode="edge"))
    cos, sin = np.exp(-zoom) * np.cos(np.radians(degrees)), np.exp(-zoom) * np.sin(np.radians(degrees))
    # Pillow asks where each place of the output comes from, with pixels centred on halves.
    centre_x, centre_y = image.width / 2, image.height / 2
    from_x = centre_x + pad - cos * (centre_x + dx) - sin * (centre_y + dy)
    from_y = centre_y + pad + sin * (centre_x + dx) - cos * (centre_y + dy)
    matrix = (cos, sin, from_x, -sin, cos, from_y)
    return wide.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)


def _orphan(pair: EditPair, rng: Random) -> EditPair:
    return replace(pair, **{rng.choice(["source", "target"]): Picture(data=b"", label=f"{pair.key} (missing)")})


def _unreadable(pair: EditPair, rng: Random) -> EditPair:
    role = rng.choice(["source", "target"])
    data = getattr(pair, role).read_bytes()
    broken = data[: rng.randint(40, len(data) - 30)] if rng.random() < 0.5 else bytes(rng.randrange(256) for _ in range(300))
    return replace(pair, **{role: Picture(data=broken, label=f"{pair.key} ({role})")})


def _shift(pair: EditPair, rng: Random) -> EditPair:
    """In any direction to fractions of a pixel, or by whole pixels along an axis, which leaves the edges along it unchanged."""
    angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 6)
    dx, dy = far * np.cos(angle), far * np.sin(angle)
    if rng.random() < 0.3:
        dx, dy = rng.choice([(0, 1), (1, 0)])
        way = rng.choice([-1, 1]) * rng.randint(1, 6)
        dx, dy = way * dx, way * dy
    return replace(pair, target=png(moved(pair.target.open(), dx=dx, dy=dy)))


def _zoom(pair: EditPair, rng: Random) -> EditPair:
    return replace(pair, target=png(moved(pair.target.open(), zoom=rng.choice([-1, 1]) * rng.uniform(0.02, 0.1))))


def _rotation(pair: EditPair, rng: Random) -> EditPair:
    return replace(pair, target=png(moved(pair.target.open(), degrees=rng.choice([-1, 1]) * rng.uniform(1, 10))))


def _orientation(pair: EditPair, rng: Random) -> EditPair:
    """A wrong EXIF orientation beside the pixels of either picture, or pixels whose orientation was lost."""
    if rng.random() < 0.5:
        role = rng.choice(["source", "target"])
        exif = Image.Exif()
        exif[0x0112] = rng.choice([3, 6, 8])
        picture = getattr(pair, role).open()
        kind = rng.choice(["PNG", "JPEG"])
        return replace(pair, **{role: _encoded(picture, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))})
    how = rng.choice([Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270])
    return replace(pair, target=png(pair.target.open().transpose(how)))


def _size(pair: EditPair, rng: Random) -> EditPair:
    target = pair.target.open()
    side = rng.choice([3, 5, 6]) * target.width // 4
    return replace(pair, target=png(target.resize((side, side), Image.Resampling.LANCZOS)))


def _aspect(pair: EditPair, rng: Random) -> EditPair:
    target = pair.target.open()
    width, height = target.size
    if rng.random() < 0.5:
        return replace(pair, target=png(target.crop((0, height // 8, width, height - height // 8))))
    return replace(pair, target=png(target.resize((round(width * rng.choice([0.8, 1.25])), height))))


def other_profile() -> bytes:
    """An ICC profile that says of itself that it is not sRGB."""
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return plain.replace("sRGB".encode("utf-16-be"), "Wide".encode("utf-16-be"))


def _profile(pair: EditPair, rng: Random) -> EditPair:
    role = rng.choice(["source", "target"])
    return replace(pair, **{role: png(getattr(pair, role).open(), icc_profile=other_profile())})


def _copied(pair: EditPair, rng: Random) -> EditPair:
    caption = rng.choice([pair.source_caption, pair.target_caption])
    if rng.random() < 0.5:
        caption = caption.capitalize().replace(", ", "; ") + "."
    return replace(pair, instructions=(caption,))


# Kind -> what plants it in a pair; those of copies are planted by `plant`, since they need another pair.
FAULTS: dict[str, Callable[[EditPair, Random], EditPair]] = {
    "orphan": _orphan,
    "unreadable": _unreadable,
    "swapped": lambda pair, rng: replace(pair, source=pair.target, target=pair.source),
    "identical pair": lambda pair, rng: replace(pair, target=pair.source),
    "nearly identical pair": lambda pair, rng: replace(pair, target=copy_of(pair.source, rng, tone=False)),
    "shift": _shift,
    "zoom": _zoom,
    "rotation": _rotation,
    "orientation": _orientation,
    "size mismatch": _size,
    "aspect mismatch": _aspect,
    "colour profile": _profile,
    "empty text": lambda pair, rng: replace(pair, instructions=(rng.choice(["", "  ", "\n"]),)),
    "copied text": _copied,
    "not an instruction": lambda pair, rng: replace(pair, instructions=(rng.choice(NO_INSTRUCTIONS),)),
    "low score": lambda pair, rng: replace(pair, scores={SCORE: rng.gauss(0.3, 0.05)}),
}
COPIES = ("split leak", "leak", "duplicate")


class InMemory:
    """A split of pairs in memory."""

    def __init__(self, name: str, split: str, pairs: Sequence[EditPair]) -> None:
        self.info = {"name": name, "kind": "edit_pairs", "counts": {split: len(pairs)}, "licences": {}}
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> EditPair:
        if not 0 <= index < len(self._pairs):
            raise IndexError(index)
        return self._pairs[index]


def plant(
    pairs: list[EditPair], test: Sequence[EditPair], evaluation: Sequence[EditPair], share: float, seed: int
) -> tuple[list[EditPair], dict[int, str]]:
    """Plants every kind in a share of the pairs, none in two of them.

    Args:
        pairs: of the training split, all of them sound.
        test, evaluation: what copies are taken from.
        share: of the pairs, for each kind.
        seed: of the choice.

    Returns:
        The pairs, each with a score, and index -> what was planted.
    """
    rng = Random(seed)
    faulty = [replace(pair, scores={SCORE: rng.gauss(0.8, 0.05)}) for pair in pairs]
    # A pair that asks for no change cannot be swapped, and of two equal pictures nobody can say which was turned.
    able = [i for i, pair in enumerate(pairs) if pair.category != "keep"]
    rng.shuffle(able)
    count = max(1, round(share * len(pairs)))
    planted: dict[int, str] = {}
    sound = able[count * (len(FAULTS) + len(COPIES)) :]
    for kind in (*FAULTS, *COPIES):
        for _ in range(count):
            index = able.pop(0)
            planted[index] = kind
            if kind in FAULTS:
                faulty[index] = FAULTS[kind](faulty[index], rng)
                continue
            # Of two equal pairs the later one is the duplicate.
            chosen = rng.choice({"split leak": test, "leak": evaluation}.get(kind) or [pairs[i] for i in sound if i <= index])
            exact = rng.random() < 0.3
            pictures = [p if exact else copy_of(p, rng) for p in (chosen.source, chosen.target)]
            text = chosen.instructions if kind == "duplicate" or rng.random() < 0.5 else faulty[index].instructions
            faulty[index] = replace(chosen, key=faulty[index].key, source=pictures[0], target=pictures[1], instructions=text,
                                    scores=faulty[index].scores)  # fmt: skip
    return faulty, planted
