"""Pictures as users have them: opened when asked for, upright, in RGB, or refused with a reason."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from editkit.errors import UserError

MAX_PIXELS = 100_000_000
TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
PNG_ORIENTATION = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # where a PNG may have one


class PictureError(UserError):
    """A picture that cannot be used.

    Attributes:
        name: which picture.
        why: what is wrong with it.
    """

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name = name
        self.why = why

    def __reduce__(self) -> tuple[type[PictureError], tuple[str, str]]:
        return PictureError, (self.name, self.why)


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file or its bytes. Holds no pixels until `open` is called."""

    path: Path | str | None = None
    data: bytes | None = field(default=None, repr=False)
    label: str = ""  # a name for pictures that have no path

    @property
    def name(self) -> str:
        """What reports call it."""
        return self.label or (str(self.path) if self.path is not None else "picture in memory")

    def read_bytes(self) -> bytes:
        """The encoded bytes.

        Raises:
            PictureError: the file is missing, a folder, empty or not readable.
        """
        if self.data is not None:
            return self._not_empty(self.data)
        if self.path is None:
            raise PictureError(self.name, "has neither a path nor bytes")
        try:
            return self._not_empty(Path(self.path).read_bytes())
        except FileNotFoundError as error:
            raise PictureError(self.name, "is missing") from error
        except IsADirectoryError as error:
            raise PictureError(self.name, "is a folder; expected an image file") from error
        except OSError as error:
            raise PictureError(self.name, f"cannot be read ({error.strerror})") from error

    def _not_empty(self, data: bytes) -> bytes:
        if not data:
            raise PictureError(self.name, "is empty (0 bytes)")
        return data

    def size(self) -> tuple[int, int]:
        """(width, height) in px as `open` shows it, upright; pixels are decoded only where metadata may follow them.

        Raises:
            PictureError: as `open`, as far as the header shows it.
        """
        image = self._header()
        # Pillow decodes a whole PNG to look for an orientation behind the pixels; most have none at all.
        if image.format == "PNG" and not any(mark in self.read_bytes() for mark in PNG_ORIENTATION):
            return image.size
        try:
            turned = image.getexif().get(ExifTags.Base.Orientation) in TURNED
        except (OSError, ValueError, SyntaxError, IndexError, EOFError) as error:
            raise PictureError(self.name, f"is damaged or cut short ({error})") from error
        return (image.height, image.width) if turned else image.size

    def _header(self) -> Image.Image:
        data = self.read_bytes()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                image = Image.open(io.BytesIO(data))
        except UnidentifiedImageError as error:
            raise PictureError(self.name, "is not an image that can be read") from error
        except Image.DecompressionBombError as error:
            raise PictureError(self.name, f"has more than {MAX_PIXELS / 1e6:.0f} million pixels") from error
        except (OSError, ValueError, SyntaxError) as error:
            raise PictureError(self.name, f"is damaged ({error})") from error
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise PictureError(
                self.name, f"is {width} x {height} px, more than {MAX_PIXELS / 1e6:.0f} million pixels; scale it down"
            )
        return image

    def open(self) -> Image.Image:
        """Decodes the picture.

        Returns:
            RGB, upright (EXIF orientation applied), transparency over white, 16-bit scaled to 8, the first frame of an
            animation.

        Raises:
            PictureError: with the file and what is wrong with it.
        """
        image = self._header()
        try:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
        except (OSError, ValueError, SyntaxError, IndexError, EOFError) as error:
            raise PictureError(self.name, f"is damaged or cut short ({error})") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        depth_HW = np.asarray(image).astype(np.float64)
        return Image.fromarray((depth_HW / 257).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        values_HW = np.asarray(image)
        scale = 255.0 if values_HW.max() <= 1.0 else 1.0
        return Image.fromarray((values_HW * scale).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, "white")
        canvas.alpha_composite(layer)
        return canvas.convert("RGB")
    return image.convert("RGB")


def png_bytes(image: Image.Image) -> bytes:
    """A picture as the bytes of a file, the same for the same pixels."""
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=6)
    return stream.getvalue()
