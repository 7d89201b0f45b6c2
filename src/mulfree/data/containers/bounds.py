"""How much image files may take up when they are decoded: guards against decompression bombs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from mulfree.errors import ConfigError, quoted

FLOOR_BYTES = 2**28
"""Images may decode to this however small their files are."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Bounds on decoded image files. ImageNet stays far below the defaults.

    Raises:
        ConfigError: If a value is not a positive integer.
    """

    max_image_pixels: int = 2**26
    """Pixels of one image file; larger ones are refused."""

    max_decoding_bytes: int = 2**30
    """Memory for files and pixels while decoding: large images are decoded fewer at a time."""

    max_expansion: int = 2000
    """Images may decode to this many times the size of their files, or to 256 MiB if that is
    more."""

    min_free_bytes: int = 2**28
    """Disk space that is left free when the cache is written."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(Bounds):
            value = getattr(self, field.name)
            if type(value) is not int or not 1 <= value < 2**62:
                raise ConfigError(
                    f"{type(self).__name__}: `{field.name}` must be a positive integer below 2^62, "
                    f"got {quoted(value)}"
                )

    def decoded_bytes(self, file_bytes: int) -> int:
        """Bytes that the images of files of that size may decode to."""
        return max(FLOOR_BYTES, self.max_expansion * file_bytes)
