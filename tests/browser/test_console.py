"""The console as a person meets it, in Chromium, against the processes as they are deployed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys

from service import explain
from tests.browser import chromium
from tests.browser.conftest import Place, Visitor
from tests.browser.scene import HOSTILE, IGNORED, LONG, MIXED, NEVER_SEEN, REFUSED, SHIPPED
from tests.processes import wait_until

PAGES = (
    "/",
    "/packages",
    "/packages?state=needs_attention",
    f"/packages/{REFUSED}",
    f"/packages/{MIXED}",
    f"/packages/{LONG}",
    f"/packages/{REFUSED}/recheck",
    "/search?q=nothing",
    "/packages/1",
)
PHONE = (360, 780)


def test_a_person_signs_in_looks_acts_and_leaves(visitor: Visitor, place: Place) -> None:
    visitor.open(f"/packages/{REFUSED}")
    visitor.sign_in(token="wrong")
    assert "That is not the token." in visitor.text
    visitor.type("token", place.stage.variables["ADMIN_TOKEN"])
    visitor.press("Sign in")
    assert (visitor.path, visitor.heading.split()[:2]) == (f"/packages/{REFUSED}", ["Package", str(REFUSED)])
    visitor.press("Autoship")
    assert visitor.heading == "Needs you"
    assert "Shipping normally. 16 shipped today, 7 waiting, 2 need you." in visitor.text
    visitor.press("Pause shipping")
    visitor.type("why", "stock count")
    visitor.press("Pause shipping")
    assert "Pause shipping: paused." in visitor.text
    assert "by Ayşe: stock count." in visitor.text
    visitor.press("Resume shipping")
    visitor.type("why", "counted")
    visitor.press("Resume shipping")
    assert "not paused" in visitor.text
    visitor.press("Sign out")
    visitor.open("/")
    assert visitor.path == "/sign-in"
    visitor.driver.back()
    assert "shipped today" not in visitor.text


def test_what_needs_a_person_is_rechecked_or_dismissed_with_a_reason(visitor: Visitor, place: Place) -> None:
    visitor.open("/sign-in")
    visitor.sign_in()
    card = f"//li[contains(@class, 'card')][.//a[contains(., 'Package {REFUSED}')]]"
    assert "The OMS refused the command as often as we try." in visitor.element(card).text
    visitor.press("Recheck", within=card)
    visitor.find(f"Recheck package {REFUSED}").click()  # the browser itself asks for the reason
    assert visitor.path == f"/packages/{REFUSED}/recheck"
    visitor.enter("the cause is gone")
    assert f"Recheck package {REFUSED}: is looked at again." in visitor.text
    assert "asked to look again, by Ayşe: the cause is gone" in visitor.text

    def is_refused_again() -> bool:
        told = explain.stored(place.stage.store, REFUSED)
        return told is not None and told["state"] == "needs_attention" and len(told["attempts"]) == 4

    wait_until(is_refused_again)
    visitor.open(f"/packages/{REFUSED}")
    assert HOSTILE[:20] in visitor.text
    assert visitor.driver.title == f"Package {REFUSED}: needs attention · Autoship"
    visitor.open(f"/packages/{IGNORED}")
    visitor.press("Dismiss")
    visitor.type("why", "shipped by hand")
    visitor.press("Dismiss package")
    assert "dismissed, by Ayşe: shipped by hand" in visitor.text


def test_a_package_is_found_by_its_orders_number_and_one_never_seen_is_taken_up(visitor: Visitor, place: Place) -> None:
    visitor.open("/sign-in")
    visitor.sign_in()
    for text, package_id in ((f"{SHIPPED:011}", SHIPPED), (f"{SHIPPED + 1:09}", SHIPPED + 1), ("950", NEVER_SEEN)):
        visitor.type("q", text)
        visitor.press("Search")
        assert visitor.path == f"/packages/{package_id}"
    assert "On a first look we would: ship." in visitor.text
    visitor.press("Recheck")
    visitor.type("why", "no webhook came")
    visitor.press("Recheck package")
    wait_until(lambda: place.stage.oms.shipped_by_command(NEVER_SEEN) == 1)

    def says_shipped() -> bool:
        visitor.open(f"/packages/{NEVER_SEEN}")
        return "Shipped by us" in visitor.text

    wait_until(says_shipped)


@pytest.mark.parametrize(("size", "dark"), [(PHONE, False), ((1100, 900), True)])
def test_every_page_passes_axe_fits_a_phone_and_asks_nothing_of_another_host(
    visitor: Visitor, size: tuple[int, int], dark: bool
) -> None:
    chromium.requests_of(visitor.driver)
    visitor.open("/sign-in")
    found = _faults(visitor.driver, size, dark)
    visitor.sign_in()
    for path in PAGES:
        visitor.open(path)
        found += _faults(visitor.driver, size, dark)
    assert found == []
    asked = chromium.requests_of(visitor.driver)
    assert len(asked) > len(PAGES)
    assert {urlsplit(address).netloc for address in asked} == {urlsplit(visitor.url).netloc}


def test_it_is_used_from_the_keyboard_and_without_javascript(place: Place, tmp_path: Path) -> None:
    with chromium.browser(tmp_path / "profile", javascript=False) as driver:
        visitor = Visitor(driver, place.url)
        driver.get("data:text/html,<title>off</title><script>document.title='on'</script>")
        assert driver.title == "off"
        visitor.open("/sign-in")
        visitor.enter(Keys.TAB, Keys.TAB, Keys.TAB, "Deniz", Keys.TAB, place.stage.variables["ADMIN_TOKEN"])
        assert visitor.path == "/"
        visitor.enter(Keys.TAB, Keys.TAB, Keys.TAB, str(MIXED))
        assert "not all of its items are" in visitor.text
        visitor.press("Recheck")
        visitor.type("why", "items are packed")
        visitor.press("Recheck package")
        assert "asked to look again, by Deniz: items are packed" in visitor.text


def _faults(driver: Chrome, size: tuple[int, int], dark: bool) -> list[str]:
    """What axe finds, whatever is wider than the window, and what the browser complains of."""
    chromium.show(driver, *size, dark=dark)
    where = urlsplit(driver.current_url).path
    return [f"{where}: {fault}" for fault in (*_axe(driver), *_too_wide(driver, size[0]), *_complaints(driver))]


def _axe(driver: Chrome) -> Iterator[str]:
    # Run by the driver, not by the page, whose policy forbids every script.
    driver.execute_script((resources.files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8"))
    told: dict[str, Any] = driver.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    assert len(told["passes"]) > 10
    for violation in told["violations"]:
        yield f"{violation['id']} {json.dumps([node['target'] for node in violation['nodes']])}"


def _too_wide(driver: Chrome, window: int) -> Iterator[str]:
    # Not compared with window.innerWidth: a phone shows a wide page smaller, and calls its window wider then.
    width = driver.execute_script("return document.documentElement.scrollWidth")
    if width > window:
        yield f"{width} px wide in a window of {window}"


def _complaints(driver: Chrome) -> Iterator[str]:
    """Such as something that the page's own policy forbade, not a page that was refused."""
    for entry in driver.get_log("browser"):  # type: ignore[no-untyped-call]
        if "the server responded with a status of" not in entry["message"]:
            yield str(entry["message"])
