"""Pictures of the console: `python -m tests.browser.screenshots FOLDER`; `docs/console.png` is its `start.png`.

The day is made up and its clock stands still, so that the same code makes the same pictures.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from werkzeug.serving import make_server

from service.web import create_app
from tests.browser.chromium import browser, show
from tests.browser.scene import IGNORED, MIXED, REFUSED, TOKEN, Stage, staged

DESK, PHONE = (1100, 900), (360, 780)
UNTIL = datetime(2026, 11, 24, 14, 20, tzinfo=UTC)


def main(folder: Path) -> None:
    """Makes them all."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as place,
        staged(f"sqlite:///{place}/autoship.db", UNTIL, "Europe/Istanbul", shipped=72) as stage,
        served(stage) as url,
        browser(Path(place) / "profile") as driver,
    ):
        take(driver, url, folder)


@contextmanager
def served(stage: Stage) -> Iterator[str]:
    """The application with the stage's clock."""
    server = make_server("127.0.0.1", 0, create_app(stage.config, stage.store), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def take(driver: Chrome, url: str, folder: Path) -> None:
    """Every page that matters, at a desk, on a phone and in the dark."""
    show(driver, *DESK)
    driver.get(f"{url}/")
    driver.save_screenshot(folder / "sign-in.png")
    driver.find_element(By.ID, "name").send_keys("Ayşe")
    driver.find_element(By.ID, "token").send_keys(TOKEN)
    driver.find_element(By.CSS_SELECTOR, "button.main").click()
    for name, path in (
        ("start", "/"),
        ("refused", f"/packages/{REFUSED}"),
        ("mixed", f"/packages/{MIXED}"),
        ("list", "/packages?state=waiting"),
        ("recheck", f"/packages/{IGNORED}/recheck"),
    ):
        driver.get(url + path)
        for suffix, size, dark in (("", DESK, False), ("-dark", DESK, True), ("-phone", PHONE, False)):
            show(driver, *size, dark=dark)
            height = driver.execute_script("return document.documentElement.scrollHeight")
            show(driver, size[0], max(size[1], height), dark=dark)
            driver.save_screenshot(folder / f"{name}{suffix}.png")
            show(driver, *DESK)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
