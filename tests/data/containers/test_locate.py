from __future__ import annotations

import os
from pathlib import Path

import pytest

from mulfree.data.containers.locate import locate
from mulfree.errors import ArtifactError, DataError


def look(root: Path | None, installed: tuple[Path, ...] = ()) -> Path:
    return locate(
        "toy",
        None if root is None else str(root),
        names=("toy", "toy.zip"),
        markers=("part",),
        get="buy it",
        installed=installed,
    )


def test_the_file_the_folder_or_the_folder_that_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy.zip").write_text("")
    assert look(tmp_path / "toy.zip") == tmp_path / "toy.zip"
    assert look(tmp_path) == tmp_path / "toy.zip"
    (tmp_path / "toy").mkdir()
    assert look(tmp_path) == tmp_path / "toy"
    (tmp_path / "toy" / "part").write_text("")
    assert look(tmp_path / "toy") == tmp_path / "toy"
    monkeypatch.setenv("MULFREE_DATA", str(tmp_path))
    assert look(None) == tmp_path / "toy"


def test_neither_root_nor_variable() -> None:
    with pytest.raises(DataError, match=r"in `root` or MULFREE_DATA \(neither is set\): looked f"):
        look(None)


def test_installed_places_count_only_without_a_root(tmp_path: Path) -> None:
    assert look(None, (tmp_path / "none", tmp_path)) == tmp_path
    (tmp_path / "root").mkdir()
    with pytest.raises(
        DataError, match=r"no toy found in \S*root: looked for toy, toy.zip, a folde"
    ):
        look(tmp_path / "root", (tmp_path,))


def test_missing_says_what_where_and_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULFREE_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataError) as caught:
        look(None, (Path("/opt/toy"),))
    assert str(caught.value) == (
        f"data.load: no toy found in {tmp_path}/gone (which does not exist) or /opt/toy: looked "
        "for toy, toy.zip, a folder with part; buy it, then name its folder with `root` or "
        "MULFREE_DATA"
    )


def test_a_pipe_or_device_is_no_root(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for root in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(
            ArtifactError, match=r"^data.load: `root` must be a file or folder, got '.*', a pipe or"
        ):
            look(root)


def test_a_home_that_does_not_exist() -> None:
    with pytest.raises(DataError, match=r"no toy found in ~nobody-has-this-name/x \(which does"):
        look(Path("~nobody-has-this-name/x"))
