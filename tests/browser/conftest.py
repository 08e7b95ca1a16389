"""A real `autoship web` with a worker, a played day behind them, and Chromium in front."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.browser import chromium
from tests.browser.scene import QUICK, TOKEN, Stage, staged
from tests.processes import running, wait_until, web_process

if not (chromium.BROWSER.exists() and chromium.DRIVER.exists()):
    pytest.skip("neither chromium nor its driver is installed here", allow_module_level=True)


@dataclass(frozen=True)
class Visitor:
    """A person at the browser, who finds things by what stands on them."""

    driver: Chrome
    url: str

    def open(self, path: str) -> None:
        self.driver.get(self.url + path)

    def sign_in(self, name: str = "Ayşe", token: str = TOKEN) -> None:
        self.type("name", name)
        self.type("token", token)
        self.press("Sign in")

    def type(self, field_id: str, text: str) -> None:
        field = self.driver.find_element(By.ID, field_id)
        field.clear()
        field.send_keys(text)

    def press(self, text: str, within: str = "") -> None:
        """The button or link that begins with this text; the next page is there afterwards."""
        with self.leaving():
            self.find(text, within).click()

    def enter(self, *keys: str) -> None:
        """Keys for whatever has the focus, then Enter; the next page is there afterwards."""
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)
        with self.leaving():
            self.driver.switch_to.active_element.send_keys(Keys.ENTER)

    def find(self, text: str, within: str = "") -> WebElement:
        named = f"[starts-with(normalize-space(), {text!r})]"
        return self.element(f"{within}//button{named} | {within}//a{named}")

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """Waits for the end of this page: a browser answers while it still waits for the next one."""
        page = self.driver.find_element(By.TAG_NAME, "html")
        yield

        def is_gone() -> bool:
            try:
                return not page.tag_name
            except WebDriverException:  # it is stale or, amid the change, none at all
                return True

        wait_until(is_gone)

    def element(self, xpath: str) -> WebElement:
        return self.driver.find_element(By.XPATH, xpath)

    @property
    def text(self) -> str:
        """What can be read on the page."""
        return self.driver.find_element(By.TAG_NAME, "body").text

    @property
    def heading(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "h1").text

    @property
    def path(self) -> str:
        return self.driver.current_url.removeprefix(self.url)


@dataclass(frozen=True)
class Place:
    """The address of the web process and what stands behind it."""

    url: str
    stage: Stage


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The service at the end of a day that is just over, wherever that is now."""
    folder, now = tmp_path_factory.mktemp("console"), datetime.now(UTC)
    with ExitStack() as stack:
        zone = _where_it_is_afternoon(now)
        stage = stack.enter_context(staged(f"sqlite:///{folder}/autoship.db", now, zone, 16, **QUICK))
        url = stack.enter_context(web_process(stage.variables, folder))
        stack.enter_context(running("worker", stage.variables, folder))
        yield Place(url, stage)


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium.browser(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def visitor(driver: Chrome, place: Place) -> Visitor:
    """Somebody who comes for the first time, to a desk."""
    driver.delete_all_cookies()
    chromium.show(driver, 1100, 900)
    return Visitor(driver, place.url)


def _where_it_is_afternoon(now: datetime) -> str:
    """A zone in which the whole played day is today; its names count the hours westwards."""
    east = 15 - now.hour
    east += 24 if east < -12 else -24 if east > 14 else 0
    return f"Etc/GMT{-east:+d}"
