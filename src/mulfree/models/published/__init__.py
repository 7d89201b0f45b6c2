"""State dicts of other code, or of mulfree without a model config."""

from __future__ import annotations

from mulfree.models.published.load import load_published as load_published
