from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.runtime.graphs import tiny

from mulfree import models, runtime
from mulfree.cli.network_name import NamedNetwork, find_network
from mulfree.errors import ConfigError, MulfreeError


def find(word: object, **given: Any) -> NamedNetwork:
    return find_network("profile", str(word), given, in_channels=None, images=False)


def test_a_model_with_operator_options_and_binary_twin() -> None:
    found = find("lenet5_bn:adder2d:width=0.5:norm_logits=false:keep=[conv2]:binary", num_classes=4)
    assert found.binary
    arguments = models.config_of(found.network).arguments  # type: ignore[arg-type]
    expected = {"operator": "adder2d", "width": 0.5, "num_classes": 4, "in_channels": 3}
    assert {key: arguments[key] for key in expected} == expected
    assert (arguments["norm_logits"], arguments["keep"]) == (False, ["conv2"])


def test_channels_of_the_images() -> None:
    for word, channels in (("lenet5_bn", 1), ("lenet5_bn:in_channels=2", 2)):
        found = find_network("profile", word, {}, in_channels=1, images=False)
        arguments = models.config_of(found.network).arguments  # type: ignore[arg-type]
        assert (arguments["in_channels"], found.binary) == (channels, False)


def test_files(tmp_path: Path) -> None:
    weights, artifact = tmp_path / "a:b.safetensors", tmp_path / "tiny.mulfree"
    models.save_weights(models.create_model("lenet5_bn"), weights)
    runtime.save(tiny(), artifact)
    assert not find(weights).binary
    assert find(f"{weights}:binary").binary
    assert isinstance(find(artifact).network, runtime.Graph)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lenet5", "profile: `model` must be one of .*, got 'lenet5'; did you mean 'lenet5_bn'"),
        ("lenet5_bn:adder", "profile: `lenet5_bn:adder` must be one of .*, got 'adder'; did you m"),
        ("lenet5_bn:", "profile: `lenet5_bn:` must be one of .*, got ''"),
        (
            "lenet5_bn:adder2d:conv2d",
            "`operator` must be given once, got 'lenet5_bn:adder2d:",
        ),
        ("lenet5_bn:num_classes=3", "`num_classes` must be given once, got"),
        (
            "lenet5_bn:width=!!python/name:x",
            "must be a plain value, .*: tags are not taken",
        ),
        ("lenet5_bn:width=[", r"`width` must be a plain value, got '\['"),
        ("lenet5_bn:width=a", "`width` must be of type float, got 'a'"),
        ("lenet5_bn:depht=1", "`options` must be one of .*, got 'depht'"),
        ("x.ckpt", "`--num-classes` must be left out with a file, got 4 for x.ckpt"),
    ],
)
def test_a_mistake_is_one_line(word: str, message: str) -> None:
    with pytest.raises(MulfreeError, match=message) as caught:
        find(word, num_classes=4)
    assert isinstance(caught.value, ConfigError)
    assert "\n" not in str(caught.value)
