from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.cli.command import refused, shown
from tests.runtime.graphs import tiny

from mulfree import models, runtime


def profile(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    return shown(capsys, "profile", *words)


def test_a_named_model(capsys: pytest.CaptureFixture[str]) -> None:
    lines = profile(capsys, "resnet20", "--operator", "adder2d").splitlines()
    assert lines[0] == (
        "resnet20 adder2d, input 3x32x32, fp32, exact convention, without normalisation"
    )
    cells = [cell.strip() for cell in lines[-2].strip("|").split("|")]
    assert cells == [
        "total", "", "", "443 k", "81.18 M", "0", "272.5 k", "2.696 MB", "74.7 uJ",
    ]  # fmt: skip


def test_the_papers_convention_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--operator", "adder2d", "--convention", "paper", "--format", "json")
    total = json.loads(profile(capsys, "resnet32", *words))["total"]
    assert (total["mul"], total["add"], total["xnor"]) == (0, 138_249_472, 0)


def test_markdown_in_another_number_format(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--format", "markdown", "--dtype", "int8", "--normalisation")
    text = profile(capsys, "lenet5_bn", "--input-size", "1,28,28", "--num-classes", "4", *words)
    assert text.startswith(
        "lenet5_bn conv2d, input 1x28x28, int8, exact convention, including normalisation\n\n| la"
    )
    assert "| fc | conv2d | 4x1x1 |" in text


def test_a_large_model_is_counted_at_its_own_size(capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(profile(capsys, "resnet18", "--num-classes", "1000", "--format", "json"))
    assert content["input_size"] == [3, 224, 224]
    assert content["total"]["mul"] == 1_814_073_344


def test_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = models.create_model("lenet5_bn", operator="adder2d", in_channels=1, num_classes=4)
    path = tmp_path / "model.safetensors"
    models.save_weights(model, path)
    named = ("--operator", "adder2d", "--num-classes", "4", "--input-size", "1,28,28")
    assert profile(capsys, str(path)) == profile(capsys, "lenet5_bn", *named)


def test_the_network_of_a_run_is_counted_at_the_size_of_its_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = models.create_model("resnet20", in_channels=1, num_classes=2, width=0.25)
    spec = models.ImageSpec(
        size=(1, 8, 8), mean=(0.5,), std=(1.0,), resize=8, classes=("a", "b"), data="x"
    )
    models.set_images(model, spec)
    models.save_weights(model, tmp_path / "model.safetensors")
    words = (str(tmp_path), "--format", "json")
    assert json.loads(profile(capsys, *words))["input_size"] == [1, 8, 8]
    given = json.loads(profile(capsys, *words, "--input-size", "1,16,16"))
    assert given["input_size"] == [1, 16, 16]


@pytest.mark.parametrize("name", ["tiny.mulfree", "tiny.safetensors"])
def test_an_artifact(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    runtime.save(tiny(), path)
    lines = profile(capsys, str(path)).splitlines()
    assert lines[0] == "tiny, input 1x3x3, int8, exact convention, including normalisation"
    assert [cell.strip() for cell in lines[5].strip("|").split("|")] == [
        "adder", "adder2d", "2x2x2", "4", "72", "0", "12", "40 B", "17.36 pJ",
    ]  # fmt: skip
    assert lines[-1] == "Arena of a session: 256 B for the values of one image."
    content = json.loads(profile(capsys, str(path), "--format", "json"))
    assert (content["total"]["mul"], content["total"]["add"]) == (10, 88)
    assert content["arena_bytes"] == runtime.Session(path).arena_bytes == 256
    assert "| total |  |  | 10 | 88 |" in profile(capsys, str(path), "--format", "markdown")


def test_a_word_may_have_the_operator_and_the_binary_twin(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("lenet5_bn", "--operator", "adder2d", "--format", "json")
    assert profile(capsys, "lenet5_bn:adder2d", "--json") == profile(capsys, *words)
    text = profile(capsys, "lenet5_bn:binary")
    assert text.startswith("lenet5_bn conv2d binary, input 3x28x28, ")
    assert "| conv2           | binary   | 16x10x10 |       0 |   240 k |   240 k |" in text


def test_networks_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runtime.save(tiny(), tmp_path / "tiny.mulfree")
    model = models.create_model("lenet5_bn", operator="adder2d", in_channels=1, num_classes=4)
    models.save_weights(model, tmp_path / "model.safetensors")
    words = (tmp_path / "model.safetensors", tmp_path / "tiny.mulfree", "lenet5_bn:width=0.5")
    plot = tmp_path / "costs.png"
    text = profile(
        capsys, "--compare", *map(str, words), "--mixed-sizes", "--latency", "--rounds", "1",
        "--threads", "1", "--plot", str(plot), "--format", "markdown",
    )  # fmt: skip
    rows = {
        cells[0]: cells[1:]
        for line in text.splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 4
    }
    assert rows[""] == [str(word) for word in words]
    assert rows["input"] == ["1x28x28", "1x3x3", "3x28x28"]
    assert rows["#mul"][1] == "10"
    assert rows["energy fp32"][1] == "-"
    assert all(cell.endswith("s") for cell in rows["latency"])
    assert "Latency: median of 1, batch 1, 1 thread, " in text
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_comparison_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("lenet5_bn", "lenet5_bn:adder2d", "lenet5_bn:binary", "--input-size", "1,28,28")
    content = json.loads(profile(capsys, "--compare", *words, "--convention", "paper", "--json"))
    taps = 416_520
    assert [network["cost"]["mul"] for network in content["networks"]] == [taps, 0, 0]
    assert [network["cost"]["add"] for network in content["networks"]] == [taps, 2 * taps, taps]
    assert [network["cost"]["xnor"] for network in content["networks"]] == [0, 0, taps]
    assert content["latency"] is None


def test_an_artifact_without_native_kernels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.save(tiny(), tmp_path / "tiny.mulfree")
    monkeypatch.setenv("MULFREE_ISA", "sse9")
    assert "Arena" not in profile(capsys, str(tmp_path / "tiny.mulfree"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("resnet21", "`model` must be one of .*, got 'resnet21'; did you mean 'resnet"),
        ("", r"one MODEL\|FILE must be given, or several after `--compare`, got 0"),
        ("resnet20 resnet32", r"one MODEL\|FILE must be given, .* got 2"),
        ("resnet20 --plot x.png", "`--plot` must be left out with one network, got 'x.png'"),
        ("resnet20 --threads 2", "`--threads` must be left out with one network, got '2'"),
        ("resnet20 --compare resnet32", "all networks must follow `--compare`, got 'resnet20'"),
        ("--compare resnet20 resnet21", "`model` must be one of .*, got 'resnet21'; did you mean"),
        ("--compare resnet20 resnet20", "`--compare` must name a network once, got 'resnet20'"),
        ("--compare resnet20 lenet5_bn", "inputs of one size, got 3x32x32 of 'resnet20' and 3x28x"),
        ("--compare resnet20 {}", "inputs of one size, got 3x32x32 of 'resnet20' and 1x3x3 of '"),
        ("--compare resnet20 x.ckpt", "must be an existing file, got x.ckpt"),
        ("--compare {}:binary", "`binary` must name float networks, got '.*', which is quantised"),
        ("--compare resnet20 --dtype int8", "`--dtype` must be left out with --compare, got 'int8"),
        ("--compare resnet20 --threads 2", "`--threads` must come with --latency, got 2"),
        ("--compare resnet20 --plot x.pdf", "`--plot` must end in .png, got x.pdf"),
        ("resnet20 --operator adder", "argument --operator: invalid choice: 'adder'"),
        ("resnet20 --input-size 3,0", "must be a whole number >= 1, got '0'"),
        ("resnet20 --input-size 3", r"`input_size` must fit .*, got \(3,\)"),
        ("resnet20 --format xml", "argument --format: invalid choice: 'xml'"),
        ("x.safetensors", "x.safetensors"),
        (
            "x.ckpt --num-classes 3",
            "`--num-classes` must be left out with a file, got 3 for x.ckpt",
        ),
        ("{} --input-size 1,9,9", r"`--input-size` must be left out with an artifact, got \(1, 9"),
        ("{} --dtype fp32", "`--dtype` must be left out with an artifact, got 'fp32' for .*tiny"),
        ("{} --convention exact", "`--convention` must be left out with an artifact, got 'exact'"),
        ("{} --normalisation", "`--normalisation` must be left out with an artifact, got True"),
        ("{} --operator conv2d", "`--operator` must be left out with a file, got 'conv2d'"),
    ],
)
def test_a_mistake_is_one_line(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime.save(tiny(), tmp_path / "tiny.mulfree")
    line = refused(capsys, "profile", *words.format(tmp_path / "tiny.mulfree").split())
    assert re.search(message, line)
