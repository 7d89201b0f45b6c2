"""Networks in files that other programs run: the runtime's artifacts, and ONNX."""

from __future__ import annotations

from mulfree.export.onnx import to_onnx as to_onnx
from mulfree.runtime.artifact import save as save
