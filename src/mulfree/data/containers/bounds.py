"""Limits on decoded image files: guards against decompression bombs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from mulfree.errors import ConfigError, quoted

FLOOR_BYTES = 2**28
"""Decoded bytes that are always allowed, however small the files."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Limits on decoded image files. ImageNet stays far below the defaults.

    Raises:
        ConfigError: A value is not a positive integer.
    """

    max_image_pixels: int = 2**26
    """Pixels of one image file; larger images are refused."""

    max_decoding_bytes: int = 2**30
    """Memory for files and pixels while decoding; fewer large images are decoded at a time."""

    max_expansion: int = 2000
    """Decoded bytes as a multiple of the bytes of the files; 256 MiB are always allowed."""

    min_free_bytes: int = 2**28
    """Disk space left free when the cache is written."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(Bounds):
            value = getattr(self, field.name)
            if type(value) is not int or not 1 <= value < 2**62:
                raise ConfigError(
                    f"{type(self).__name__}: `{field.name}` must be a positive integer below 2^62, "
                    f"got {quoted(value)}"
                )

    def decoded_bytes(self, file_bytes: int) -> int:
        """Limit on the decoded bytes of files of that size."""
        return max(FLOOR_BYTES, self.max_expansion * file_bytes)
