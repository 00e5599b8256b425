"""The report in a real browser: what a person clicks, types and sees. Needs Chromium and its driver."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from mae_lite.report import page
from mae_lite.report.compose import compose
from mae_lite.report.watch import Watch
from tests import stored

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")), reason="no chromium with chromedriver here"
    ),
    pytest.mark.xdist_group("browser"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    page.write(compose([stored.comparison(root / "runs")], "A study"), root / "report.html")
    return root / "report.html"


@pytest.fixture
def opened(browser: Any, report: Path) -> Any:
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.set_window_size(1200, 900)
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(report.as_uri())
    return browser


def column(browser: Any, place: int) -> list[str]:
    """Return the texts of a column of the table of runs, hidden rows left out."""
    rows = browser.find_elements(By.CSS_SELECTOR, "#table-runs tbody tr")
    return [row.find_elements(By.CSS_SELECTOR, "th, td")[place].text for row in rows if row.is_displayed()]


def test_a_click_sorts_numbers_as_numbers(opened: Any) -> None:
    heads = opened.find_elements(By.CSS_SELECTOR, "#table-runs th .sort")
    heads[7].click()
    rising = column(opened, 7)
    numbers = [float(text) for text in rising if text]
    assert len(numbers) == 12 and numbers == sorted(numbers) and rising[0] == ""
    head = opened.find_elements(By.CSS_SELECTOR, "#table-runs thead th")[7]
    assert head.get_attribute("aria-sort") == "ascending"
    heads[7].send_keys(Keys.ENTER)  # by keyboard too
    assert [float(text) for text in column(opened, 7) if text] == sorted(numbers, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    heads[0].click()
    assert column(opened, 0) == sorted(column(opened, 0)) and head.get_attribute("aria-sort") is None


def test_typing_filters_rows(opened: Any) -> None:
    box = opened.find_element(By.CSS_SELECTOR, ".filter")
    box.send_keys("scratch finished 0")
    assert 0 < len(column(opened, 0)) < 12 and all("scratch" in name for name in column(opened, 0))
    assert opened.find_element(By.CSS_SELECTOR, ".count").text.endswith("of 13")
    box.clear()
    box.send_keys("nothing like it")
    assert column(opened, 0) == []


def test_the_slider_goes_through_the_previews(opened: Any) -> None:
    slider = opened.find_element(By.CSS_SELECTOR, ".slider input")

    def seen() -> tuple[list[str], str]:
        images = opened.find_elements(By.CSS_SELECTOR, ".slider img")
        shown = [str(image.get_attribute("data-step")) for image in images if image.is_displayed()]
        return shown, opened.find_element(By.CSS_SELECTOR, ".slider output").text

    assert seen() == (["30"], "30")
    slider.send_keys(Keys.ARROW_LEFT)
    assert seen() == (["20"], "20")
    slider.send_keys(Keys.HOME)
    assert seen() == (["10"], "10")


def brightness(browser: Any) -> int:
    colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    return sum(int(part) for part in colour.strip("rgb()").split(","))


def test_light_and_dark(opened: Any) -> None:
    for preferred, dark in (("light", False), ("dark", True)):
        feature = {"features": [{"name": "prefers-color-scheme", "value": preferred}]}
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
        assert (brightness(opened) < 200) == dark
        text = "return getComputedStyle(document.querySelector('figure svg text')).fill"
        ink = sum(int(part) for part in opened.execute_script(text).strip("rgb()").split(","))
        assert (ink > 500) == dark  # the figures' text goes with the page
    opened.find_element(By.ID, "theme").click()
    assert brightness(opened) > 700
    opened.find_element(By.ID, "theme").click()
    assert brightness(opened) < 200


@pytest.mark.parametrize("width", [390, 768, 1200])
def test_it_fits_the_window(opened: Any, width: int) -> None:
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    size = "(e) => parseFloat(getComputedStyle(e).fontSize)"
    sizes = opened.execute_script(f"return [...document.querySelectorAll('p, th, td, figcaption')].map({size})")
    assert min(sizes) >= 14
    for figure in opened.find_elements(By.CSS_SELECTOR, "#figures svg"):
        assert figure.size["width"] >= min(300, width - 60)


def test_everything_about_a_run_is_a_click_away(opened: Any) -> None:
    details = opened.find_elements(By.CSS_SELECTOR, "#details > details")
    assert len(details) == 13
    details[0].find_element(By.TAG_NAME, "summary").click()
    assert "mae-lite finetune digits-finetune" in details[0].text and "labels_per_class" in details[0].text


def test_a_command_is_copied_as_it_is(opened: Any) -> None:
    """Its words are kept in one piece each; in a narrow window it has several lines, of which nothing is copied."""
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 600, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    details = opened.find_elements(By.CSS_SELECTOR, "#details > details")[0]
    details.find_element(By.TAG_NAME, "summary").click()
    shown = details.find_element(By.TAG_NAME, "pre")
    copied = opened.execute_script(
        "getSelection().selectAllChildren(arguments[0]); return getSelection().toString()", shown
    )
    command = shown.get_property("textContent")
    assert command.startswith("mae-lite finetune digits-finetune --") and copied.strip() == command
    one, two = (shown.find_elements(By.TAG_NAME, "span")[place].rect["y"] for place in (0, -1))
    assert two > one, "in one line nothing was tested"


def test_no_table_is_cut_off_in_a_wide_window(opened: Any) -> None:
    metrics = {"width": 1200, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    tables = "return [...document.querySelectorAll('.wide')]"
    cut = f"{tables}.filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.innerText)"
    assert opened.execute_script(cut) == [] != opened.execute_script(tables)


def test_no_error_and_no_request(opened: Any) -> None:
    opened.find_elements(By.CSS_SELECTOR, "#table-runs th .sort")[3].click()
    assert [entry for entry in opened.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert all(url.startswith(("file:", "data:")) for url in asked) and len([u for u in asked if u[:5] == "file:"]) == 1


def test_a_live_page_follows_the_run_and_keeps_what_was_opened(browser: Any, tmp_path: Path) -> None:
    root = stored.comparison(tmp_path / "runs")
    stored.write(root / "pretrain" / "status.json", {"state": "running", "step": 30, "total_steps": 99})
    server = Watch([root], 0)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        browser.get(server.address)
        browser.get_log("browser")
        browser.find_elements(By.CSS_SELECTOR, "#details > details > summary")[2].click()
        browser.find_element(By.CSS_SELECTOR, ".filter").send_keys("mae")
        browser.execute_script("document.querySelector('#cost').dataset.same = 'yes'; window.stays = true")
        wait = WebDriverWait(browser, 40)
        wait.until(lambda b: "1 running" in b.find_element(By.ID, "live").text)
        assert "pretrain is running." in browser.find_element(By.ID, "headline").text
        stored.write(root / "pretrain" / "status.json", {"state": "stopped", "step": 42, "total_steps": 99})
        wait.until(lambda b: "pretrain was stopped" in b.find_element(By.ID, "headline").text)
        wait.until(lambda b: "42 of 99" in b.find_element(By.ID, "table-runs").text or "42" in "".join(column(b, 5)))
        assert browser.execute_script("return window.stays") is True  # no reload
        assert browser.execute_script("return document.querySelector('#cost').dataset.same") == "yes"  # not touched
        assert browser.find_elements(By.CSS_SELECTOR, "#details > details")[2].get_attribute("open") is not None
        assert browser.find_element(By.CSS_SELECTOR, ".filter").get_attribute("value") == "mae"
        assert all("mae" in name or name == "pretrain" for name in column(browser, 0))
        server.close()
        wait.until(lambda b: "no answer" in b.find_element(By.ID, "live").text)
        severe = [
            e for e in browser.get_log("browser") if e["level"] == "SEVERE" and "ERR_CONNECTION" not in e["message"]
        ]
        assert severe == []
    finally:
        server.close()
        thread.join(10)
        browser.get("about:blank")
