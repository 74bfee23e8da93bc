"""Whether a target is its source moved, enlarged or turned as a whole, to fractions of a pixel, whatever the edit changed.

Most pairs need no more than one look: where a third of the strong edges stand unchanged, nothing was moved. For the others a
similarity transform is fitted: started at the identity, at the shift that phase correlation finds, and at the rotation and
zoom that it finds between the log-polar spectra (Reddy and Chatterji 1996), each refined by robust least squares on the
grey values, to which what the edit changed is an outlier. What is reported must leave clearly less of
the error than leaving the pictures as they are does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Pixels = npt.NDArray[np.float32]

SIDE = 128  # px, the longest side at which pictures are compared
LEAST_SIDE = 16  # px
MARGIN = 3  # px around a mask, at that size
EDGE = 8.0  # grey levels a px; weaker edges say nothing
UNMOVED = 0.35  # share of the edges that stand exactly: no resampling leaves so many
FAINT = 4.0  # grey levels a px at which an edge counts half
FOUND = 0.35  # px at that size, root mean square over the picture; less is not reported
IN_PLACE_PX = 0.15  # an edge nearer than this to its place counts as there
ENOUGH = 0.25  # share of the edges in place at which a pair that is not moved is let go
GOOD = 0.85  # the share at which no other start is tried
CONVINCING = 0.92  # of the error, what may be left when a transform is reported
SURE = 0.7  # and at which no other start is tried
FEW_EDGES = 40  # px of edges below which nothing can be said
_SCALES = (48.0, 24.0, 12.0, 6.0, 6.0, 6.0)  # grey levels at which a residual is doubted, step by step


@dataclass(frozen=True, slots=True)
class Similarity:
    """target(x) = source(c + (1 + zoom) R(x - c) + shift), about the centre c.

    Attributes:
        zoom: log of the scale.
        angle: radians.
        dx, dy: px.
    """

    zoom: float = 0.0
    angle: float = 0.0
    dx: float = 0.0
    dy: float = 0.0

    def parts(self, height: int, width: int) -> dict[str, float]:
        """Root mean square of the displacement over the picture, in px, by what causes it."""
        radius = float(np.sqrt((height**2 + width**2) / 12))
        return {
            "shift": float(np.hypot(self.dx, self.dy)),
            "zoom": radius * abs(self.zoom),
            "rotation": radius * abs(self.angle),
        }


# Turns and zooms to start from where neither the identity nor the spectra lead to a good fit, as where the edit is large.
_FURTHER = tuple(Similarity(angle=a) for a in (-0.15, -0.08, 0.08, 0.15)) + tuple(Similarity(zoom=z) for z in (-0.07, 0.07))


@dataclass(frozen=True, slots=True)
class Moved:
    """A whole target that is not where its source is.

    Attributes:
        kind: "shift", "zoom" or "rotation", whichever displaces most.
        transform: in px of the pictures themselves.
        before, after: share of the edges in place without and with it.
    """

    kind: str
    transform: Similarity
    before: float
    after: float


def small(image: Image.Image, size: tuple[int, int] | None = None) -> Pixels:
    """The picture in (3, H, W), 0 to 255, at most SIDE px long.

    Args:
        image: in RGB.
        size: (width, height) to bring it to instead.
    """
    return np.ascontiguousarray(np.asarray(_scaled(image, size or small_size(image)), np.float32).transpose(2, 0, 1))


def small_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) at which a picture is compared."""
    factor = max(1.0, max(image.size) / SIDE)
    return max(1, round(image.width / factor)), max(1, round(image.height / factor))


def _scaled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if size == image.size:
        return image
    return image.resize(size, Image.Resampling.BOX if image.width >= 2 * size[0] else Image.Resampling.BILINEAR)


def stands(source: Image.Image, target: Image.Image, mask: Image.Image | None = None) -> bool:
    """Whether one look is enough: many edges stand exactly where they were, or there are too few to say anything.

    Args:
        source, target: in RGB, of one aspect.
        mask: white where an edit may change something; where it leaves edges, only those are looked at.
    """
    size = small_size(source)
    if min(size) < LEAST_SIDE:
        return True
    source_HW, target_HW = (np.asarray(_scaled(image, size).convert("L"), np.float32) for image in (source, target))
    steep = _steep(source_HW) | _steep(target_HW)
    if steep.sum() < FEW_EDGES:
        return True
    both = list(zip(_slopes(source_HW), _slopes(target_HW), strict=True))
    # Beside an edge that moved by a pixel the values stay, the slopes do not.
    still = np.all([np.abs(b - a) <= 1.0 for a, b in ((source_HW, target_HW), *both)], axis=0)
    # And along an edge a picture may be moved without changing it: the edges across each axis count by themselves.
    slopes = [np.maximum(np.abs(a), np.abs(b)) for a, b in both]
    for free in (np.ones_like(steep), _free(mask, size, steep)):
        across = [still[(slope >= EDGE) & free] for slope in slopes]
        if min(len(some) for some in across) >= FEW_EDGES // 4 and min(some.mean() for some in across) >= UNMOVED:
            return True
    return False


def find_motion(source: Image.Image, target: Image.Image, mask: Image.Image | None = None) -> Moved | None:
    """The transform that moves a whole picture, asked for where `stands` says no; None where there is none to be found.

    Args:
        source, target, mask: as for `stands`.
    """
    size = small_size(source)
    width, height = size
    colours = small(source, size), small(target, size)
    source_HW, target_HW = (c.mean(0) for c in colours)
    free_HW = _free(mask, size, _steep(source_HW) | _steep(target_HW))
    pair = _Pair(channels(colours[0]), channels(colours[1]), free_HW)
    best = _refine(pair, Similarity())
    if sum(best.transform.parts(height, width).values()) < FOUND and best.in_place >= ENOUGH:
        return None
    if best.in_place <= GOOD:
        starts = [_shift_between(source_HW, target_HW), *_turns_between(source_HW, target_HW), *_FURTHER]
        for start in starts:
            best = min(best, _refine(pair, start), key=lambda fit: fit.cost)
            if best.cost < SURE:
                break
    parts = best.transform.parts(height, width)
    kind = max(parts, key=lambda name: parts[name])
    if parts[kind] < FOUND or best.cost > CONVINCING:
        return None
    found, scale = best.transform, source.width / width
    transform = Similarity(found.zoom, found.angle, found.dx * scale, found.dy * scale)
    return Moved(kind, transform, _in_place(pair.source, pair, free_HW), best.in_place)


def _free(mask: Image.Image | None, size: tuple[int, int], steep_HW: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Where a mask says that no edit is; everywhere without one, and where it leaves too few edges."""
    if mask is None:
        return np.ones(steep_HW.shape, bool)
    wide = mask.convert("L").resize(size, Image.Resampling.BILINEAR).filter(ImageFilter.MaxFilter(2 * MARGIN + 1))
    free = np.asarray(wide) < 128
    return free if (free & steep_HW).sum() >= FEW_EDGES else np.ones(steep_HW.shape, bool)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Both pictures as `channels` gives them, and where they are compared."""

    source: Pixels
    target: Pixels
    free: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Fit:
    """A refined transform; `cost`: what is left of the robust error without it; `in_place`: the share of the edges."""

    transform: Similarity
    cost: float
    in_place: float


def warp(image_CHW: Pixels, transform: Similarity) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """image(c + e^zoom R(x - c) + shift), bilinear, and where that lies inside the picture."""
    height, width = image_CHW.shape[-2:]
    y, x = _grid(height, width)
    grow = np.exp(transform.zoom)
    cos, sin = np.float32(grow * np.cos(transform.angle)), np.float32(grow * np.sin(transform.angle))
    from_x = cos * x - sin * y + np.float32(transform.dx + (width - 1) / 2)
    from_y = sin * x + cos * y + np.float32(transform.dy + (height - 1) / 2)
    inside = (from_x >= 0) & (from_x <= width - 1) & (from_y >= 0) & (from_y <= height - 1)
    np.clip(from_x, 0, width - 1.001, out=from_x)
    np.clip(from_y, 0, height - 1.001, out=from_y)
    left, top = from_x.astype(np.int32), from_y.astype(np.int32)
    part_x, part_y = from_x - left, from_y - top
    flat, at = image_CHW.reshape(*image_CHW.shape[:-2], -1), top * width + left
    upper_left, lower_left = flat[..., at], flat[..., at + width]
    upper = upper_left + (flat[..., at + 1] - upper_left) * part_x
    lower = lower_left + (flat[..., at + width + 1] - lower_left) * part_x
    return upper + (lower - upper) * part_y, inside


def channels(image_CHW: Pixels) -> Pixels:
    """What is brought into place, (2, H, W): grey values, and edges whatever their contrast, which edits of colours leave.

    Both are smoothed a little, so that reading them between the pixels errs little.
    """
    smooth_CHW = _smoothed(image_CHW)
    slope_y, slope_x = _slopes(smooth_CHW)
    slope = np.sqrt((slope_x**2 + slope_y**2).max(0))
    return np.stack([smooth_CHW.mean(0), _smoothed(100 * slope / (slope + FAINT))])


def _smoothed(image_HW: Pixels) -> Pixels:
    """Binomial, 1 2 1 along both axes."""
    padded = np.pad(image_HW, [(0, 0)] * (image_HW.ndim - 2) + [(1, 1), (1, 1)], mode="edge")
    rows = 0.25 * (padded[..., :-2, :] + padded[..., 2:, :]) + 0.5 * padded[..., 1:-1, :]
    return 0.25 * (rows[..., :-2] + rows[..., 2:]) + 0.5 * rows[..., 1:-1]


def _slopes(image_CHW: Pixels) -> tuple[Pixels, Pixels]:
    """Central differences along y and x; zero at the border."""
    slope_y, slope_x = np.zeros_like(image_CHW), np.zeros_like(image_CHW)
    slope_y[..., 1:-1, :] = 0.5 * (image_CHW[..., 2:, :] - image_CHW[..., :-2, :])
    slope_x[..., 1:-1] = 0.5 * (image_CHW[..., 2:] - image_CHW[..., :-2])
    return slope_y, slope_x


def _steep(image_HW: Pixels) -> npt.NDArray[np.bool_]:
    slope_y, slope_x = _slopes(image_HW)
    return slope_x**2 + slope_y**2 >= EDGE**2


def _in_place(warped_CHW: Pixels, pair: _Pair, inside: npt.NDArray[np.bool_]) -> float:
    """Share of the steep pixels that are less than IN_PLACE_PX from their place, by their error over their slope."""
    slope_y, slope_x = _slopes(0.5 * (warped_CHW + pair.target))
    steep = (_steep(warped_CHW[0]) | _steep(pair.target[0])) & inside
    if steep.sum() < FEW_EDGES:
        return 0.0
    slope = np.sqrt(slope_x[:, steep] ** 2 + slope_y[:, steep] ** 2)
    near = np.abs((pair.target - warped_CHW)[:, steep]) <= IN_PLACE_PX * slope + 1.0
    return float(near.any(axis=0).mean())


def _refine(pair: _Pair, start: Similarity) -> _Fit:
    """Robust least squares from `start`."""
    height, width = pair.free.shape
    y, x = (np.broadcast_to(axis, pair.source.shape) for axis in _grid(height, width))
    values = np.array([start.zoom, start.angle, start.dx, start.dy])
    for scale in _SCALES:
        warped, inside = warp(pair.source, Similarity(*map(float, values)))
        slope_y, slope_x = _slopes(0.5 * (warped + pair.target))
        chosen = inside & pair.free & (slope_x**2 + slope_y**2 >= 4.0)
        if chosen.sum() < FEW_EDGES:
            return _Fit(start, 1.0, 0.0)
        g_x, g_y, p_x, p_y = slope_x[chosen], slope_y[chosen], x[chosen], y[chosen]
        error = (pair.target - warped)[chosen]
        jacobian = np.stack([g_x * p_x + g_y * p_y, g_y * p_x - g_x * p_y, g_x, g_y])
        weighted = jacobian / (1 + (error / scale) ** 2) ** 2  # Geman and McClure: far errors count for nothing
        normal = (weighted @ jacobian.T).astype(np.float64)
        step = np.linalg.solve(normal + np.diag(1e-6 * normal.diagonal() + 1e-6), (weighted @ error).astype(np.float64))
        values = values + np.clip(step, [-0.1, -0.1, -3, -3], [0.1, 0.1, 3, 3])
        if abs(values[0]) > 0.5 or np.abs(values[2:]).max() > max(height, width) / 2:
            return _Fit(start, 1.0, 0.0)
        if np.abs(step * [width / 4, width / 4, 1, 1]).max() < 0.003 and scale == _SCALES[-1]:
            break
    found = Similarity(*map(float, values))
    warped, inside = warp(pair.source, found)
    inside &= pair.free
    left = _cost(warped, pair, inside) / max(_cost(pair.source, pair, inside), 1e-6)
    return _Fit(found, left, _in_place(warped, pair, inside))


def _cost(warped_CHW: Pixels, pair: _Pair, inside: npt.NDArray[np.bool_]) -> float:
    """Mean of a robust error, 0 to 1, where there is something to be seen."""
    slope_y, slope_x = _slopes(0.5 * (warped_CHW + pair.target))
    chosen = inside & (slope_x**2 + slope_y**2 >= 4.0)
    if not chosen.any():
        return 1.0
    squares = (pair.target - warped_CHW)[chosen] ** 2
    return float((squares / (squares + _SCALES[-1] ** 2)).mean())


def _shift_between(source_HW: Pixels, target_HW: Pixels) -> Similarity:
    """Phase correlation of the edges: the shift in px that makes the target of the source."""
    window = _window(*source_HW.shape)
    found_y, found_x = _peak(_clipped_slopes(source_HW) * window, _clipped_slopes(target_HW) * window)
    return Similarity(dx=found_x, dy=found_y)


def _turns_between(source_HW: Pixels, target_HW: Pixels) -> list[Similarity]:
    """Phase correlation of the log-polar spectra: rotation and zoom, then the shift of what is left."""
    side = min(source_HW.shape)
    top, left = ((n - side) // 2 for n in source_HW.shape)
    crop = (slice(top, top + side), slice(left, left + side))
    first, second = (_log_polar(image[crop]) for image in (source_HW, target_HW))
    found_angle, found_radius = _peak(first, second)
    angles, radii = first.shape
    angle = found_angle * np.pi / angles
    zoom = found_radius * np.log(side / 2 / _LEAST_RADIUS) / radii
    if abs(angle) > np.pi / 4 or abs(zoom) > 0.4:
        return []
    found = []
    # The spectrum of a picture that is shrunk is enlarged: signs are settled by trying, which costs little.
    for turn in {(zoom, angle), (-zoom, angle), (zoom, -angle), (-zoom, -angle)}:
        turned = Similarity(*map(float, turn))
        shift = _shift_between(warp(source_HW, turned)[0], target_HW)
        cos, sin = np.cos(turned.angle) * np.exp(turned.zoom), np.sin(turned.angle) * np.exp(turned.zoom)
        found.append(Similarity(turned.zoom, turned.angle, cos * shift.dx - sin * shift.dy, sin * shift.dx + cos * shift.dy))
    return found


_LEAST_RADIUS = 2.0  # of a spectrum, in its px


def _log_polar(image_NN: Pixels) -> Pixels:
    """The spectrum's log magnitude over 180 degrees (rows) and the log of the radius (columns)."""
    side = len(image_NN)
    spectrum = np.abs(np.fft.fftshift(np.fft.fft2((image_NN - image_NN.mean()) * _window(side, side))))
    at_y, at_x = _polar_places(side)
    rows = np.log1p(spectrum).astype(np.float32).ravel()[at_y * side + at_x]
    return (rows - rows.mean(0)) * _window(*rows.shape)[rows.shape[0] // 2]


@cache
def _polar_places(side: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    angles = np.pi * np.arange(180)[:, None] / 180
    radii = _LEAST_RADIUS * (side / 2 / _LEAST_RADIUS) ** (np.arange(96)[None] / 96)
    places = (side // 2 + radii * np.sin(angles), side // 2 + radii * np.cos(angles))
    y, x = (np.clip(np.rint(p), 0, side - 1).astype(np.intp) for p in places)
    return y, x


def _clipped_slopes(image_HW: Pixels) -> Pixels:
    slope_y, slope_x = _slopes(image_HW)
    return np.minimum(np.sqrt(slope_x**2 + slope_y**2), 40.0)  # so that one strong edge does not outvote the others


def _peak(first: Pixels, second: Pixels) -> tuple[float, float]:
    """(rows, columns) by which `first` must be read ahead to look like `second`, to a fraction by a parabola."""
    product = np.fft.rfft2(first) * np.conj(np.fft.rfft2(second))
    height, width = first.shape
    smooth = _low_pass(height, width)
    surface = np.fft.irfft2(product / (np.abs(product) + 1e-6) * smooth, s=first.shape)
    row, column = np.unravel_index(int(surface.argmax()), surface.shape)
    fractions = []
    for axis, at, size in ((0, row, height), (1, column, width)):
        line = surface[:, column] if axis == 0 else surface[row]
        low, mid, high = (float(line[(at + k) % size]) for k in (-1, 0, 1))
        bend = low - 2 * mid + high
        place = at + (0.5 * (low - high) / bend if bend < 0 else 0.0)
        fractions.append(float(place - size if place > size / 2 else place))
    return fractions[0], fractions[1]


@cache
def _low_pass(height: int, width: int) -> Pixels:
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    return np.exp(-(rows**2 + columns**2) / (2 * 0.15**2)).astype(np.float32)


@cache
def _window(height: int, width: int) -> Pixels:
    return np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)


@cache
def _grid(height: int, width: int) -> tuple[Pixels, Pixels]:
    """Y and x of every pixel from the centre."""
    y, x = np.indices((height, width), dtype=np.float32)
    return y - (height - 1) / 2, x - (width - 1) / 2
