"""The interactive page as a browser shows it; test_view_page.py has what is in the file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser_page import CHROMIUM, DRIVER, VIEW, Page, set_size, start_chromium
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from test_view_page import KEYS, QUERIES, WEIGHTS, random_weights, shown

from attnx.view import to_html

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER) and "CI" not in os.environ,
        reason="needs chromium and chromedriver (Debian: chromium-driver)",
    ),
]
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
WIDE = WEIGHTS.astype(np.float64)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    driver = start_chromium(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


@pytest.fixture(params=SIZES)
def size(driver: webdriver.Chrome, request: pytest.FixtureRequest) -> tuple[int, int]:
    """Run the test in the window of a desktop and of a phone."""
    set_size(driver, *SIZES[request.param])
    return SIZES[request.param]


@pytest.fixture
def open_page(driver: webdriver.Chrome, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Open a page of given weights; at the end nothing may have been fetched or complained of."""

    def opened(*arguments: Any, **options: Any) -> Page:
        path = tmp_path / "page.html"
        path.write_text(to_html(*arguments, **options), "utf-8")
        return Page(driver, path)

    yield opened
    assert [entry for entry in driver.get_log("browser") if entry["level"] != "INFO"] == []
    requests = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [
        request["params"]["request"]["url"]
        for request in requests
        if request["method"] == "Network.requestWillBeSent"
    ]
    assert urls
    assert [url for url in urls if not url.startswith(("file:", "data:", "blob:"))] == []


def test_layer_and_head_are_chosen(open_page: Callable[..., Page], size: tuple[int, int]) -> None:
    page = open_page(WEIGHTS, QUERIES, KEYS)
    everything = np.concatenate([WIDE, WIDE.mean(axis=1, keepdims=True)], axis=1)
    for layer, head in ((1, "mean"), (0, "mean"), (0, "1"), (1, "2")):
        page.choose("layer", str(layer))
        page.choose("head", head)
        expected = everything[layer, -1 if head == "mean" else int(head)]
        np.testing.assert_allclose(page.matrix(), expected.ravel(), atol=5.1e-5)
        received = page.columns("lines", "received")
        lengths = np.subtract(received["right"], received["left"])
        sums = expected.sum(axis=0)
        np.testing.assert_allclose(lengths / lengths.max(), sums / sums.max(), atol=1e-3)


def test_a_cell_tells_its_exact_weight(
    open_page: Callable[..., Page], size: tuple[int, int]
) -> None:
    page = open_page(WEIGHTS, QUERIES, KEYS, layer=0, head=1)
    for row, column in ((0, 0), (4, 6), (2, 2), (3, 4), (1, 3)):
        page.move("matrix", column + 0.5, row + 0.5)
        key = KEYS[column].replace("\u202e", "\\u202e")
        expected = f"{QUERIES[row]} attends to {key}: {shown(WEIGHTS[0, 1, row, column])}"
        assert page.text("tip") == page.text("reading") == expected
    page.choose("head", "2")
    assert page.text("reading").endswith(shown(WEIGHTS[0, 2, 1, 3]))
    assert page.run("return document.querySelectorAll('b, main script').length") == 0


def test_a_token_is_pinned(open_page: Callable[..., Page], size: tuple[int, int]) -> None:
    page = open_page(WEIGHTS, QUERIES, KEYS, layer=1, head=0)
    lines = page.columns("lines", "links")
    everything = len(lines["alpha"])
    assert everything == (WEIGHTS[1, 0] >= WEIGHTS[1, 0].max() / 100).sum()
    row = page.columns("lines", "tokens")["y"][1]
    of_one = np.sort(WEIGHTS[1, 0, 1] / WEIGHTS[1, 0, 1].max())
    page.move("lines", 10, row)
    np.testing.assert_allclose(
        page.columns("lines", "links")["alpha"], of_one[of_one >= 0.01], atol=1e-3
    )
    page.move("lines", 10, row, click=True)
    best = int(WEIGHTS[1, 0, 1].argmax())
    told = f"Pinned: cat attends to {KEYS[best]} {shown(WEIGHTS[1, 0, 1, best])}, "
    assert page.text("reading").startswith(told)
    page.move("matrix", 0.5, 0.5)
    assert set(page.columns("lines", "links")["y0"]) == {row}
    page.choose("head", "1")
    assert "Pinned: cat attends to" in page.text("reading")
    page.move("lines", 10, row, click=True)
    page.move("matrix", 0.5, 0.5)
    assert len(page.columns("lines", "links")["alpha"]) > 7


def test_the_overview_chooses(open_page: Callable[..., Page], size: tuple[int, int]) -> None:
    page = open_page(WEIGHTS, QUERIES, KEYS)
    images = page.columns("overview", "maps")["image"]
    assert len(images) == 8
    np.testing.assert_allclose(images[1], (WIDE[0, 1] / WIDE[0, 1].max()).ravel(), atol=3e-4)
    page.move("overview", 1.5, 0.5, click=True)
    assert [
        page.run(f"return document.getElementById('{name}').value") for name in ("layer", "head")
    ] == ["0", "1"]
    np.testing.assert_allclose(page.matrix(), WIDE[0, 1].ravel(), atol=5.1e-5)


def test_everything_is_reached_by_keyboard(
    open_page: Callable[..., Page], size: tuple[int, int]
) -> None:
    page = open_page(WEIGHTS, QUERIES, KEYS, layer=0, head=0)
    page.tab_to("matrix")
    assert page.text("reading") == f"the attends to a: {shown(WEIGHTS[0, 0, 0, 0])}"
    page.press(Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    assert page.text("reading") == f"cat attends to $$mat$$: {shown(WEIGHTS[0, 0, 1, 1])}"
    page.press(Keys.END)
    assert page.text("reading") == f"cat attends to x: {shown(WEIGHTS[0, 0, 1, 6])}"
    page.press(Keys.ARROW_RIGHT, Keys.HOME, Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ARROW_UP)
    assert page.text("reading").startswith("the attends to a:")
    assert page.columns("matrix", "cursor")["right"] == [7, 1, 1]
    page.tab_to("lines")
    page.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ENTER)
    assert page.text("reading").startswith("Pinned: cat attends to ")
    page.press(Keys.ESCAPE, Keys.ARROW_RIGHT)
    assert page.text("reading").startswith(
        f"a receives {shown(WIDE[0, 0, :, 0].sum())} in all, from "
    )
    page.tab_to("overview")
    page.press(Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    np.testing.assert_allclose(page.matrix(), WIDE[1, 1].ravel(), atol=5.1e-5)
    page.tab_to("theme")
    page.press(" ")
    assert page.run("return document.documentElement.dataset.theme") == "dark"


def test_the_page_is_told_in_words(open_page: Callable[..., Page]) -> None:
    page = open_page(WEIGHTS, QUERIES, KEYS, layer=0, head=0)
    page.driver.find_element(By.TAG_NAME, "summary").click()
    WebDriverWait(page.driver, 10).until(lambda d: d.find_elements(By.CSS_SELECTOR, "#words li"))
    items = [item.text for item in page.driver.find_elements(By.CSS_SELECTOR, "#words li")]
    assert len(items) == 5
    assert items[1].startswith("cat attends to ")
    for name in ("matrix", "lines", "overview"):
        figure = page.driver.find_element(By.ID, name)
        assert figure.accessible_name
        assert figure.get_attribute("tabindex") == "0"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_is_the_system_s(
    open_page: Callable[..., Page], driver: webdriver.Chrome, scheme: str
) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    page = open_page(WEIGHTS)
    background = "return getComputedStyle(document.body).backgroundColor"
    colours = {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}
    assert page.run(background) == colours.pop(scheme)
    page.driver.find_element(By.ID, "theme").click()
    assert page.run(background) == colours.popitem()[1]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_missing_weights_are_marked(open_page: Callable[..., Page]) -> None:
    page = open_page([[0.5, np.nan], [0.25, 0.75]], ["a", "b"], ["c", "d"])
    assert page.columns("matrix", "missing") == {"x": [1.5], "y": [0.5]}
    page.move("matrix", 1.5, 0.5)
    assert page.text("reading") == "a attends to d: missing"
    hidden = (
        "return [...document.querySelectorAll('label, section')].filter(one => one.hidden).length"
    )
    assert page.run(hidden) == 3  # one layer and one head: nothing to choose


def test_a_large_page_fits_its_window(
    open_page: Callable[..., Page], size: tuple[int, int]
) -> None:
    words = [f"token{i}" for i in range(128)]
    start = time.perf_counter()
    page = open_page(random_weights(6, 12, 128, 128), words, words)
    assert time.perf_counter() - start < 20  # about 2 on an idle machine
    assert page.run("return document.documentElement.scrollWidth") <= size[0]
    page.move("matrix", 0.5, 63.5)
    assert page.text("reading").startswith("token63 attends to token0: ")
    page.tab_to("matrix")
    page.press(Keys.END)
    assert page.text("reading").startswith("token63 attends to token127: ")
    right = page.run(
        VIEW + "return view.el.getBoundingClientRect().left + view.frame.x_scale.compute(127.5)",
        "matrix",
    )
    assert 0 < right < size[0]
