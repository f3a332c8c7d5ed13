"""The book builds with warnings as errors, asks nothing from outside, and looks right in a browser."""

import functools
import http.server
import json
import re
import shutil
import threading
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from fixture_records import fill

from mmpeft import book
from mmpeft.plan import Question, questions
from mmpeft.records import Store
from mmpeft.study.situations import load_guide

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
    assert "claims of the paper" in text


def test_the_landing_page_gives_advice_that_leads_to_its_runs_and_to_the_ledger(html: Path) -> None:
    text, ledger = ((html / name).read_text(encoding="utf-8") for name in ("intro.html", "_executed/claims.html"))
    for one in load_guide().situations:
        assert escape(one.situation) in text and f'href="_executed/{one.question}.html"' in text
        assert all(f'href="_executed/claims.html#{name}"' in text and f'id="{name}"' in ledger for name in one.claims)
    assert "When to use none of them." in text and 'class="dots"' in text


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


def explorer(browser: Any, address: str) -> None:
    """Open the page of all runs and wait for its table."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    open_page(browser, f"{address}/_executed/explorer.html")
    WebDriverWait(browser, 60).until(lambda b: b.find_elements(By.CSS_SELECTOR, ".explorer tbody td:nth-child(9)"))


def heads(browser: Any, column: str, part: str) -> Any:
    """The part of this column's head."""
    position = titles(browser).index(column)
    return browser.find_elements("css selector", f".dt-scroll-head [data-dt-column='{position}'] {part}")[0]


def titles(browser: Any) -> list[str]:
    """The names of the columns."""
    names = "return [...document.querySelectorAll('.dt-scroll-head .dt-column-title')].map(title => title.innerText)"
    return list(browser.execute_script(names))


def press(browser: Any, button: Any) -> None:
    """Press it, also where the table must be scrolled for it."""
    browser.execute_script("arguments[0].click()", button)


def column(browser: Any, name: str) -> list[str]:
    """The cells of a column, as they are shown."""
    rows = "[...document.querySelectorAll('.explorer .dt-scroll-body tbody tr')]"
    cells = f"return {rows}.map(row => row.cells[arguments[0]].innerText)"
    return list(browser.execute_script(cells, titles(browser).index(name)))


def fill_in(browser: Any, field: Any, words: str) -> None:
    """Type the words there."""
    typed = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
    browser.execute_script(typed, field, words)


def number_shown(browser: Any) -> int:
    """How many runs the table says are left."""
    words = browser.find_element("css selector", ".explorer .dt-info").text
    return int(words.split(" of ")[1].split()[0].replace(",", ""))


def test_every_run_can_be_sorted_by_a_number(browser: Any, address: str) -> None:
    explorer(browser, address)
    upwards, downwards = [], []
    for sizes in (upwards, downwards):
        press(browser, heads(browser, "trained", "button.dtcc-button_order"))
        sizes += [int(text) for text in column(browser, "trained") if text]  # a failed run has none and comes first
    assert upwards == sorted(upwards) and downwards == sorted(downwards, reverse=True)
    assert downwards[0] > 1000  # as words, 910 would come before 1410


def test_every_run_can_be_filtered_by_a_column_and_searched_by_words(browser: Any, address: str) -> None:
    explorer(browser, address)
    total = number_shown(browser)
    fill_in(browser, heads(browser, "method", "input"), "LoRA")
    assert set(column(browser, "method")) == {"LoRA"}
    filtered = number_shown(browser)
    assert 0 < filtered < total
    fill_in(browser, browser.find_element("css selector", ".explorer .dt-search input"), "tuned")
    assert set(column(browser, "connector")) == {"tuned"} and set(column(browser, "method")) == {"LoRA"}
    assert 0 < number_shown(browser) < filtered


def test_a_failed_run_says_why_in_the_table_of_every_run(browser: Any, address: str) -> None:
    explorer(browser, address)
    fill_in(browser, browser.find_element("css selector", ".explorer .dt-search input"), "TrainingDiverged")
    assert set(column(browser, "error")) == {"TrainingDiverged: the loss is <nan> at step 3"}
    assert set(column(browser, "score")) == {""}


def test_every_run_can_be_taken_away_as_a_file(html: Path) -> None:
    text = (html / "_executed" / "explorer.html").read_text(encoding="utf-8")
    tables = []
    for name, read in (("runs.csv", pd.read_csv), ("runs.parquet", pd.read_parquet)):
        (link,) = set(re.findall(rf'href="([^"]*/{name})"', text))
        tables.append(read(html / "_executed" / link))
    assert len(tables[0]) == len(tables[1]) > 50 and set(tables[0].columns) == set(tables[1].columns)
    assert f"{len(tables[0])} runs left a record" in text
    assert len(text) < 5_000_000


def test_the_build_counts_what_it_made(html: Path) -> None:
    built = book.Built(html / "index.html", warnings=0, seconds=61.4)
    assert built.pages == len(PAGES)
    written = [path.read_text(encoding="utf-8").count("{figure}") for path in Path("book").glob("*.md")]
    plotted = [path.read_text(encoding="utf-8").count('"figure": {') for path in Path("notebooks").glob("*.ipynb")]
    assert built.figures == sum(written) + sum(plotted) > 10
    assert str(built).startswith(f"{len(PAGES)} pages, {built.figures} figures, ")
    assert str(built).endswith(" MB, 0 warnings, 61 seconds")
    assert built.size_bytes > (html / "_executed" / "explorer.html").stat().st_size


def test_formulas_are_drawn(browser: Any, address: str) -> None:
    open_page(browser, f"{address}/methods.html")
    assert browser.execute_script("return document.querySelectorAll('mjx-container').length") >= 4


def test_search_finds_a_page(browser: Any, address: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    open_page(browser, f"{address}/search.html?q=prefix")
    found = WebDriverWait(browser, 60).until(lambda b: b.find_elements(By.CSS_SELECTOR, "#search-results li a"))
    assert any("methods.html" in link.get_attribute("href") for link in found)
