"""The page in headless Chromium, driven by chromedriver's WebDriver protocol; skipped where they are not installed."""

import json
import shutil
import socket
import subprocess
import time

import pytest
import requests

from vqscale.reporting import gather, write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
STUDY = {"study": "books", "question": "What does it cost?", "resources": {"price_per_device_hour": 2.0}, "train": {}}
PAGE_HEIGHT = 900
WIDTHS = "[...document.querySelectorAll('.canvas .main-svg')].map(o => o.clientWidth)"

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed")


class Browser:
    """One session of a running chromedriver."""

    def __init__(self, address, profile):
        flags = ["headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking",
                 "disable-component-update", "disable-sync", f"user-data-dir={profile}"]  # fmt: skip
        options = {"binary": CHROMIUM, "args": [f"--{flag}" for flag in flags]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        answer = requests.post(f"{address}/session", json={"capabilities": {"alwaysMatch": wanted}}, timeout=120).json()
        self._session = f"{address}/session/{answer['value']['sessionId']}"

    def post(self, path, **values):
        answer = requests.post(f"{self._session}/{path}", json=values, timeout=120).json()["value"]
        assert not (isinstance(answer, dict) and "error" in answer), answer
        return answer

    def open(self, path, width):
        metrics = {"width": width, "height": PAGE_HEIGHT, "deviceScaleFactor": 1, "mobile": width < 600}
        self.post("goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=metrics)
        self.post("url", url=f"file://{path}")
        until = time.monotonic() + 60
        while not self.ask("document.documentElement.dataset.ready === 'yes'"):  # plotly.js is unpacked by then
            assert time.monotonic() < until, "the page did not draw its charts"

    def ask(self, expression):
        return self.post("execute/sync", script=f"return {expression}", args=[])

    def log(self, kind):
        return self.post("se/log", type=kind)

    def close(self):
        requests.delete(self._session, timeout=60)


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            requests.get(f"{address}/status", timeout=5)
            break
        except requests.ConnectionError:
            assert process.poll() is None, "chromedriver ended at its start"
    browser = Browser(address, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="module")
def report(isoflop_table, isoflop_fits, references, throughput, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    made = gather(study=STUDY, table=isoflop_table, fits=isoflop_fits, references=references, throughput=throughput)
    write_report(made, str(folder))
    return folder / "report.html"


@pytest.fixture
def wide(driver, report):
    driver.open(report, 1440)
    return driver


def test_page_opens_offline_without_errors_and_draws_every_chart(driver, report):
    driver.log("performance")
    driver.open(report, 1440)
    assert driver.log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in driver.log("performance")]
    asked = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {f"file://{report}"}
    drawn = driver.ask("[...document.querySelectorAll('.chart')].map(one => one.querySelectorAll('.trace').length)")
    assert len(drawn) >= 12
    assert all(drawn)


@pytest.mark.parametrize("width", [400, 1440])
def test_page_is_no_wider_than_the_window(driver, report, width):
    driver.open(report, width)
    assert driver.ask("document.documentElement.scrollWidth") <= width
    assert (
        driver.ask("Math.max(...[...document.querySelectorAll('.canvas .main-svg')].map(o => o.clientWidth))") <= width
    )
    outside = (
        "[...document.querySelectorAll('h1, h2, p, li, dl, .chart')].filter(o => o.scrollWidth > o.clientWidth + 1)"
    )
    assert driver.ask(f"{outside}.map(o => o.textContent.slice(0, 60))") == []


def test_tab_shows_another_chart_in_the_same_place(wide):
    title = "document.querySelector('#isoflop .chart .title').textContent"
    before = wide.ask(title)
    wide.ask("document.querySelectorAll('#isoflop .tabs button')[1].click()")
    assert wide.ask(title) != before
    assert wide.ask("[...document.querySelectorAll('#isoflop .tabs button')].map(o => o.ariaPressed)")[1] == "true"
    assert wide.ask("document.querySelectorAll('#isoflop .chart .cartesianlayer').length") == 1


def test_click_in_the_legend_hides_all_of_one_architecture(wide):
    visible = "document.querySelectorAll('#compute .scatterlayer .trace').length"
    before = wide.ask(visible)
    entry = "document.querySelector('#compute .legendtoggle')"
    for kind in ("mousedown", "mouseup"):
        wide.ask(f"{entry}.dispatchEvent(new MouseEvent('{kind}', {{bubbles: true}}))")
    for _ in range(200):  # plotly waits whether a second click follows
        if wide.ask(visible) < before:
            break
    assert wide.ask(visible) <= before - 3  # points, line and band at least


def test_switch_makes_the_loss_axis_logarithmic(wide):
    kind = "document.querySelector('#compute .canvas')._fullLayout.yaxis.type"
    assert wide.ask(kind) == "linear"
    wide.ask("[...document.querySelectorAll('#compute .bar > button')].at(-1).click()")
    assert wide.ask(kind) == "log"


def test_table_sorts_by_numbers_behind_the_text(wide):
    header = "[...document.querySelectorAll('#sizes th')].find(o => o.textContent.startsWith('C (FLOPs)'))"
    wide.ask(f"{header}.querySelector('button').click()")
    column = f"(h => [...h.closest('table').tBodies[0].rows].map(r => +r.cells[h.cellIndex].dataset.key))({header})"
    ascending = wide.ask(column)
    assert len(set(ascending)) > 5
    assert ascending == sorted(ascending)
    wide.ask(f"{header}.querySelector('button').click()")
    assert wide.ask(column) == sorted(ascending, reverse=True)


def test_dark_page_is_drawn_dark(wide):
    ink = "getComputedStyle(document.querySelector('#compute .xtitle')).fill"
    light = wide.ask(ink)
    scheme = [{"name": "prefers-color-scheme", "value": "dark"}]
    wide.post("goog/cdp/execute", cmd="Emulation.setEmulatedMedia", params={"features": scheme})
    dark = next((found for _ in range(200) if (found := wide.ask(ink)) != light), light)  # the page redraws itself
    wide.post("goog/cdp/execute", cmd="Emulation.setEmulatedMedia", params={"features": []})
    assert (light, dark) == ("rgb(29, 33, 41)", "rgb(228, 231, 236)")


def test_printed_page_is_paper_with_charts_that_fit_it(wide):
    wide.ask("window.dispatchEvent(new Event('beforeprint'))")
    widths = wide.ask(WIDTHS)
    assert max(widths) <= 700
    wide.ask("window.dispatchEvent(new Event('afterprint'))")
    assert wide.ask("document.querySelector('.canvas .main-svg').clientWidth") > 700
    assert wide.post("print", pageRanges=["1"])
