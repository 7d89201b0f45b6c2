"""How much image files may take up when they are decoded: guards against decompression bombs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from mulfree.errors import ConfigError, quoted


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What image files may take up. ImageNet stays far below each of the defaults.

    Raises:
        ConfigError: If a value is not a positive integer.
    """

    image_pixels: int = 2**26
    """Pixels of one image; larger ones are refused."""

    memory_bytes: int = 2**30
    """Memory for files and pixels while decoding: large images are decoded fewer at a time."""

    expansion: int = 2000
    """Images decode to at most this many times the size of their files, or to `floor_bytes`."""

    floor_bytes: int = 2**28
    """Bytes that images may decode to however small their files are."""

    free_bytes: int = 2**28
    """Disk space that is left free when the cache is written."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or not 1 <= value < 2**62:
                raise ConfigError(
                    f"Bounds: `{field.name}` must be a positive integer, got {quoted(value)}"
                )

    def decoded_bytes(self, file_bytes: int) -> int:
        """Bytes that the images of files of that size may decode to."""
        return max(self.floor_bytes, self.expansion * file_bytes)
