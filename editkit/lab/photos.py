"""The photographs that come inside Python packages, as a builder: `builder = "photos"` in a data spec.

A handful, from 300 to 700 px, but real: enough to cut thousands of native crops from, of pictures that training never saw.
The files belong to their packages and are read from there; what a licence asks for is recorded with every picture.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from PIL import Image

from editkit.data.examples import CaptionedImage
from editkit.data.pictures import Picture, png_bytes
from editkit.environment import require_extra
from editkit.errors import UserError
from editkit.lab.credits import by_licence
from editkit.recipe.schema import Section


@dataclass(frozen=True, slots=True)
class Photograph:
    """A file inside a package.

    Attributes:
        key: its name here.
        extra: the entry of `editkit.environment.EXTRAS` that brings it; "" = what editkit needs anyway has it.
        package: the module in which it lies.
        file: the path from there.
        captions: what it shows.
        licence, credit: as the package states them.
    """

    key: str
    extra: str
    package: str
    file: str
    captions: tuple[str, ...]
    licence: str
    credit: str


def _of_skimage(key: str, file: str, captions: tuple[str, ...], licence: str, credit: str) -> Photograph:
    return Photograph(key, "scikit-image", "skimage.data", file, captions, licence, credit)


PUBLIC, CC0, CC_BY = "public domain", "CC0 1.0", "CC BY 2.0"
PHOTOGRAPHS: dict[str, tuple[Photograph, ...]] = {
    "train": (
        _of_skimage("astronaut", "astronaut.png", ("an astronaut in an orange suit before a flag",), PUBLIC, "NASA"),
        _of_skimage("coffee", "coffee.png", ("a cup of coffee on a red saucer",), CC0, "Rachel Michetti"),
        _of_skimage("motorcycle", "motorcycle_left.png", ("a red motorcycle in a workshop",), PUBLIC, "D. Scharstein"),
        _of_skimage("rocket", "rocket.jpg", ("a rocket on its launch pad at dusk",), PUBLIC, "SpaceX"),
        Photograph(
            "flower", "scikit-learn", "sklearn.datasets.images", "flower.jpg", ("an orange dahlia before dark leaves",),
            CC_BY, "vultilion",
        ),
        Photograph(
            "pagoda", "scikit-learn", "sklearn.datasets.images", "china.jpg",
            ("a pagoda above a lake",), CC_BY, "danielbuechele",
        ),
    ),
    "test": (
        _of_skimage("cat", "chelsea.png", ("a tabby cat looking to the side",), CC0, "Stefan van der Walt"),
        Photograph(
            "admiral", "", "matplotlib", "mpl-data/sample_data/grace_hopper.jpg", ("an officer in uniform before a flag",),
            PUBLIC, "James S. Davis, U.S. Navy",
        ),
    ),
}  # fmt: skip


class PhotoBuilder:
    """Whole photographs with captions; no photograph is in both splits."""

    class Options(Section):
        """No keys behind `builder`: there are as many photographs as there are, as large as they are."""

    def __init__(self, kind: str, options: Options) -> None:
        if kind != "captioned_images":
            raise UserError(f'found kind = "{kind}"; builder = "photos" makes kind = "captioned_images"')
        del options
        for photograph in (p for split in PHOTOGRAPHS.values() for p in split if p.extra):
            require_extra(photograph.extra, 'builder = "photos"')

    def counts(self) -> Mapping[str, int]:
        return {split: len(found) for split, found in PHOTOGRAPHS.items()}

    def make(self, split: str, index: int) -> CaptionedImage:
        photograph = PHOTOGRAPHS[split][index]
        data = resources.files(photograph.package).joinpath(photograph.file).read_bytes()
        # Three channels without loss: some of the files are of other formats, and one has a fourth channel.
        whole = png_bytes(Image.open(io.BytesIO(data)).convert("RGB"))
        picture = Picture(data=whole, label=photograph.key)
        return CaptionedImage(photograph.key, picture, photograph.captions, {}, photograph.licence)

    def credits(self) -> Mapping[str, str]:
        return by_licence((p.licence, f"{p.key}: {p.credit}") for split in PHOTOGRAPHS.values() for p in split)
