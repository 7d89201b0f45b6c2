from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from mulfree.models import claims
from mulfree.models.pickles import load

_BEGIN, _END = b"\x80\x02", b"."
# A tuple of two tuples of two tuples of ...: 2^40 values in 200 bytes.
_BOMB = b")q\x00" + b"".join(bytes([*b"h", k, *b"\x86q", k + 1]) for k in range(40))
_TEN_GB = b"\x8a\x05\x00\xe4\x0bT\x02"


def archive(pickled: bytes) -> bytes:
    """A file of torch.save with another pickle in it."""
    plain, changed = io.BytesIO(), io.BytesIO()
    torch.save({"a": torch.ones(2)}, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith(".pkl") else old.read(name))
    return changed.getvalue()


def before_archives(pickled: bytes) -> bytes:
    """The same in the format before archives."""
    plain = io.BytesIO()
    torch.save({}, plain, _use_new_zipfile_serialization=False)
    whole = plain.getvalue()
    content = pickle.dumps({}, 2)
    assert whole.count(content) == 1
    return whole.replace(content, pickled)


FORMATS = pytest.mark.parametrize("form", [archive, before_archives])


@FORMATS
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"cbuiltins\nbytearray\n" + _TEN_GB + b"\x85R", "holds more than tensors"),
        (b"ctorch\nFloatTensor\n" + _TEN_GB + b"\x85R", "holds more than tensors"),
        (b"ctorch.storage\nUntypedStorage\n" + _TEN_GB + b"\x85R", "holds more than tensors"),
        (b"ctorch\nTensor\n" + _TEN_GB + b"\x85\x81", "holds more than tensors"),
        (b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00idna\x86R", "holds more than"),
        (b"}" + _BOMB + b"Ns", "a tuple of more than 4096 values"),
        (b"ccollections\nCounter\n" + _BOMB + b"\x85R", "a tuple of more than 4096 values"),
        (b"ctorch\nSize\n" + _BOMB + b"\x85R", "a tuple of more than 4096 values"),
        (b"}(" + b"N" * 5000 + b"tNs", "a tuple of more than 4096 values"),
        (b"}\x8a\x0a" + b"\xff" * 9 + b"\x01Ns", "an integer that is too large"),
        (b"\x86", "its values are damaged"),
        (b"h\x05", "its values are damaged"),
        (b"t", "its values are damaged"),
        (b"c\xff\n\xff\n", "its names are damaged"),
        (b"\x8d" + struct.pack("<Q", 2**62), "its values are damaged|bytes in a"),
        (b"]q\x00h\x00\x85R", "Error in its content"),
    ],
)
def test_more_than_a_file_may_ask_for(form: Any, body: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(form(_BEGIN + body + _END))
    with pytest.raises(ValueError, match=reason):
        claims.read_pickle(tmp_path / "x.pt")


@pytest.mark.parametrize("archived", [True, False])
def test_what_checkpoints_of_others_hold(archived: bool, tmp_path: Path) -> None:
    content = {
        "state_dict": OrderedDict(a=torch.arange(6.0).view(2, 3).t(), b=torch.ones(2).half()),
        "kept": torch.nn.Parameter(torch.ones(1)),
        "milestones": Counter([30, 60]),
        "device": torch.device("cpu"),
        "seed": 2**64 - 1,
        "betas": [(0.9, 0.999)] * 3,
    }
    file = tmp_path / "x.pt"
    torch.save(content, file, _use_new_zipfile_serialization=archived)
    found: Any = claims.read_pickle(file)
    for key in ("milestones", "device", "seed", "betas"):
        assert found[key] == content[key]
    assert torch.equal(found["state_dict"]["a"], torch.tensor([[0.0, 3.0], [1, 4], [2, 5]]))
    assert found["state_dict"]["b"].dtype == torch.float16
    assert isinstance(found["kept"], torch.nn.Parameter)


def test_storages_larger_than_the_file() -> None:
    plain = io.BytesIO()
    torch.save({"a": torch.ones(300)}, plain, _use_new_zipfile_serialization=False)
    file = plain.getvalue()
    # The number of elements in the record of the storage; its data is not reached.
    assert file.count(b"M\x2c\x01") == 2
    large = file.replace(b"M\x2c\x01", b"J\x00\x00\x00\x10", 1)
    with pytest.raises(ValueError, match=r"^ValueError in its content$"):
        load(io.BytesIO(large))
    assert torch.equal(load(io.BytesIO(file))["a"], torch.ones(300))
