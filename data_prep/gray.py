"""Numbers of any depth to 8-bit grey, and which pictures are refused: too large, too long, blank.

Not here: how a file is decoded (images.py, dicom.py). The limits are checked on the header, before anything is decoded.
"""

import math

import numpy as np

from .errors import KitError

MAX_PIXELS = 50_000_000  # a chest radiograph has 4 to 20 million
MAX_BYTES = 4 * MAX_PIXELS  # of a file, and of what a compressed one may become
MAX_RATIO = 10  # longer side / shorter side; a radiograph of a whole spine has 3
CUT = (0.5, 99.5)  # percentiles of what is drawn that become black and white
SAMPLE = 1_000_000  # pixels that are enough to find these
FLAT = 4  # grey levels: a picture whose pixels, but for those beyond CUT, span fewer is blank
NOISY = 1 / 32  # of the range: a picture that spans less and is mere noise is blank
ODD_GAP = 1 / 4  # of the drawing's span: an end value that lies farther off is no part of it
ODD_SHARE = 1e-3  # of the pixels: fewer cannot shift the percentiles
BLANK = "image blank: nothing is drawn on it"


class ImageError(KitError):
    """A file that cannot be used as an image; the message is the reason."""


def check_size(width: int, height: int) -> None:
    """Raises ImageError for a size that no radiograph has."""
    if min(width, height) < 1:
        raise ImageError(f"image without pixels: {width} × {height}")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"image too large: {width} × {height} pixels, at most {MAX_PIXELS // 10**6} million"
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ImageError(
            f"image too long: {width} × {height}, one side at most {MAX_RATIO} times the other"
        )


def check_not_blank(pixels: np.ndarray, depth: int = 8) -> None:
    """Raises ImageError for pixels (H, W) that are all alike, or so nearly alike that only noise is left.

    depth: bits per pixel of whole numbers; 0 for fractions, of which only the constant are blank.
    """
    pixels = sample(pixels)
    low, high = np.percentile(pixels, CUT)
    least = FLAT if depth else 1e-6 * max(abs(low), abs(high))
    is_flat = high <= low or high - low < least
    if is_flat or (high - low < 2**depth * NOISY and _is_noise(pixels, low, high)):
        raise ImageError(BLANK)


def _is_noise(pixels: np.ndarray, low: float, high: float) -> bool:
    """Whether neighbours differ about as much as any two pixels do."""
    pixels = np.clip(pixels, low, high).astype(np.float64)
    steps = np.diff(pixels, axis=1)
    return steps.size > 0 and np.square(steps).mean() > pixels.var()


def sample(pixels: np.ndarray) -> np.ndarray:
    """Every k-th row and column, so that about SAMPLE pixels are left."""
    step = max(1, math.isqrt(pixels.size // SAMPLE))
    return pixels[::step, ::step]


def ends(pixels: np.ndarray, drawn: np.ndarray) -> tuple[float, float]:
    """The values that become black and white: percentiles of what is drawn.

    drawn: a mask of the pixels that are not known to be padding. Padding that nobody declares is a value at either
    end that many pixels have and that lies far from all others; it counts for nothing either.
    """
    inside = sample(pixels)[sample(drawn)]
    for end, side in ((np.min, 0), (np.max, 1)):
        rest = inside[inside != end(inside)] if inside.size else inside
        if rest.size == 0 or inside.size - rest.size < ODD_SHARE * inside.size:
            continue
        found = np.percentile(rest, CUT)
        gap, span = abs(float(end(inside)) - found[side]), found[1] - found[0]
        if span > 0 and gap > ODD_GAP * span:
            inside = rest
    if not inside.size:
        raise ImageError(BLANK)
    low, high = np.percentile(inside, CUT)
    return float(low), float(high)


def to_8bit(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Stretch [low, high] to [0, 255]; what is no number becomes black."""
    pixels = np.clip(pixels.astype(np.float32, copy=False), low, high)
    pixels -= low
    pixels *= 255 / max(high - low, 1e-30)
    pixels += 0.5
    return np.nan_to_num(pixels, copy=False).astype(np.uint8)


def deep_to_8bit(pixels: np.ndarray, depth: int) -> np.ndarray:
    """Pixels (H, W) of more than 8 bits, or fractions (depth 0), stretched between their `ends`."""
    drawn = np.isfinite(pixels)
    low, high = ends(pixels, drawn)
    check_not_blank(np.clip(np.where(sample(drawn), sample(pixels), low), low, high), depth)
    gray = to_8bit(pixels, low, high)
    gray[~drawn] = 0
    return gray
