"""A page of attnx.view in headless Chromium, and what a user does there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
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


def start_chromium(profile: Path) -> webdriver.Chrome:
    """Start a browser that reaches no network and logs what it asks for."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
        "disable-background-networking", "hide-scrollbars", "disable-component-update", "disable-dev-shm-usage",
        "host-resolver-rules=MAP * ~NOTFOUND", f"user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))


def set_size(driver: webdriver.Chrome, width: int, height: int) -> None:
    """Give the page a window of this size."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


class Page:
    """A page in a browser, and what a user does there."""

    def __init__(self, driver: webdriver.Chrome, path: Path) -> None:
        self.driver = driver
        for log in ("browser", "performance"):
            driver.get_log(log)
        driver.get(path.as_uri())
        WebDriverWait(driver, 30).until(
            lambda d: self.run("return document.documentElement.dataset.ready")
        )

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

    def matrix(self) -> list[float]:
        """Return the weights that are drawn, row after row."""
        weights: list[float] = self.columns("matrix", "cells")["image"][0]
        return weights

    def choose(self, name: str, text: str) -> None:
        Select(self.driver.find_element(By.ID, name)).select_by_visible_text(text)
