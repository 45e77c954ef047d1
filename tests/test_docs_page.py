"""`/docs` in a real browser that can reach only this machine.

The tests write screenshots into build/docs-page/.
"""

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from helpers import ROOT
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import (
    text_to_be_present_in_element,
    visibility_of_element_located,
)
from selenium.webdriver.support.wait import WebDriverWait
from serving import logged_model, serve

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.usefixtures("programs")]

KEY = "correct-horse-battery"
SCREENSHOTS = ROOT / "build/docs-page"
SECONDS = 20


class Page:
    """The browser, showing the page of one server, which may be behind a proxy."""

    def __init__(self, browser: Chrome, address: httpx.URL) -> None:
        self.browser = browser
        self.address = str(address)
        self.wait = WebDriverWait(browser, SECONDS)

    def open(self) -> None:
        """Open the address that the server printed, as a user would."""
        self.browser.get(self.address)
        assert self.browser.current_url == urljoin(self.address, "docs")

    def see(self, selector: str) -> WebElement:
        """Wait until the element is visible."""
        return self.wait.until(visibility_of_element_located((By.CSS_SELECTOR, selector)))

    def read(self, selector: str, text: str) -> None:
        """Wait until the element has the text."""
        self.wait.until(text_to_be_present_in_element((By.CSS_SELECTOR, selector), text))

    def click(self, selector: str) -> None:
        """Click a visible element."""
        self.see(selector).click()

    def enter(self, key: str) -> None:
        """Enter the key when the page asks for it."""
        field = self.see("#key")
        field.clear()
        field.send_keys(key)
        self.click("#ask button")

    def execute_example(self) -> dict[str, object]:
        """Predict the example by clicking, and return the answer that the page shows."""
        predict = "#operations-model-predict"
        self.click(f"{predict} .opblock-summary-control")
        self.click(f"{predict} .try-out__btn")
        self.click(f"{predict} .execute")
        answered = f"{predict} .live-responses-table tr.response"
        self.read(f"{answered} .response-col_status", "200")
        shown = self.see(f"{answered} .response-col_description code")
        answer: dict[str, object] = json.loads(shown.text)
        return answer

    def requests(self) -> list[dict[str, object]]:
        """The browser's requests since the last call, from DevTools."""
        told = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        sent = [one["params"] for one in told if one["method"] == "Network.requestWillBeSent"]
        # Without resources of the browser itself.
        return [
            one["request"]
            for one in sent
            if not one["request"]["url"].startswith(("data:", "chrome:"))
        ]

    def console(self) -> list[str]:
        """Console messages since the last call: errors, and what the policy blocked."""
        return [entry["message"] for entry in self._log("browser")]

    def _log(self, kind: str) -> list[dict[str, str]]:
        entries: list[dict[str, str]] = self.browser.get_log(kind)  # type: ignore[no-untyped-call]  # selenium
        return entries

    def screenshot(self, name: str) -> None:
        """Save a screenshot of the whole page."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        height = self.browser.execute_script("return document.body.scrollHeight")
        self.browser.set_window_size(1200, min(max(height, 600) + 150, 4000))
        assert self.browser.save_screenshot(SCREENSHOTS / f"{name}.png")


@pytest.fixture(scope="session")
def programs() -> tuple[str, str]:
    """Chromium and its driver, checked before a project is rendered.

    Without them the tests are skipped, or fail if REQUIRE_BROWSER=1.
    """
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        missing = "chromium or chromedriver is not installed (Debian: .ci/packages)"
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail(missing)
        pytest.skip(missing)  # allowed on machines without a browser, not in CI
    return chromium, driver


@pytest.fixture
def browser(programs: tuple[str, str], tmp_path: Path) -> Iterator[Chrome]:
    """A new browser that can resolve no host name except this machine's."""
    chromium, driver = programs
    options = ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",  # needs no user namespaces; the pages are our own
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--no-proxy-server",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--window-size=1200,1000",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = Chrome(options, Service(driver))
    yield browser
    browser.quit()


@contextlib.contextmanager
def proxy(http: httpx.Client, prefix: str) -> Iterator[httpx.URL]:
    """Serve the API below a prefix, which its requests lose, and nothing elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        def forward(self) -> None:
            if not self.path.startswith(prefix):
                self.send_error(404)
                return
            headers = {
                name: value for name, value in self.headers.items() if name.lower() != "host"
            }
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            path = self.path.removeprefix(prefix.rstrip("/"))
            with http.stream(self.command, path, headers=headers, content=body) as answer:
                self.send_response_only(answer.status_code)
                for name, value in answer.headers.multi_items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.writelines(answer.iter_raw())

        do_GET = do_POST = forward

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield httpx.URL(f"http://127.0.0.1:{server.server_port}{prefix}")
        finally:
            server.shutdown()
            thread.join()


def test_the_example_is_predicted_by_clicking(
    project: Path, penguins: str, browser: Chrome
) -> None:
    with serve(project, "--model-uri", logged_model(project, penguins)) as http:
        page = Page(browser, http.base_url)
        page.open()
        page.read(".info .title", "penguins")
        page.read(".info", "Species of a penguin from its measurements")
        assert browser.title == "penguins"
        page.screenshot("without-key")
        answer = page.execute_example()
        page.screenshot("without-key-executed")
        document = http.get("/openapi.json").json()
        example = document["components"]["schemas"]["PredictionRequest"]["example"]
        assert answer == http.post("/predict", json=example).json()
        assert page.console() == []
        hosts = {urlsplit(str(request["url"])).netloc for request in page.requests()}
        assert hosts == {urlsplit(page.address).netloc}


def test_the_key_is_asked_for_once_and_stays_in_the_tab(
    project: Path, penguins: str, browser: Chrome
) -> None:
    with serve(
        project,
        "--model-uri",
        logged_model(project, penguins),
        API_KEY=KEY,
        API_KEY_HEADER="X-Token",
    ) as http:
        page = Page(browser, http.base_url)
        page.open()
        page.see("#key")
        page.screenshot("with-key-asked")
        assert page.console() == []
        assert not any("openapi.json" in str(request["url"]) for request in page.requests())

        page.enter("wrong" * 4)
        page.read("#problem", "does not accept this key")
        page.screenshot("with-key-refused")
        [refused] = page.console()
        assert "401" in refused

        page.enter(KEY)
        page.read(".info .title", "penguins")
        assert page.execute_example()["prediction"]
        page.screenshot("with-key-executed")

        page.open()
        page.read(".info .title", "penguins")
        assert page.execute_example()["prediction"]
        assert page.console() == []
        requests = page.requests()
        assert not any(KEY in str(request["url"]) for request in requests)
        assert {urlsplit(str(request["url"])).netloc for request in requests} == {
            urlsplit(page.address).netloc
        }
        for place in ("localStorage", "document.cookie"):
            kept = browser.execute_script(f"return JSON.stringify({place})")
            assert KEY not in kept

        with proxy(http, "/team/") as address:
            behind = Page(browser, address)
            behind.open()
            behind.enter(KEY)
            assert behind.execute_example()["prediction"]
            assert behind.console() == []
            urls = [str(request["url"]) for request in behind.requests()]
            assert f"{address}predict" in urls
            assert all(url.startswith(str(address)) for url in urls), urls

        page.open()
        tab = browser.current_window_handle
        browser.switch_to.new_window("tab")
        page.open()
        page.see("#key")
        browser.close()
        browser.switch_to.window(tab)

        page.click(".scheme-container .authorize")
        page.click(".modal-ux .auth-btn-wrapper button[aria-label='Remove authorization']")
        browser.refresh()
        page.see("#key")
        assert page.console() == []
