"""CTranslate2's Encoder, converted from the Hugging Face folder, float32."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ctranslate2
import numpy as np

from ..work import Arrays, Sentences, Work
from .form import Form, Forms
from .text import Batches, Encoder

#: Converted in a child, so that torch and its threads stay out of this process.
CONVERT = """
import sys
from ctranslate2.converters import TransformersConverter
TransformersConverter(sys.argv[1]).convert(sys.argv[2])
"""


def version(threads: int) -> str:
    """Return the version; the number of threads is given to each encoder."""
    return str(ctranslate2.__version__)


def prepare(work: Work, arrays: Arrays) -> Forms:
    """Return the forms of this work; only the text encoder has any."""
    if not isinstance(work, Sentences):
        return {}
    threads = int(os.environ["OMP_NUM_THREADS"])
    folder = str(arrays["folder"])
    batches = Batches(folder, arrays["texts"].tolist())
    with tempfile.TemporaryDirectory() as temporary:
        converted = str(Path(temporary) / "model")
        command = [sys.executable, "-c", CONVERT, folder, converted]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        inside = _encoder(converted, 1, threads)
        forms = {"threads inside a batch": Form(lambda: batches.encode(inside))}
        if work.count > 1:
            beside = _encoder(converted, threads, 1)
            pool = ThreadPoolExecutor(threads)
            forms["a batch a thread"] = Form(lambda: batches.encode(beside, pool))
    return forms


def _encoder(folder: str, batches: int, threads: int) -> Encoder:
    model = ctranslate2.Encoder(
        folder, device="cpu", compute_type="float32", inter_threads=batches, intra_threads=threads
    )

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        view = ctranslate2.StorageView.from_array
        lengths = view(mask.sum(axis=1).astype(np.int32))
        return np.array(model.forward_batch(view(ids.astype(np.int32)), lengths).last_hidden_state)

    return run
