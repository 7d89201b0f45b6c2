from __future__ import annotations

import numpy as np
import pytest

from mulfree.tasks.classification.outputs import decode


def test_the_most_probable_classes_come_first() -> None:
    logits = np.log(np.array([1.0, 6.0, 3.0], np.float32))
    (first, best), (second, next_best) = decode(logits, ("a", "b", "c"), 2)
    assert (first, second) == ("b", "c")
    assert [best, next_best] == pytest.approx([0.6, 0.3])
    assert decode(logits, (), 1)[0][0] == "1"


def test_logits_beyond_float32() -> None:
    assert decode(np.array([np.inf, -np.inf], np.float32), (), 1) == [("0", 1.0)]
