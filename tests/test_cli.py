"""The command line, in processes of its own: files, pipes, and one line for whatever goes wrong."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import write_model

from attnx import cli
from attnx.models import TextEncoder
from attnx.vector_file import write_vectors

LINES = "The cat sat on a mat.\n\ndogs ran\r\nby river"
TEXTS = ["The cat sat on a mat.", "", "dogs ran", "by river"]
COMMAND = [sys.executable, "-m", "attnx"]
HERE = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def truth(model: Path) -> np.ndarray:
    return TextEncoder.from_pretrained(model).encode(TEXTS)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_bytes(LINES.encode())
    return path


def attnx(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    options = {"stdin": subprocess.DEVNULL} | options
    if "input" in options:
        options.pop("stdin")
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, check=False, timeout=60, **options
    )


def assert_one_line(done: subprocess.CompletedProcess[bytes], message: str) -> None:
    error = done.stderr.decode()
    assert (done.returncode, error.count("\n")) == (2, 1), error
    assert error.startswith("attnx: error: ")
    assert message in error


def test_embed_writes_an_array(model: Path, texts: Path, truth: np.ndarray) -> None:
    output = texts.with_name("vectors.npy")
    done = attnx("embed", texts, "--model", model, "-o", output)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(output), truth)
    summary = done.stderr.decode()
    assert summary.startswith("attnx: 4 texts, 20 tokens, ")
    assert summary.endswith(" texts/s\n")
    assert summary.count("\n") == 1  # no progress bar where there is no terminal
    assert done.stdout == b""
    assert sorted(p.name for p in texts.parent.iterdir()) == ["texts.txt", "vectors.npy"]


def test_embed_in_a_pipe(model: Path, truth: np.ndarray) -> None:
    done = attnx("embed", "-", "--model", model, "-o", "-", input=LINES.encode())
    np.testing.assert_array_equal(np.load(io.BytesIO(done.stdout)), truth)
    done = attnx(
        "embed", "-", "--model", model, "-o", "-", "--format", "jsonl", input=LINES.encode()
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    np.testing.assert_array_equal(np.array(rows, np.float32), truth)


def test_options_reach_the_encoder(model: Path, texts: Path) -> None:
    output = texts.with_name("vectors.jsonl")
    options = ["--max-length", 4, "--no-normalize", "--batch-tokens", 5, "--threads", 1]
    done = attnx("embed", texts, "--model", model, "-o", output, *options)
    assert done.returncode == 0, done.stderr
    rows = np.array([json.loads(line) for line in output.read_text().splitlines()], np.float32)
    encoder = TextEncoder.from_pretrained(model)
    expected = encoder.encode(TEXTS, max_length=4, normalize=False)
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize(("data", "count"), [
    (b"", 0), (b"\n", 1), (b"a", 1), (b"a\n", 1), (b"a\n\n", 2), (b"\xef\xbb\xbfa\x0cb\xe2\x80\xa8c", 1),
])  # fmt: skip
def test_one_text_a_line(model: Path, data: bytes, count: int) -> None:
    done = attnx("embed", "-", "--model", model, "-o", "-", input=data)
    assert np.load(io.BytesIO(done.stdout)).shape == (count, 24)


@pytest.mark.parametrize(("arguments", "message"), [
    (["embed", "none.txt", "--model", "MODEL", "-o", "v.npy"], "none.txt: No such file"),
    (["embed", ".", "--model", "MODEL", "-o", "v.npy"], "Is a directory"),
    (["embed", "latin.txt", "--model", "MODEL", "-o", "v.npy"], "latin.txt: line 2 is not UTF-8"),
    (["embed", "texts.txt", "--model", "none", "-o", "v.npy"], "model folder not found: none"),
    (["embed", "texts.txt", "--model", "bad", "-o", "v.npy"], "config.json"),
    (["embed", "texts.txt", "--model", "MODEL", "-o", "none/v.npy"], "none: the output's folder"),
    (["embed", "texts.txt", "--model", "MODEL", "-o", "."], "Is a directory"),
    (["embed", "texts.txt", "--model", "MODEL", "-o", "v.npy", "--max-length", "99"], "max_length"),
    (["embed", "texts.txt", "--model", "MODEL", "-o", "v.npy", "--threads", "0"], "--threads"),
    (["embed", "texts.txt", "--model", "MODEL", "-o", "v.npy", "--format", "csv"], "--format"),
    (["embed", "texts.txt", "--model", "MODEL", "-o", "/dev/full"], "No space left"),
    (["embed", "texts.txt"], "required: --model"),
    (["view", "--model", "MODEL", "the cat", "--layer", "2"], "--layer must lie between 0 and 1"),
    (["view", "--model", "MODEL", "the cat", "--head", "4"], "--head must be mean or from 0 to 3"),
    (["view", "--model", "MODEL", "the cat", "--head", "-1"], "--head"),
    (["view", "--model", "MODEL", "the cat", "-o", "none/v.html"], "none: the output's folder"),
    (["view", "--model", "MODEL", "the cat", "--png", "."], "Is a directory"),
    (["pronounce", "cat", "--html", "/dev/full"], "No space left"),
    (["pronounce", "cat", "--html", "v.npy", "--png", "v.npy"], "need a file each, got v.npy"),
    (["pronounce", "cat", "dog", "--html", "v.npy"], "a page or picture shows one WORD, got 2"),
    (["pronounce"], "required: WORD"),
    (["pronounce", "right", "r2d2"], "words[1] must have letters a to z and apostrophes alone"),
    (["pronounce", "word", "--model", "gru"], "--model: invalid choice: 'gru'"),
    (["announce", "word"], "invalid choice"),
    ([], "COMMAND"),
])  # fmt: skip
def test_errors_are_one_line(model: Path, texts: Path, arguments: list[str], message: str) -> None:
    (texts.parent / "latin.txt").write_bytes(b"good\nb\xe4d\n")
    (texts.parent / "bad").mkdir()
    (texts.parent / "bad" / "config.json").write_text("{")
    arguments = [str(model) if part == "MODEL" else part for part in arguments]
    done = attnx(*arguments, cwd=texts.parent, env=HERE)
    assert_one_line(done, message)
    assert not (texts.parent / "v.npy").exists()


@pytest.mark.parametrize("command", [["info"], ["view"], ["--version"]])
def test_a_closed_pipe_is_no_traceback(model: Path, command: list[str]) -> None:
    if command == ["view"]:
        command = ["view", "--model", str(model), "the cat " * 9]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*COMMAND, *command], stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60
    )
    os.close(writer)
    if command == ["--version"] and done.returncode == 0:
        assert done.stderr == b""  # argparse itself passes over it
    else:
        assert_one_line(done, "standard output was closed")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ctrl_c_is_130_and_leaves_nothing(model: Path, texts: Path) -> None:
    texts.write_text("the cat sat on a mat and then slept\n" * 400_000)
    process = subprocess.Popen(
        [*COMMAND, "embed", texts, "--model", model, "-o", texts.with_name("v.npy")],
        stderr=subprocess.PIPE,
        # A background job ignores the signal, and so would the child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 30
    # Not before its own code runs: what Python does while it starts is Python's.
    while "tokenizers" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    error = process.stderr.read().decode()
    process.stderr.close()
    assert (process.wait(20), error) == (130, "attnx: interrupted\n")
    assert [p.name for p in texts.parent.iterdir()] == ["texts.txt"]


def test_view(model: Path) -> None:
    unicode = os.environ | {"PYTHONIOENCODING": "utf-8"}
    done = attnx("view", "--model", model, "The cat sat", "--layer", 0, "--head", 1, env=unicode)
    heading, matrix = done.stdout.decode().split("\n\n")
    assert heading == "layer 0 of 0 to 1, head 1: rows attend to columns"
    lines = matrix.rstrip("\n").split("\n")
    assert lines[0].split() == ["[CLS]", "the", "cat", "sat", "[SEP]"]
    assert [line.split()[0] for line in lines[1:]] == lines[0].split()
    assert not matrix.isascii()
    plain = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = attnx("view", "--model", model, "The c\u00e4t \u5b57", env=plain)
    assert done.returncode == 0, done.stderr
    assert b"layer 1 of 0 to 1, mean of 4 heads" in done.stdout
    done = attnx("view", "--model", model, "The cat", "--head", "all", env=plain)
    assert b"layer 1 of 0 to 1, 4 heads: rows attend to columns\n\nhead 0\n\n" in done.stdout
    assert b"\n\nhead 3\n\n" in done.stdout
    assert done.stdout.isascii()


def test_pronounce() -> None:
    for model in ([], ["--model", "transformer"]):
        done = attnx("pronounce", "cat", "Thing", *model)
        assert done.returncode == 0, done.stderr
        assert done.stdout.decode().splitlines() == ["cat  K AE1 T", "Thing  TH IH1 NG"]


def test_pronounce_shows_the_alignment() -> None:
    plain = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = attnx("pronounce", "cat", "sit", "--align", env=plain)
    first, matrix, second, last = done.stdout.decode().split("\n\n")
    assert (first, second) == ("cat  K AE1 T", "sit  S IH1 T")
    lines = matrix.split("\n")
    assert lines[0].split() == ["c", "a", "t"]
    assert [line.split()[0] for line in lines[1:]] == ["K", "AE1", "T"]
    assert last.split("\n")[0].split() == ["s", "i", "t"]
    assert b"##" in done.stdout
    unicode = os.environ | {"PYTHONIOENCODING": "utf-8"}
    assert "\u2588" in attnx("pronounce", "cat", "--align", env=unicode).stdout.decode()


def test_info_is_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    import attnx

    assert cli.main(["info"]) == 0
    shown = capsys.readouterr().out
    attnx.show_config()
    assert shown == capsys.readouterr().out
    assert attnx.isa() in shown


def test_help_shows_examples() -> None:
    for command in ([], ["pronounce"], ["embed"], ["view"]):
        done = attnx(*command, "--help")
        assert done.returncode == 0
        assert b"examples:\n  attnx " in done.stdout
    assert attnx("--version").stdout.startswith(b"attnx ")


@pytest.mark.parametrize("kind", ["npy", "jsonl"])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, kind: Any) -> None:
    target, link = tmp_path / "v", tmp_path / "link"
    target.write_text("before")
    target.chmod(0o640)
    link.symlink_to(target)
    write_vectors(str(link), np.ones((600, 2), np.float32), kind)
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert np.load(target).shape == (600, 2) if kind == "npy" else len(target.read_text()) == 4200
    kept = target.read_bytes()
    with (
        pytest.raises(ValueError, match="not finite")
        if kind == "jsonl"
        else pytest.raises(TypeError)
    ):
        write_vectors(str(target), np.array([[np.nan]]) if kind == "jsonl" else object(), kind)  # type: ignore[arg-type]
    assert target.read_bytes() == kept
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "v"]


@pytest.mark.minilm
def test_the_readme_s_job(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("ATTNX_MINILM", root / ".cache" / "minilm"))
    if not (folder / "model.safetensors").exists():
        pytest.skip(f"no model in {folder}: python tools/fetch_minilm.py")
    output = tmp_path / "vectors.npy"
    done = attnx("embed", root / "examples" / "sentences.txt", "--model", folder, "-o", output)
    assert done.returncode == 0, done.stderr
    vectors = np.load(output)
    assert vectors.shape == (321, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
