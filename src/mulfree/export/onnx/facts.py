"""Metadata of an ONNX model: preprocessing and class names."""

from __future__ import annotations

import json
from collections.abc import Sequence

import onnx
from onnx import helper


def set_facts(
    model: onnx.ModelProto,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    resize: int,
    classes: Sequence[str] | None,
) -> None:
    """Write how pictures become the input, and the names of the logits, as JSON.

    Args:
        model: The model.
        mean: Per channel, of pixels scaled to 0..1; subtracted.
        std: Per channel, likewise; divided by.
        resize: Side that pictures are resized to before the middle is cut out.
        classes: Names of the logits.
    """
    facts = {"mean": mean, "std": std, "resize": resize, "classes": classes}
    helper.set_model_props(model, {key: json.dumps(value) for key, value in facts.items()})
