"""Pictures whose equal numbers are other colours: ICC profiles and layouts of pixels."""

from __future__ import annotations

import io
from functools import lru_cache

from PIL import ImageCms

from editkit.data.doctor.findings import Finding
from editkit.data.doctor.orientation import Stored

PLAIN = "sRGB"
# Layouts whose conversion to RGB changes no colour; others are named where source and target differ in them.
_LAYOUTS = {
    "RGB": ("RGB", "P", "YCbCr"),
    "grey": ("L", "1"),
    "with transparency": ("RGBA", "LA", "PA"),
    "16 bit": ("I;16", "I;16B", "I"),
}
_ALIKE = {mode: layout for layout, modes in _LAYOUTS.items() for mode in modes}


def profile_finding(key: str, source: Stored, target: Stored, index: int) -> Finding | None:
    """The finding of a pair whose pictures are stored in other colour spaces; None where they are not."""
    spaces = profile_name(source.profile), profile_name(target.profile)
    layouts = _ALIKE.get(source.mode, source.mode), _ALIKE.get(target.mode, target.mode)
    figures = {"source_profile": spaces[0], "target_profile": spaces[1], "source_mode": source.mode, "target_mode": target.mode}
    if spaces[0] != spaces[1]:
        return Finding("colour profile", key, f"source is in {spaces[0]}, target in {spaces[1]}", index, figures=figures)
    if layouts[0] != layouts[1]:
        why = f"source is stored as {layouts[0]}, target as {layouts[1]}"
        return Finding("colour profile", key, why, index, severity="note", figures=figures)
    if spaces[0] != PLAIN:
        why = f"both are in {spaces[0]}, which training reads as if it were sRGB"
        return Finding("colour profile", key, why, index, severity="note", figures=figures)
    return None


@lru_cache(256)
def profile_name(profile: bytes) -> str:
    """What an ICC profile calls itself; sRGB for none and for all that say so."""
    if not profile:
        return PLAIN
    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).strip()
    except (ImageCms.PyCMSError, OSError):
        return "a damaged profile"
    return PLAIN if "srgb" in name.casefold() else name or "an unnamed profile"
