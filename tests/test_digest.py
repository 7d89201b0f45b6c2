from __future__ import annotations

import hashlib

from mulfree.digest import DIGEST, Entry, digest_of

_ENTRIES = [Entry("b", "U8", [2], b"\x01\x02"), Entry("a", "I8", [1, 1], b"\x03")]
_METADATA = {"format": "x", "about": "y"}


def test_it_is_the_sha256_of_metadata_and_tensors_by_name() -> None:
    text = b'[["about", "y"], ["format", "x"]]["a", "I8", [1, 1]]\x03["b", "U8", [2]]\x01\x02'
    assert digest_of(_METADATA, _ENTRIES) == hashlib.sha256(text).hexdigest()


def test_order_and_the_digest_itself_do_not_matter() -> None:
    digest = digest_of(_METADATA, _ENTRIES)
    others = dict(reversed(_METADATA.items())) | {DIGEST: digest}
    assert digest_of(others, reversed(_ENTRIES)) == digest


def test_everything_else_does() -> None:
    first, second = _ENTRIES
    digests = {
        digest_of(_METADATA, _ENTRIES),
        digest_of(_METADATA | {"format": "z"}, _ENTRIES),
        digest_of({"format": "x"}, _ENTRIES),
        digest_of(_METADATA, [first]),
        digest_of(_METADATA, [first, second._replace(name="c")]),
        digest_of(_METADATA, [first, second._replace(dtype="U8")]),
        digest_of(_METADATA, [first, second._replace(shape=[1])]),
        digest_of(_METADATA, [first, second._replace(data=b"\x02")]),
        digest_of(_METADATA, [first._replace(data=memoryview(b"\x01\x03")), second]),
    }
    assert len(digests) == 9
