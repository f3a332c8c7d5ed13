"""The book builds with warnings as errors, asks nothing from outside, and looks right in a browser."""

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixture_records import fill

from mmpeft import book
from mmpeft.plan import Question, questions
from mmpeft.records import Store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
TOC = yaml.safe_load(Path("book/_toc.yml").read_text(encoding="utf-8"))
PAGES = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
DESKTOP, PHONE = 1280, 390


@pytest.fixture(scope="session")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book of the scale smoke, built once, from records some of which are missing or failed."""
    place = tmp_path_factory.mktemp("book")
    folder, store = place / "book", Store(place / "store")
    shutil.copytree("book", folder, ignore=shutil.ignore_patterns("_build", "_executed"))
    for name in questions():
        asked = Question.load(f"params/{name}.yaml", "params/scales/smoke.yaml")
        fill(store, asked.planned(), missing=0.6 if name == "learning_rate" else 0.0, failed=0.2)
    return book.build(store.path, scale="smoke", folder=folder).page.parent


@pytest.fixture(scope="session")
def address(html: Path) -> Iterator[str]:
    """Where the pages are served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(html))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium that logs its console and every request."""
    if not CHROMIUM or not DRIVER:
        pytest.skip("chromium and chromedriver are not installed")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


def open_page(browser: Any, url: str, width: int = DESKTOP) -> None:
    """Open it and wait until it is drawn, formulas included."""
    browser.get_log("performance")
    browser.get_log("browser")
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(url)
    browser.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "const formulas = window.MathJax?.startup?.promise ?? Promise.resolve();"
        "formulas.then(() => requestAnimationFrame(() => done(true)));"
    )


def requests(browser: Any) -> list[str]:
    """The addresses that were asked since the page was opened, those of the browser itself left out."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if url.startswith(("http", "ws", "//"))]


def test_every_page_of_the_contents_is_built(html: Path) -> None:
    assert all((html / f"{page}.html").is_file() for page in PAGES)


def test_the_landing_page_says_what_was_found_and_at_which_scale(html: Path) -> None:
    text = (html / "intro.html").read_text(encoding="utf-8")
    assert "planned runs" in text and "scale smoke" in text and "The model is random" in text
    assert "On the unseen tasks" in text and "statements taken from the paper" in text


def test_the_question_page_counts_failed_and_missing_runs(html: Path) -> None:
    text = (html / "_executed" / "learning_rate.html").read_text(encoding="utf-8")
    for words in (" of ", " failed, ", " missing)", "TrainingDiverged: the loss is &lt;nan&gt;"):
        assert words in text, words


def test_no_page_names_a_folder_of_this_machine(html: Path) -> None:
    here = str(Path.cwd())
    for page in PAGES:
        text = (html / f"{page}.html").read_text(encoding="utf-8")
        assert here not in text and "/site-packages/" not in text


def test_a_warning_stops_the_build(html: Path, tmp_path: Path) -> None:
    folder = tmp_path / "book"
    shutil.copytree("book", folder, ignore=shutil.ignore_patterns("_build", "_executed"))
    (folder / "_toc.yml").write_text("format: jb-book\nroot: glossary\n", encoding="utf-8")
    (folder / "glossary.md").write_text("# Words\n\n[](nowhere.md)\n", encoding="utf-8")
    with pytest.raises(book.MmpeftError, match="nowhere"):
        book.build(execute=False, folder=folder)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_opens_without_errors_and_asks_nothing_from_outside(page: str, browser: Any, address: str) -> None:
    open_page(browser, f"{address}/{page}.html")
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert [url for url in requests(browser) if not url.startswith(address)] == []
    unnamed = "return [...document.querySelectorAll('article img')].filter(i => !i.alt || !i.naturalWidth).map(i => i.src)"
    assert browser.execute_script(unnamed) == []


@pytest.mark.parametrize("page", PAGES)
def test_a_page_fits_a_phone(page: str, browser: Any, address: str) -> None:
    open_page(browser, f"{address}/{page}.html", PHONE)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE


def test_formulas_are_drawn(browser: Any, address: str) -> None:
    open_page(browser, f"{address}/methods.html")
    assert browser.execute_script("return document.querySelectorAll('mjx-container').length") >= 4


def test_search_finds_a_page(browser: Any, address: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    open_page(browser, f"{address}/search.html?q=prefix")
    found = WebDriverWait(browser, 60).until(lambda b: b.find_elements(By.CSS_SELECTOR, "#search-results li a"))
    assert any("methods.html" in link.get_attribute("href") for link in found)
