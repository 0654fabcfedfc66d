#!/usr/bin/env python3
"""Train the models of attnx.models.Pronouncer on the CMU dictionary, and measure them.

Training needs PyTorch and safetensors; measuring needs attnx alone.

    python tools/fetch_cmudict.py --to .cache/cmudict
    python tools/train_pronouncer.py train --model seq2seq
    python tools/train_pronouncer.py evaluate --model seq2seq
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from pronouncing_words import LETTERS, SPLITS, phonemes_of, read_words, score, words_of

MODELS = ("seq2seq", "transformer")
DATA = Path(__file__).parents[1] / "attnx" / "models" / "data"
PEAK_RATE = {"seq2seq": 3e-3, "transformer": 2e-3}
DROPOUT = {"seq2seq": 0.15, "transformer": 0.1}
# Those of the weights in the package, half an hour of one core each; more epochs do a little better. Those
# runs were told fewer epochs on their way, so a new one gives weights that are as good, not the same.
EPOCHS = {"seq2seq": 20, "transformer": 14}
BATCH = {"seq2seq": 256, "transformer": 128}
WARM_UP = 0.1
LONGEST_ANSWER = 48


def main() -> int:
    """Run the command and return the exit status."""
    options = _parser().parse_args()
    try:
        options.run(options)
    except (OSError, ImportError) as error:
        print(f"train_pronouncer: error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train", help="train a model with PyTorch and write its weights")
    evaluate = commands.add_parser("evaluate", help="measure a model with attnx")
    for command in (train, evaluate):
        command.add_argument("--model", choices=MODELS, required=True)
        command.add_argument(
            "--dictionary", metavar="FILE", type=Path, default=Path(".cache/cmudict/cmudict.dict"),
            help="default: %(default)s, where tools/fetch_cmudict.py puts it",
        )  # fmt: skip
    train.add_argument(
        "--work", metavar="FOLDER", type=Path, default=Path(".cache/pronouncer"),
        help="checkpoints, one an epoch; a run that was stopped goes on (default: %(default)s)",
    )  # fmt: skip
    train.add_argument(
        "--to", metavar="FOLDER", type=Path, default=DATA,
        help="where the weights go (default: attnx/models/data)",
    )  # fmt: skip
    train.add_argument("--epochs", metavar="N", type=int, help=f"default: {_listed(EPOCHS)}")
    train.add_argument("--batch", metavar="N", type=int, help=f"words; default: {_listed(BATCH)}")
    train.add_argument(
        "--threads", metavar="N", type=int, default=1,
        help="default: 1; the matrices are small, and threads that wait for one another cost more",
    )  # fmt: skip
    train.add_argument("--seed", metavar="N", type=int, default=1)
    train.set_defaults(run=_train)
    evaluate.add_argument("--split", choices=SPLITS, default="test")
    evaluate.set_defaults(run=_evaluate)
    return parser


def _listed(defaults: dict[str, int]) -> str:
    return ", ".join(f"{number} for {model}" for model, number in defaults.items())


def _train(options: argparse.Namespace) -> None:
    import torch

    options.epochs = options.epochs or EPOCHS[options.model]
    options.batch = options.batch or BATCH[options.model]
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    words = read_words(options.dictionary)
    phonemes = phonemes_of(words)
    trainer = Trainer(options, words_of(words, "train"), phonemes)
    held_out = words_of(words, "validation")
    trainer.resume()
    while trainer.epoch < options.epochs:
        start = time.perf_counter()
        loss = trainer.run_epoch()
        trainer.save()
        seconds = time.perf_counter() - start
        line = f"epoch {trainer.epoch}/{options.epochs}: loss {loss:.4f}, {seconds:.0f} s"
        if trainer.epoch % 5 == 0 or trainer.epoch == options.epochs:
            errors, accuracy = score(held_out, trainer.pronounce(list(held_out)))
            line += f", validation: phoneme errors {errors:.2%}, words right {accuracy:.2%}"
        print(line, flush=True)
    trainer.write(options.to)


class Trainer:
    """A network in training: its batches, its optimiser and the average of its weights."""

    def __init__(self, options: argparse.Namespace, words: Any, phonemes: list[str]) -> None:
        import torch
        from pronouncer_nets import build
        from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

        self._options, self._phonemes = options, phonemes
        self._batches = _batches(words, phonemes, options.batch)
        self.epoch = 0
        sizes = len(LETTERS) + 1, len(phonemes) + 1
        self._net = build(options.model, *sizes, DROPOUT[options.model])
        self._average = AveragedModel(self._net, multi_avg_fn=get_ema_multi_avg_fn(0.999))
        rate = PEAK_RATE[options.model]
        self._optimizer = torch.optim.AdamW(
            self._net.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        steps = options.epochs * len(self._batches)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: _share_of_rate(step / steps)
        )
        count = sum(parameter.numel() for parameter in self._net.parameters())
        print(f"{options.model}: {count} parameters, {len(self._batches)} batches an epoch")

    def run_epoch(self) -> float:
        """Train on all batches once, in an order of the epoch's own, and return the mean loss."""
        import torch

        # By the epoch's number, so that a run that was stopped goes on as if it had not been.
        torch.manual_seed(self._options.seed * 1000 + self.epoch)
        self._net.train()
        total = 0.0
        for number in torch.randperm(len(self._batches)).tolist():
            letters, tokens = self._batches[number]
            logits = self._net(letters, tokens[:, :-1].clamp(min=0))
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=-1, label_smoothing=0.1
            )
            # A batch of a rare length is small, and steps no further than its words would elsewhere.
            (loss * (len(letters) / self._options.batch)).backward()
            torch.nn.utils.clip_grad_norm_(self._net.parameters(), 1.0)
            self._optimizer.step()
            self._optimizer.zero_grad()
            self._schedule.step()
            self._average.update_parameters(self._net)
            total += float(loss.detach()) * len(letters)
        self.epoch += 1
        return total / sum(len(letters) for letters, _ in self._batches)

    def pronounce(self, words: list[str]) -> list[list[str]]:
        """Return the phonemes that the averaged network gives words."""
        import torch
        from pronouncer_nets import greedy

        self._average.eval()
        same_length = defaultdict(list)
        for place, word in enumerate(words):
            same_length[len(word)].append(place)
        answers: list[list[str]] = [[] for _ in words]
        for places in same_length.values():
            letters = torch.tensor([_letter_tokens(words[place]) for place in places])
            tokens = greedy(self._average, letters, LONGEST_ANSWER)
            for place, row in zip(places, tokens, strict=True):
                answers[place] = [self._phonemes[token - 1] for token in row]
        return answers

    def save(self) -> None:
        """Write everything that a run needs to go on."""
        import torch

        self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
        new = self._checkpoint.with_suffix(".new")
        torch.save({"epoch": self.epoch} | {k: v.state_dict() for k, v in self._parts.items()}, new)
        new.replace(self._checkpoint)

    def resume(self) -> None:
        """Go on from the last checkpoint, if there is one."""
        import torch

        if self._checkpoint.exists():
            saved = torch.load(self._checkpoint)
            self.epoch = saved["epoch"]
            for name, part in self._parts.items():
                part.load_state_dict(saved[name])

    @property
    def _checkpoint(self) -> Path:
        return Path(self._options.work, f"{self._options.model}.pt")

    @property
    def _parts(self) -> dict[str, Any]:
        return {
            "net": self._net, "average": self._average,
            "optimizer": self._optimizer, "schedule": self._schedule,
        }  # fmt: skip

    def write(self, folder: Path) -> None:
        """Write the averaged weights as float16, and what the numbers of the tokens mean."""
        from pronouncer_nets import SIZES
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        weights = self._average.module.half().state_dict()
        path = folder / f"{self._options.model}.safetensors"
        save_file(weights, path)
        path.chmod(0o644)  # safetensors lets nobody else read what it writes
        config = {"letters": LETTERS, "phonemes": self._phonemes, **SIZES[self._options.model]}
        text = json.dumps(config, indent=1) + "\n"
        Path(folder, f"{self._options.model}.json").write_text(text, encoding="utf-8")


def _share_of_rate(progress: float) -> float:
    """Return what part of the peak rate holds there: up in a line, then down to 0 in half a cosine.

    It is of the epochs wanted now: a run that goes on may be told another number of them.
    """
    if progress < WARM_UP:
        return progress / WARM_UP
    return (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2


def _batches(words: Any, phonemes: list[str], size: int) -> list[tuple[Any, Any]]:
    """Return pairs of letters (B, S) and tokens (B, T), where all words of a batch have S letters.

    Tokens are the end, the phonemes, the end; then -1, which is not trained on. Words of one length
    need no padding in the encoder, and are sorted by the number of their phonemes.
    """
    import torch

    numbers = {phoneme: number for number, phoneme in enumerate(phonemes, 1)}
    pairs = [
        (_letter_tokens(word), [0, *(numbers[phoneme] for phoneme in way), 0])
        for word, ways in words.items()
        for way in ways
    ]
    pairs.sort(key=lambda pair: (len(pair[0]), len(pair[1])))
    same_length = defaultdict(list)
    for pair in pairs:
        same_length[len(pair[0])].append(pair)
    batches = []
    for group in same_length.values():
        for begin in range(0, len(group), size):
            part = group[begin : begin + size]
            longest = max(len(tokens) for _, tokens in part)
            rows = [tokens + [-1] * (longest - len(tokens)) for _, tokens in part]
            batches.append((torch.tensor([letters for letters, _ in part]), torch.tensor(rows)))
    return batches


def _letter_tokens(word: str) -> list[int]:
    return [LETTERS.index(letter) + 1 for letter in word]


def _evaluate(options: argparse.Namespace) -> None:
    from attnx.models import Pronouncer

    words = words_of(read_words(options.dictionary), options.split)
    pronouncer = Pronouncer.load(options.model)
    start = time.perf_counter()
    answers = pronouncer.pronounce_batch(list(words))
    seconds = time.perf_counter() - start
    errors, accuracy = score(words, answers)
    print(f"{options.model}, {len(words)} words of the {options.split} split, without stress:")
    print(f"phoneme error rate {errors:.2%}, words right {accuracy:.2%}")
    print(f"{seconds:.1f} s, {len(words) / seconds:.0f} words/s")


if __name__ == "__main__":
    sys.exit(main())
