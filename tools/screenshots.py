#!/usr/bin/env python3
"""Make the pictures of docs/view.md again: python tools/screenshots.py, with MiniLM in .cache/minilm.

Needs what the tests marked "browser" need. Pictures are kept with a palette of 256 colours.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
sys.path.insert(0, str(ROOT / "tests"))

from browser_page import Page, set_size, start_chromium  # noqa: E402 - from the tests' folder
from selenium.webdriver.common.keys import Keys  # noqa: E402

from attnx.models import Pronouncer, TextEncoder  # noqa: E402
from attnx.view import heatmap, to_html  # noqa: E402
from attnx.view.picture import to_png  # noqa: E402

SENTENCE = "The cat sat on the mat because it was tired."
LONG = (
    "The animal did not cross the street because it was too tired, and the driver who had stopped "
    "for it waited patiently until somebody came to carry it away; the others, who had seen nothing "
    "of all this, sounded their horns. Later that evening the same driver told his neighbour what "
    "had happened on the road, and she told it to her sister, who wrote it down: the animal was a "
    "goat, the somebody was a child, and the street was the one that leads from the old mill to the "
    "station. Nobody remembers what became of the goat. The child, who is a teacher now, says that "
    "it lived for many years behind her parents' house."
)


def save(name: str, data: bytes) -> None:
    """Keep a picture."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(IMAGES / name, optimize=True)
    print(f"{name}: {picture.size}, {(IMAGES / name).stat().st_size} bytes")


def main() -> None:
    """Make all of them."""
    IMAGES.mkdir(exist_ok=True)
    encoder = TextEncoder.from_pretrained(ROOT / ".cache" / "minilm")
    tokens, weights = encoder.attentions(SENTENCE)
    many, long_weights = encoder.attentions(LONG)
    many, long_weights = many[:128], long_weights[:, :, :128, :128]
    save("heads.png", to_png(weights[2], tokens, tokens))
    figure = Figure(figsize=(9, 3.4), layout="constrained", dpi=100)
    alignments = {}
    for model, ax in zip(("seq2seq", "transformer"), figure.subplots(1, 2), strict=True):
        phonemes, letters, alignment = Pronouncer.load(model).align("attention")
        alignments[model] = to_html(alignment, phonemes, letters, title=f"attention ({model})")
        heatmap(alignment, phonemes, letters, ax)
        ax.set_title(model)
    buffer = io.BytesIO()
    figure.savefig(buffer)
    save("alignments.png", buffer.getvalue())

    page = to_html(weights, tokens, tokens, title=SENTENCE, layer=2, head=8)
    long_page = to_html(long_weights, many, many, title="128 tokens", layer=0, head=3)
    with tempfile.TemporaryDirectory() as folder:
        driver = start_chromium(Path(folder) / "profile")
        try:
            file = Path(folder) / "page.html"
            for name, text, size, scheme in (
                ("page.png", page, (1280, 800), "light"),
                ("page-dark.png", page, (1280, 800), "dark"),
                ("page-phone.png", page, (390, 844), "dark"),
                ("page-128.png", long_page, (1280, 800), "light"),
                ("alignment-phone.png", alignments["seq2seq"], (390, 844), "light"),
            ):
                file.write_text(text, "utf-8")
                set_size(driver, *size)
                media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
                driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
                shown = Page(driver, file)
                if text is page:
                    shown.tab_to("lines")
                    shown.press(*[Keys.ARROW_DOWN] * 9, Keys.ENTER)
                    shown.run("scrollTo({top: 0, behavior: 'instant'})")
                save(name, driver.get_screenshot_as_png())
        finally:
            driver.quit()


if __name__ == "__main__":
    main()
