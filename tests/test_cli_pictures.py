"""Pages and pictures from the command line; test_cli.py has the rest."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from test_cli import HERE, assert_one_line, attnx
from tiny_model import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model")


@pytest.mark.parametrize("command", [
    ["view", "--model", "MODEL", "the cat sat", "--layer", "0", "--head", "2"],
    ["pronounce", "cat", "--model", "transformer"],
])  # fmt: skip
def test_pages_and_pictures(model: Path, tmp_path: Path, command: list[str]) -> None:
    command = [str(model) if part == "MODEL" else part for part in command]
    done = attnx(*command, "--html", "page.html", "--png", "picture.png", cwd=tmp_path, env=HERE)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        r"attnx: page.html: 0.\d\d MB\nattnx: picture.png: 0.\d\d MB\n", done.stderr.decode()
    )
    assert done.stdout.decode() == ("cat  K AE1 T\n" if command[0] == "pronounce" else "")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert ("<title>the cat sat</title>" in page) == (command[0] == "view")
    assert ('"layer": 0, "head": 2' in page) == (command[0] == "view")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page.html", "picture.png"]


@pytest.mark.parametrize("command", [["view", "--model", "MODEL", "the cat"], ["pronounce", "cat"]])
def test_a_page_in_a_pipe(model: Path, command: list[str]) -> None:
    done = attnx(*[str(model) if part == "MODEL" else part for part in command], "-o", "-")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"<!DOCTYPE html>")
    assert done.stdout.endswith(b"</html>\n")


def test_a_picture_without_its_package(tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not here')")
    environment = HERE | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{HERE['PYTHONPATH']}"}
    done = attnx(
        "pronounce", "cat", "--html", "a.html", "--png", "a.png", cwd=tmp_path, env=environment
    )
    assert_one_line(done, "pip install 'attnx[view]'")
    assert done.stdout == b""
    assert [p.name for p in tmp_path.iterdir() if "a." in p.name] == []
