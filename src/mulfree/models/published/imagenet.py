"""Specification of ImageNet's images, and its class names from a package that carries them."""

from __future__ import annotations

import ast
import importlib.metadata
from pathlib import Path

from mulfree.files import read_regular
from mulfree.models.images import ImageSpec

CLASSES = 1000
_MAX_BYTES = 2**24
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5)
# Pixels to (pixel - 127) / 128.
_LITE_MEAN, _LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3
# Shorter side before the crop, as torchvision evaluates; elsewhere the side of the crop + 32.
_RESIZE = {"b2": 288, "b3": 320, "b4": 384, "b5": 456, "b6": 528, "b7": 600, "b1": 256}
_MARGIN = 32


def image_spec(layout: str, name: str, side: int) -> ImageSpec:
    """Specification of the images of a published network.

    Args:
        layout: Title of its layout.
        name: Name of the model.
        side: Side of the images that it is designed for.
    """
    mean, std = _MEAN, _STD
    if "_lite" in name and layout == "lukemelas":
        mean, std = _LITE_MEAN, _LITE_STD
    elif "_lite" in name and name.startswith("tf_"):
        mean, std = _HALF, _HALF
    resize = side + _MARGIN
    if layout == "torchvision":
        resize = _RESIZE.get(name.rpartition("_")[2], resize)
    return ImageSpec(
        size=(3, side, side),
        mean=mean,
        std=std,
        resize=resize,
        classes=class_names(),
        data="imagenet",
    )


def class_names() -> tuple[str, ...]:
    """Names of ImageNet's 1000 classes, of torchvision or timm if installed, else numbers.

    The files of these packages are read as texts; nothing of them is imported.
    """
    for read in (_torchvision, _timm):
        names = read()
        if names is not None and len(names) == CLASSES:
            return names
    return tuple(str(number) for number in range(CLASSES))


def _torchvision() -> tuple[str, ...] | None:
    """Names in the literal `_IMAGENET_CATEGORIES`."""
    text = _text("torchvision", "torchvision/models/_meta.py")
    try:
        for statement in ast.parse(text or "").body:
            if isinstance(statement, ast.Assign) and any(
                isinstance(target, ast.Name) and target.id == "_IMAGENET_CATEGORIES"
                for target in statement.targets
            ):
                return _names(ast.literal_eval(statement.value))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    return None


def _timm() -> tuple[str, ...] | None:
    """First lemma of each class, by its WordNet synset."""
    order = _text("timm", "timm/data/_info/imagenet_synsets.txt")
    lemmas = _text("timm", "timm/data/_info/imagenet_synset_to_lemma.txt")
    if order is None or lemmas is None:
        return None
    names = dict(line.split("\t", 1) for line in lemmas.splitlines() if "\t" in line)
    synsets = order.split()
    if not all(synset in names for synset in synsets):
        return None
    return tuple(names[synset].split(",")[0].strip() for synset in synsets)


def _names(value: object) -> tuple[str, ...] | None:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        return None
    return tuple(value)


def _text(package: str, path: str) -> str | None:
    """Text of a file of an installed package; None if there is none."""
    try:
        found = importlib.metadata.distribution(package).locate_file(path)
        return read_regular(Path(str(found)), _MAX_BYTES).decode()
    except (importlib.metadata.PackageNotFoundError, OSError, ValueError):
        return None
