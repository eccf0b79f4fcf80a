"""A headless browser for tests: real keys and clicks, and what a page complains of.

Playwright drives the Chromium of the system; its own browsers are not needed.
"""

import re
import shutil
import time
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 60  # seconds; a loaded machine is slow to start a browser
CONTROLS = ("button", "radio", "textbox", "link", "progressbar", "img")


class Browser:
    """One page of a browser; the test is skipped where there is none.

    Args:
        folder: For what is downloaded.

    Attributes:
        page: Playwright's page.
        downloads: Folder of what ``downloaded`` has returned.
        faults: Errors of scripts, of loading, and of the console, since the start.
    """

    def __init__(self, folder: Path):
        sync_api = pytest.importorskip(
            "playwright.sync_api",
            reason="Playwright is missing: pip install playwright",
        )
        program = next(filter(None, map(shutil.which, NAMES)), None)
        if program is None:
            pytest.skip("no browser: install one of " + ", ".join(NAMES))
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True)
        self.faults = []
        self._pending = []
        self._driver = sync_api.sync_playwright().start()
        try:
            self._browser = self._driver.chromium.launch(
                executable_path=program,
                args=["--disable-dev-shm-usage"],
                timeout=1000 * PATIENCE,
            )
        except sync_api.Error:
            self._driver.stop()
            raise
        self.page = self._browser.new_page()
        self.page.set_default_timeout(1000 * PATIENCE)
        # Playwright cannot take the methods of lists
        self.page.on("pageerror", lambda error: self.faults.append(error))  # noqa: PLW0108
        self.page.on("requestfailed", self._note_request)
        self.page.on("download", lambda download: self._pending.append(download))  # noqa: PLW0108
        self.page.on("console", self._note)

    def close(self):
        """End the browser."""
        try:
            self._browser.close()
        finally:
            self._driver.stop()

    def _note(self, message):
        if message.type in ("error", "assert"):
            self.faults.append(message.text)

    def _note_request(self, request):
        # the page ended the request itself, or it became a download
        if request.failure != "net::ERR_ABORTED":
            self.faults.append(request)

    def evaluate(self, expression):
        """Return the value of a JavaScript expression."""
        return self.page.evaluate(expression)

    def until(self, expression):
        """Wait until a JavaScript expression holds."""
        self.page.wait_for_function(expression)

    def open(self, path: Path):
        """Open a file."""
        self.page.goto(Path(path).as_uri())

    def reload(self):
        """Load the page again."""
        self.page.reload()

    def press(self, key):
        """Press and release a key; a character is also typed."""
        self.page.keyboard.press(key)

    def type(self, text):
        """Type a text where the focus is."""
        self.page.keyboard.type(text)

    def click(self, selector):
        """Click an element by the mouse."""
        self.page.click(selector)

    def text(self, selector):
        """Return the text of an element as it is shown."""
        return self.page.inner_text(selector)

    def downloaded(self, pattern):
        """Wait for a download and return its file."""
        end = time.monotonic() + PATIENCE
        while not self._pending:
            assert time.monotonic() < end, "nothing was downloaded"
            self.page.wait_for_timeout(50)
        download = self._pending.pop(0)
        file = self.downloads / download.suggested_filename
        assert file.match(pattern), file
        download.save_as(file)
        return file

    def names_of_controls(self):
        """List what a screen reader says of each control: role and name."""
        snapshot = self.page.locator("body").aria_snapshot()
        found = re.findall(
            rf"""^\s*- '?({"|".join(CONTROLS)})\b(?: "((?:[^"\\]|\\.)*)")?""",
            snapshot,
            re.MULTILINE,
        )
        return [(role, name.replace('\\"', '"')) for role, name in found]
