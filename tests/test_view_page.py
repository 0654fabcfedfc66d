"""The interactive page: what is in the file, and what a browser makes of it."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

import attnx
from attnx.models import Pronouncer
from attnx.view import AttentionView, to_html

RNG = np.random.default_rng(5)
QUERIES = ["the", "cat", "<b>sat</b>", "\u5b57", "."]
KEYS = ["a", "$$mat$$", "</script><script>alert(1)</script>", "&amp;", "\u202eb", "$title", "x"]


def random_weights(*shape: int) -> np.ndarray:
    return attnx.softmax(3 * RNG.standard_normal(shape, dtype=np.float32))


WEIGHTS = random_weights(2, 3, 5, 7)


def held(page: str) -> dict[str, Any]:
    """Return the data of a page, with its weights as the whole numbers that it holds."""
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert text
    data: dict[str, Any] = json.loads(text[1])
    for name in ("weights", "received"):
        planes = np.frombuffer(zlib.decompress(base64.b64decode(data[name])), np.uint8)
        data[name] = np.ascontiguousarray(planes.reshape(4, -1).T).view("<u4").ravel()
    return data


def shown(weight: float) -> str:
    return f"{weight:.4f}"


# --- the file ------------------------------------------------------------------------------------


def test_a_page_holds_the_digits_that_it_shows() -> None:
    data = held(to_html(WEIGHTS, QUERIES, KEYS))
    assert (data["layers"], data["heads"], data["layer"], data["head"]) == (2, 3, 1, 3)
    wide = WEIGHTS.astype(np.float64)
    expected = np.concatenate([wide, wide.mean(axis=1, keepdims=True)], axis=1)
    for name, values in (("weights", expected), ("received", expected.sum(axis=2))):
        digits = [shown(step / data["steps"]) for step in data[name]]
        assert digits == [shown(value) for value in values.ravel()]


@pytest.mark.parametrize(("weights", "layers", "heads"), [
    (WEIGHTS[0, 0], 1, 1), (WEIGHTS[0], 1, 3), (WEIGHTS, 2, 3), (list(WEIGHTS), 2, 3),
    (tuple(WEIGHTS.tolist()), 2, 3), (WEIGHTS[:, :1].astype(np.float16), 2, 1),
])  # fmt: skip
def test_forms_of_weights(weights: Any, layers: int, heads: int) -> None:
    data = held(to_html(weights))
    assert (data["layers"], data["heads"]) == (layers, heads)
    assert (data["queries"], data["keys"]) == ([*"01234"], [*"0123456"])
    maps = layers * (heads + (heads > 1))
    assert data["weights"].size == maps * 5 * 7


def test_an_alignment_of_the_pronouncer() -> None:
    phonemes, letters, weights = Pronouncer.load().align("attention")
    data = held(to_html(weights, phonemes, letters))
    assert data["queries"] == phonemes
    assert data["keys"] == letters
    np.testing.assert_array_equal(data["weights"], np.rint(weights.astype(float) * 1e4).ravel())


def test_missing_weights_stay_missing() -> None:
    weights = np.array([[[0.5, np.nan], [np.nan, np.nan]], [[0.25, 1], [np.nan, np.nan]]])
    data = held(to_html(weights))
    none = data["missing"]
    assert data["weights"].tolist() == [
        5000, none, none, none, 2500, 10000, none, none, 3750, 10000, none, none,
    ]  # fmt: skip
    assert data["received"].tolist() == [5000, none, 2500, 10000, 3750, 10000]


def test_text_is_escaped() -> None:
    page = to_html(WEIGHTS, QUERIES, KEYS, title="</title><script>alert('$data')</script>")
    assert page.count("<script") == page.count("</script") == 2
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "<title>&lt;/title&gt;&lt;script&gt;alert(&#x27;$data&#x27;)" in page
    assert held(page)["keys"][2:6] == [KEYS[2], "&amp;", "\\u202eb", "$title"]
    page.encode()  # half a surrogate pair would not pass
    assert held(to_html([[1.0]], ["\ud800"]))["queries"] == ["\\ud800"]


def test_nothing_is_fetched() -> None:
    page = to_html(WEIGHTS)
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"https?:|\bsrc=|\bhref=|@import|url\(", outside)
    assert "default-src 'none'" in page  # and the browser holds the scripts to it


@pytest.mark.parametrize(("length", "most"), [(9, 1.6e6), (40, 1.9e6), (128, 3e6)])
def test_size_of_a_model_s_page(length: int, most: float) -> None:
    assert len(to_html(random_weights(6, 12, length, length)).encode()) <= most


@pytest.mark.parametrize(("arguments", "options", "message"), [
    ((WEIGHTS[0, 0, 0],), {}, r"weights must be floats of shape \(L, S\), \(H, L, S\) or \(layers, H"),
    ((np.zeros((2, 2), int),), {}, "weights.*int64"),
    ((WEIGHTS[None],), {}, r"weights.*\(1, 2, 3, 5, 7\)"),
    ((-WEIGHTS,), {}, "weights must lie between 0 and 400000"),
    ((WEIGHTS * np.float32(1e6),), {}, "weights must lie between 0 and 400000"),
    ((WEIGHTS[:, :0],), {}, r"weights must have at least one.*\(2, 0, 5, 7\)"),
    ((WEIGHTS, ["a"]), {}, "queries must be 5 labels.*got 1"),
    ((WEIGHTS, None, "abcdefg"), {}, "keys must be 7 labels"),
    ((WEIGHTS,), {"layer": 2}, "layer must lie between 0 and 1, got 2"),
    ((WEIGHTS,), {"head": -1}, "head must lie between 0 and 2, got -1"),
])  # fmt: skip
def test_wrong_arguments(arguments: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_html(*arguments, **options)


def test_layers_of_different_shapes_are_refused() -> None:
    with pytest.raises(TypeError, match="weights must be an array"):
        to_html([WEIGHTS[0], WEIGHTS[1, :2]])


def test_a_notebook_gets_the_page_in_a_frame(tmp_path: Path) -> None:
    view = AttentionView(WEIGHTS, QUERIES, KEYS, title="a 'title'", layer=0, head=2)
    page = to_html(WEIGHTS, QUERIES, KEYS, title="a 'title'", layer=0, head=2)
    frame = re.fullmatch(r'<iframe srcdoc="([^"]*)" [^<>]*></iframe>', view._repr_html_(), re.DOTALL)
    assert frame
    without_ids = re.compile(r'"(?:p\d+|[\da-f-]{36})"')
    assert without_ids.sub("", html.unescape(frame[1])) == without_ids.sub("", page)
    view.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text("utf-8") == html.unescape(frame[1])
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


# --- in a browser --------------------------------------------------------------------------------

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"
)


def browser_test(test: Callable[..., None]) -> Callable[..., None]:
    marked: Callable[..., None] = pytest.mark.browser(needs_chromium(test))
    return marked


SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
# The view of a figure; the numbers of a renderer; where in the window a point in a figure's units is, once scrolled to.
VIEW = "const view = [...Bokeh.index.roots].find(view => view.model.name === arguments[0]);"
COLUMNS = (
    VIEW
    + """
const plain = x => ArrayBuffer.isView(x) || Array.isArray(x) ? Array.from(x, plain) : x;
const columns = view.model.document.get_model_by_name(arguments[1]).data_source.data;
return Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, plain(values)]));
"""
)
POINT = (
    VIEW
    + """
const x = view.frame.x_scale.compute(arguments[1]), y = view.frame.y_scale.compute(arguments[2]);
scrollBy({top: view.el.getBoundingClientRect().top + y - innerHeight / 2, behavior: "instant"});
const box = view.el.getBoundingClientRect();
return [box.left + x, box.top + y];
"""
)
WIDE = WEIGHTS.astype(np.float64)


class Page:
    """A page in a browser, and what a user does there."""

    def __init__(self, driver: webdriver.Chrome, path: Path) -> None:
        self.driver = driver
        for log in ("browser", "performance"):
            driver.get_log(log)
        driver.get(path.as_uri())
        WebDriverWait(driver, 30).until(lambda d: self.run("return document.documentElement.dataset.ready"))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def text(self, name: str) -> str:
        return self.driver.find_element(By.ID, name).text

    def move(self, figure: str, x: float, y: float, *, click: bool = False) -> None:
        """Move the mouse to a point in a figure's units."""
        left, top = self.run(POINT, figure, x, y)
        action = ActionChains(self.driver, duration=0)
        action.w3c_actions.pointer_action.move_to_location(round(left), round(top))
        if click:
            action.click()
        action.perform()

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def tab_to(self, name: str) -> None:
        """Press Tab until something has the focus."""
        self.run("document.activeElement.blur()")
        for _ in range(10):
            self.press(Keys.TAB)
            if self.run("return document.activeElement.id") == name:
                assert self.run("return document.activeElement.matches(':focus-visible')")
                return
        raise AssertionError(f"{name} is not reached by Tab")

    def columns(self, figure: str, name: str) -> dict[str, Any]:
        """Return the numbers that a figure draws something from."""
        columns: dict[str, Any] = self.run(COLUMNS, figure, name)
        return columns

    def matrix(self) -> np.ndarray:
        return np.array(self.columns("matrix", "cells")["image"][0]).reshape(WEIGHTS.shape[2:])

    def choose(self, name: str, text: str) -> None:
        Select(self.driver.find_element(By.ID, name)).select_by_visible_text(text)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    folder = tmp_path_factory.mktemp("chromium")
    for argument in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
        "disable-background-networking", "disable-component-update", "disable-dev-shm-usage",
        "host-resolver-rules=MAP * ~NOTFOUND", f"user-data-dir={folder}",
    ):  # fmt: skip
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(params=SIZES)
def size(driver: webdriver.Chrome, request: pytest.FixtureRequest) -> tuple[int, int]:
    """Run the test in the window of a desktop and of a phone."""
    return set_size(driver, *SIZES[request.param])


def set_size(driver: webdriver.Chrome, width: int, height: int) -> tuple[int, int]:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    return width, height


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


@browser_test
def test_layer_and_head_are_chosen(open_page: Callable[..., Page], size: tuple[int, int]) -> None:
    page = open_page(WEIGHTS, QUERIES, KEYS)
    everything = np.concatenate([WIDE, WIDE.mean(axis=1, keepdims=True)], axis=1)
    for layer, head in ((1, "mean"), (0, "mean"), (0, "1"), (1, "2")):
        page.choose("layer", str(layer))
        page.choose("head", head)
        expected = everything[layer, -1 if head == "mean" else int(head)]
        np.testing.assert_allclose(page.matrix(), expected, atol=5.1e-5)
        received = page.columns("lines", "received")
        lengths = np.subtract(received["right"], received["left"])
        sums = expected.sum(axis=0)
        np.testing.assert_allclose(lengths / lengths.max(), sums / sums.max(), atol=1e-3)


@browser_test
def test_a_cell_tells_its_exact_weight(open_page: Callable[..., Page], size: tuple[int, int]) -> None:
    page = open_page(WEIGHTS, QUERIES, KEYS, layer=0, head=1)
    for row, column in ((0, 0), (4, 6), (2, 2), (3, 4), (1, 3)):
        page.move("matrix", column + 0.5, row + 0.5)
        key = KEYS[column].replace("\u202e", "\\u202e")
        expected = f"{QUERIES[row]} attends to {key}: {shown(WEIGHTS[0, 1, row, column])}"
        assert page.text("tip") == page.text("reading") == expected
    page.choose("head", "2")
    assert page.text("reading").endswith(shown(WEIGHTS[0, 2, 1, 3]))
    assert page.run("return document.querySelectorAll('b, main script').length") == 0


@browser_test
def test_a_token_is_pinned(open_page: Callable[..., Page], size: tuple[int, int]) -> None:
    page = open_page(WEIGHTS, QUERIES, KEYS, layer=1, head=0)
    lines = page.columns("lines", "links")
    everything = len(lines["alpha"])
    assert everything == (WEIGHTS[1, 0] >= WEIGHTS[1, 0].max() / 100).sum()
    row = page.columns("lines", "tokens")["y"][1]
    of_one = np.sort(WEIGHTS[1, 0, 1] / WEIGHTS[1, 0].max())
    page.move("lines", 10, row)
    np.testing.assert_allclose(page.columns("lines", "links")["alpha"], of_one[of_one >= 0.01], atol=1e-3)
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


@browser_test
def test_the_overview_chooses(open_page: Callable[..., Page], size: tuple[int, int]) -> None:
    page = open_page(WEIGHTS, QUERIES, KEYS)
    images = page.columns("overview", "maps")["image"]
    assert len(images) == 8
    np.testing.assert_allclose(images[1], (WIDE[0, 1] / WIDE[0, 1].max()).ravel(), atol=3e-4)
    page.move("overview", 1.5, 0.5, click=True)
    assert [page.run(f"return document.getElementById('{name}').value") for name in ("layer", "head")] == ["0", "1"]
    np.testing.assert_allclose(page.matrix(), WIDE[0, 1], atol=5.1e-5)


@browser_test
def test_everything_is_reached_by_keyboard(open_page: Callable[..., Page], size: tuple[int, int]) -> None:
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
    assert page.text("reading").startswith(f"a receives {shown(WIDE[0, 0, :, 0].sum())} in all, from ")
    page.tab_to("overview")
    page.press(Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    np.testing.assert_allclose(page.matrix(), WIDE[1, 1], atol=5.1e-5)
    page.tab_to("theme")
    page.press(" ")
    assert page.run("return document.documentElement.dataset.theme") == "dark"


@browser_test
def test_the_page_is_told_in_words(open_page: Callable[..., Page]) -> None:
    page = open_page(WEIGHTS, QUERIES, KEYS, layer=0, head=0)
    page.driver.find_element(By.TAG_NAME, "summary").click()
    items = [item.text for item in page.driver.find_elements(By.CSS_SELECTOR, "#words li")]
    assert len(items) == 5
    assert items[1].startswith("cat attends to ")
    for name in ("matrix", "lines", "overview"):
        figure = page.driver.find_element(By.ID, name)
        assert figure.accessible_name
        assert figure.get_attribute("tabindex") == "0"


@browser_test
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_is_the_system_s(open_page: Callable[..., Page], driver: webdriver.Chrome, scheme: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    page = open_page(WEIGHTS)
    background = "return getComputedStyle(document.body).backgroundColor"
    colours = {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}
    assert page.run(background) == colours.pop(scheme)
    page.driver.find_element(By.ID, "theme").click()
    assert page.run(background) == colours.popitem()[1]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@browser_test
def test_missing_weights_are_marked(open_page: Callable[..., Page]) -> None:
    page = open_page([[0.5, np.nan], [0.25, 0.75]], ["a", "b"], ["c", "d"])
    assert page.columns("matrix", "missing") == {"x": [1.5], "y": [0.5]}
    page.move("matrix", 1.5, 0.5)
    assert page.text("reading") == "a attends to d: missing"
    hidden = "return [...document.querySelectorAll('label, section')].filter(one => one.hidden).length"
    assert page.run(hidden) == 3  # one layer and one head: nothing to choose


@browser_test
def test_a_large_page_fits_its_window(open_page: Callable[..., Page], size: tuple[int, int]) -> None:
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
    right = page.run(VIEW + "return view.el.getBoundingClientRect().left + view.frame.x_scale.compute(127.5)", "matrix")
    assert 0 < right < size[0]
