from __future__ import annotations

from mulfree.bench.layers import layers_of


def test_layers_of_resnet20_are_its_adder_layers() -> None:
    layers = layers_of("resnet20", "adder2d", batch=128, input_size=(3, 32, 32))
    assert {(str(layer.problem), layer.occurrences) for layer in layers} == {
        ("n128c16o16x32x32k3x3p11", 6),
        ("n128c16o32x32x32k3x3s22p11", 1),
        ("n128c16o32x32x32k1x1s22", 1),
        ("n128c32o32x16x16k3x3p11", 5),
        ("n128c32o64x16x16k3x3s22p11", 1),
        ("n128c32o64x16x16k1x1s22", 1),
        ("n128c64o64x8x8k3x3p11", 5),
    }


def test_layers_of_resnet18_are_3x3_and_1x1() -> None:
    layers = layers_of("resnet18", "adder2d", batch=8, input_size=(3, 224, 224))
    assert {layer.problem.kernel for layer in layers} == {(1, 1), (3, 3)}
    assert sum(layer.occurrences for layer in layers) == 16 + 3
