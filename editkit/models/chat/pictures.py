"""Pictures as a chat model is sent them."""

from __future__ import annotations

import base64
from typing import Any

from PIL import Image

from editkit.data.pictures import png_bytes


def picture_content(picture: Image.Image, side: int) -> dict[str, Any]:
    """The part of a message that shows a picture, as a PNG in the request itself.

    Args:
        picture: of any size; it is not changed.
        side: px; a larger one is sent that large.
    """
    sent = picture.copy()
    sent.thumbnail((side, side), Image.Resampling.LANCZOS)
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(png_bytes(sent)).decode()}"}}
