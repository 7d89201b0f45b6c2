from __future__ import annotations

import pytest
import torch

from mulfree.data.device_copy import SideStream, host_buffer, to_device

CPU = torch.device("cpu")


def test_on_the_cpu_nothing_is_copied() -> None:
    tensor = torch.arange(4)
    assert to_device(tensor, CPU) is tensor
    side = SideStream(CPU)
    sent = side.send(tensor)
    assert sent.arrived is None
    assert side.receive(sent)[0] is tensor
    buffer = host_buffer((2, 3), torch.uint8, CPU)
    assert (buffer.shape, buffer.dtype, buffer.device) == ((2, 3), torch.uint8, CPU)
    assert not buffer.is_pinned()


def test_other_devices_get_a_plain_copy() -> None:
    meta = torch.device("meta")
    side = SideStream(meta)
    first, second = side.receive(side.send(torch.zeros(2), torch.arange(3)))
    assert first.device == second.device == to_device(torch.zeros(2), meta).device == meta
    assert (first.shape, second.shape) == ((2,), (3,))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_what_arrives_on_a_gpu_is_what_was_sent(name: str) -> None:
    device = torch.device(name)
    side = SideStream(device)
    expected = list(torch.randint(256, (20, 3_000_000), dtype=torch.uint8))
    sent = []
    for row in expected:
        buffer = host_buffer(tuple(row.shape), row.dtype, device)
        assert buffer.is_pinned()
        sent.append(side.send(buffer.copy_(row), to_device(torch.arange(3), CPU)))
    for row, one in zip(expected, sent, strict=True):
        got, numbers = side.receive(one)
        assert got.is_cuda
        assert torch.equal((got + 1).cpu(), row + 1)  # read by the current stream
        assert numbers.tolist() == [0, 1, 2]
    assert torch.equal(to_device(expected[0], device).cpu(), expected[0])


@pytest.mark.gpu
def test_memory_is_not_filled_anew_while_it_is_read() -> None:
    device = torch.device("cuda")
    side = SideStream(device)
    sums = []
    for value in range(50):
        (got,) = side.receive(side.send(torch.full((1_000_000,), float(value))))
        torch.cuda._sleep(1_000_000)  # the current stream lags behind the side stream
        sums.append(got.mean())
        del got
    assert torch.stack(sums).tolist() == [float(value) for value in range(50)]
