"""The pronouncer that comes with the package: known words, bits, alignments, errors, files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_same_bits
from numpy.typing import NDArray

from attnx.models import Pronouncer
from attnx.models import pronouncer as module

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "attnx" / "models" / "data"
MODELS = ("seq2seq", "transformer")
WORDS = """a I am the cat knight phone thing quick brown language station computer attention
    keyboard it's O'Brien don't pronunciation transformer Wednesday characteristically
    antidisestablishmentarianism b zyzzyva mississippi engineer""".split()


@pytest.fixture(scope="module", params=MODELS)
def pronouncer(request: pytest.FixtureRequest) -> Pronouncer:
    return Pronouncer.load(request.param)


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))


@pytest.mark.parametrize(("word", "phonemes"), [
    ("attention", "AH0 T EH1 N SH AH0 N"),
    ("cat", "K AE1 T"),
    ("phone", "F OW1 N"),
    ("knight", "N AY1 T"),
    ("thing", "TH IH1 NG"),
    ("station", "S T EY1 SH AH0 N"),
    ("computer", "K AH0 M P Y UW1 T ER0"),
    ("elephant", "EH1 L AH0 F AH0 N T"),
    ("nation", "N EY1 SH AH0 N"),
    ("it's", "IH1 T S"),
])  # fmt: skip
def test_words_that_everybody_knows(pronouncer: Pronouncer, word: str, phonemes: str) -> None:
    assert " ".join(pronouncer.pronounce(word)) == phonemes


def test_a_batch_gives_each_word_what_it_gets_alone(pronouncer: Pronouncer) -> None:
    alone = [pronouncer.pronounce(word) for word in WORDS]
    assert pronouncer.pronounce_batch(WORDS) == alone
    assert pronouncer.pronounce_batch(iter(WORDS[::-1])) == alone[::-1]
    assert pronouncer.pronounce_batch([]) == []
    assert all(len(phonemes) > 0 for phonemes in alone)


def test_more_words_than_one_batch(pronouncer: Pronouncer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pronouncer.pronounce_batch(WORDS)
    monkeypatch.setattr(module, "_BATCH", 4)
    assert pronouncer.pronounce_batch(WORDS) == whole


def logits(pronouncer: Pronouncer, words: list[str], before: NDArray[Any]) -> NDArray[Any]:
    """Return the logits (B, T, phonemes) after the phonemes (B, T)."""
    tokens = [pronouncer._letters("word", word) for word in words]
    lengths = np.array([len(word) for word in tokens])
    letters = np.zeros((len(words), lengths.max()), np.int64)
    for row, word in zip(letters, tokens, strict=True):
        row[: len(word)] = word
    steps = pronouncer._model.steps(letters, lengths, before.shape[1])
    return np.stack([steps(column) for column in before.T], axis=1)


def test_a_word_has_the_same_bits_alone_and_in_a_batch(isa: str, pronouncer: Pronouncer) -> None:
    before = np.random.default_rng(0).integers(0, len(pronouncer._phonemes), (len(WORDS), 6))
    together = logits(pronouncer, WORDS, before)
    for row, word in enumerate(WORDS):
        assert_same_bits(logits(pronouncer, [word], before[row : row + 1])[0], together[row])


def test_upper_case_is_lower_case(pronouncer: Pronouncer) -> None:
    assert pronouncer.pronounce("HELLO") == pronouncer.pronounce("hello")
    assert pronouncer.align("Hello")[1] == list("hello")


@pytest.mark.parametrize("word", WORDS)
def test_alignment(pronouncer: Pronouncer, word: str) -> None:
    phonemes, letters, weights = pronouncer.align(word)
    assert phonemes == pronouncer.pronounce(word)
    assert letters == list(word.lower())
    assert weights.shape == (len(phonemes), len(letters))
    assert weights.dtype == np.float32
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)


def test_a_word_without_phonemes_has_no_rows(pronouncer: Pronouncer) -> None:
    nothing = np.zeros(0, np.int64)
    assert pronouncer._model.align(np.array([1, 2, 3]), nothing).shape == (0, 3)


def test_alignment_goes_from_left_to_right() -> None:
    """Attention does what it was made for: each phoneme is taken from the letters that spell it."""
    _, letters, weights = Pronouncer.load("seq2seq").align("attention")
    taken = weights.argmax(axis=1)
    assert (np.diff(taken) > 0).all()
    assert [letters[i] for i in taken[[0, 2, 3, 4]]] == ["a", "e", "n", "t"]


def test_answers_end_and_are_bounded(pronouncer: Pronouncer) -> None:
    word = "bw" * 50
    answer = pronouncer.pronounce(word)
    assert len(answer) <= 2 * len(word) + 8
    # In a batch a shorter word may not go on for as long as the longest may.
    assert pronouncer.pronounce_batch([word, "x'" * 2])[1] == pronouncer.pronounce("x'" * 2)


@pytest.mark.parametrize(("word", "error", "message"), [
    ("", ValueError, "at least one letter"),
    ("'", ValueError, "at least one letter"),
    ("na\u00efve", ValueError, "'\u00ef'"),
    ("r2d2", ValueError, "'2'"),
    ("two words", ValueError, "' '"),
    ("semi-final", ValueError, "'-'"),
    ("\u0130", ValueError, "a to z"),
    ("a" * 101, ValueError, "at most 100 letters, got 101"),
    (None, TypeError, "a str, got NoneType"),
    (b"word", TypeError, "a str, got bytes"),
    (["word"], TypeError, "a str, got list"),
])  # fmt: skip
def test_errors_name_the_argument(
    pronouncer: Pronouncer, word: Any, error: type[Exception], message: str
) -> None:
    for call in (pronouncer.pronounce, pronouncer.align):
        with pytest.raises(error, match=f"^word must .*{message}"):
            call(word)
    with pytest.raises(error, match=rf"^words\[1\] must .*{message}"):
        pronouncer.pronounce_batch(["right", word])


def test_errors_of_the_others(pronouncer: Pronouncer) -> None:
    for words in ("word", b"word", 3, None):
        with pytest.raises(TypeError, match="words must be an iterable of str"):
            pronouncer.pronounce_batch(words)  # type: ignore[arg-type]
    for name in ("gru", "", "../data/seq2seq", None, ["seq2seq"]):
        with pytest.raises(ValueError, match='model must be "seq2seq" or "transformer"'):
            Pronouncer.load(name)  # type: ignore[arg-type]


def test_it_needs_numpy_alone() -> None:
    code = (
        "import sys\n"
        "for name in ('safetensors', 'tokenizers', 'tqdm', 'torch', 'scipy', 'ml_dtypes'):\n"
        "    sys.modules[name] = None\n"
        "from attnx.models import Pronouncer\n"
        "print([Pronouncer.load(m).pronounce('cat') for m in ('seq2seq', 'transformer')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{[['K', 'AE1', 'T']] * 2}\n", "")


def test_the_weights_are_small_and_come_with_the_licence_of_their_source() -> None:
    names = {path.name for path in DATA.iterdir()}
    assert names == {
        "LICENSE.cmudict",
        *(f"{m}.{end}" for m in MODELS for end in ("json", "safetensors")),
    }
    assert sum(path.stat().st_size for path in DATA.iterdir()) <= 2_200_000
    assert "Carnegie Mellon University" in (DATA / "LICENSE.cmudict").read_text()
    config = json.loads((DATA / "seq2seq.json").read_text())
    assert len(config["phonemes"]) == len(set(config["phonemes"])) == 69


@pytest.mark.parametrize("model", MODELS)
def test_it_is_the_model_in_float64(isa: str, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from asv_bench.peers import spelling

    truth, ours = spelling.load(model), Pronouncer.load(model)
    before = np.random.default_rng(2).integers(1, 70, (1, 9))
    for word in WORDS:
        memory = truth.encode(truth.letters(word.lower()))
        expected = truth.decode(memory, before[0].tolist())
        np.testing.assert_allclose(logits(ours, [word], before)[0], expected, atol=3e-5)
        assert [ours._phonemes[t - 1] for t in truth.pronounce(word.lower())] == ours.pronounce(
            word
        )


@pytest.mark.torch
@pytest.mark.parametrize("model", MODELS)
def test_it_is_the_network_that_was_trained(tools: None, model: str) -> None:
    torch = pytest.importorskip("torch")
    from pronouncer_nets import build, greedy
    from safetensors.torch import load_file

    ours = Pronouncer.load(model)
    net = build(model, 28, 70).eval()
    net.load_state_dict({k: v.float() for k, v in load_file(DATA / f"{model}.safetensors").items()})
    before = np.random.default_rng(1).integers(1, 70, (1, 12))
    for word in WORDS:
        letters = torch.tensor([ours._letters("word", word)])
        answer = [ours._phonemes[token - 1] for token in greedy(net, letters, 40)[0]]
        assert ours.pronounce(word) == answer
        with torch.no_grad():
            expected = net(letters, torch.from_numpy(before))[0].numpy()
        np.testing.assert_allclose(logits(ours, [word], before)[0], expected, atol=2e-4)


# --- the words it was trained and measured on ----------------------------------------------------


def test_the_split_is_by_the_word_alone(tools: None) -> None:
    from pronouncing_words import SPLITS, split_of

    known = {"attention": "train", "account": "validation", "back": "test"}
    assert {word: split_of(word) for word in known} == known
    counts = dict.fromkeys(SPLITS, 0)
    for number in range(20000):
        counts[split_of(f"word{number}")] += 1
    assert abs(counts["test"] - 1000) < 150
    assert abs(counts["validation"] - 400) < 100


def test_reading_the_dictionary(tools: None, tmp_path: Path) -> None:
    from pronouncing_words import phonemes_of, read_words, words_of

    path = tmp_path / "cmudict.dict"
    path.write_text(
        "hello HH AH0 L OW1\nhello(2) HH EH0 L OW1\no'er AO1 R # place, irish\n' P R AY1 M\n"
        "a.m. EY2 EH1 M\n3d TH R IY2 D IY2\nx-ray EH1 K S R EY2\n"
    )
    words = read_words(path)
    assert words == {
        "hello": [("HH", "AH0", "L", "OW1"), ("HH", "EH0", "L", "OW1")],
        "o'er": [("AO1", "R")],
    }
    assert phonemes_of(words) == ["AH0", "AO1", "EH0", "HH", "L", "OW1", "R"]
    parts = [words_of(words, split) for split in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(words)


def test_scores(tools: None) -> None:
    from pronouncing_words import score

    words = {
        "hello": [("HH", "AH0", "L", "OW1"), ("HH", "EH0", "L", "OW1")],
        "cat": [("K", "AE1", "T")],
    }
    assert score(words, [["HH", "EH2", "L", "OW0"], ["K", "AE1", "T"]]) == (0, 1)
    assert score(words, [["HH", "L", "OW1"], ["K", "AE1", "T"]]) == (1 / 7, 0.5)
    assert score(words, [[], ["K", "AE1", "T", "S", "T"]]) == (6 / 7, 0)
