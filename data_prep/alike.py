"""Pictures that are nearly the same, by thumbnails: one radiograph stored twice, brighter or otherwise compressed.

Not here: the very same picture by its bytes (folder.py).
"""

from collections.abc import Iterable

from .images import letterbox, read_gray

THUMBNAIL = 32  # pixels
SAME = 0.995  # correlation of two thumbnails that are nearly one


def first_alike(paths: Iterable) -> list[int | None]:
    """For each picture the position of the first one before it that is nearly the same, None if there is none."""
    thumbnails, found = [], []
    for path in paths:
        small = letterbox(read_gray(path, THUMBNAIL), THUMBNAIL).ravel().astype(float)
        small = (small - small.mean()) / max(small.std(), 1e-6)
        alike = (n for n, other in enumerate(thumbnails) if other @ small / len(small) > SAME)
        found.append(next(alike, None))
        thumbnails.append(small)
    return found
