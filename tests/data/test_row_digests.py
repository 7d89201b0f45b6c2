from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from mulfree.data.row_digests import RowCheck, row_digests


class DamageError(Exception):
    pass


def numbers(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


@pytest.fixture
def array() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (6, 3, 2, 2), dtype=np.uint8)


def test_a_digest_for_each_row(array: NDArray[np.uint8]) -> None:
    digests = row_digests(array)
    assert digests.shape == (6, 16)
    # BLAKE2b of 16 bytes of no data.
    assert row_digests(np.empty((1, 0), np.uint8)).tobytes().hex() == (
        "cae66941d9efbd404e4d88758ea67670"
    )
    np.testing.assert_array_equal(digests[2:3], row_digests(array[2:3]))
    assert row_digests(array[:0]).shape == (0, 16)


def test_every_flipped_bit_is_found(array: NDArray[np.uint8]) -> None:
    digests = row_digests(array)
    for bit in range(8 * array[0].size):
        changed = array.copy()
        changed[3].reshape(-1)[bit // 8] ^= 1 << bit % 8
        check = RowCheck(changed, digests, DamageError)
        check(numbers(0, 1, 2, 4, 5))
        with pytest.raises(DamageError):
            check(numbers(1, 3))


def test_a_row_is_compared_once(array: NDArray[np.uint8]) -> None:
    check = RowCheck(array, row_digests(array), DamageError)
    check(numbers(4, 1))
    array += 1
    check(numbers(1, 4))
    with pytest.raises(DamageError):
        check(numbers(1, 2, 4))


def test_threads_share_a_check(array: NDArray[np.uint8]) -> None:
    many = np.tile(array, (50, 1, 1, 1))
    digests = row_digests(many)
    many[77] += 1
    check = RowCheck(many, digests, DamageError)
    order = np.random.default_rng(1)

    def read(_: int) -> int:
        bad = 0
        for number in order.permutation(len(many)):
            try:
                check(numbers(number))
            except DamageError:
                bad += number == 77
        return bad

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, range(4))) == [1] * 4
