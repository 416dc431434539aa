"""Previews small enough for a strip: JPEGs, of which the newest stay in memory."""

import io
import threading
from collections import OrderedDict
from pathlib import Path

from PIL import Image

LONGEST_SIDE = 256  # pixels
QUALITY = 85
MOST_BYTES = 32 * 2**20


class SmallPictures:
    """Shrinks pictures; one that was changed on disk is another picture."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()
        self._num_bytes = 0

    def jpeg(self, path: Path) -> bytes:
        """The picture as a JPEG of at most 256 pixels a side.

        Raises:
            UNREADABLE of trainer.runs.drawings: it is gone, or no sound PNG.
        """
        facts = path.stat()
        key = (str(path), facts.st_mtime_ns, facts.st_size)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = _shrunk(path)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._num_bytes += len(made)
            while self._num_bytes > self._most_bytes and self._kept:
                _, oldest = self._kept.popitem(last=False)
                self._num_bytes -= len(oldest)
        return made


def _shrunk(path: Path) -> bytes:
    with Image.open(path, formats=["PNG"]) as picture:
        small = picture.convert("RGB")
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    small.save(written, "JPEG", quality=QUALITY)
    return written.getvalue()
