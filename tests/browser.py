"""A headless browser for tests: real keys and clicks, and what a page complains of.

Chromium is driven over a pipe by its DevTools protocol, which needs no package.
"""

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 60  # seconds; a loaded machine is slow to start a browser
KEYS = {"Enter": ("\r", 13), " ": (" ", 32), "ArrowDown": ("", 40), "Tab": ("", 9)}


def find_browser():
    """Name the program of a browser; skip the test if there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no browser: install one of " + ", ".join(NAMES))
    return program


class Browser:
    """One page of a browser.

    Args:
        folder: For its profile and downloads.

    Attributes:
        downloads: Folder of what was downloaded.
        faults: Errors of scripts, of loading, and of the console, since the start.

    """

    def __init__(self, folder: Path):
        program = find_browser()
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True)
        self.faults = []
        self.number = 0
        self.session = None
        self.rest = b""
        down, up = os.pipe(), os.pipe()
        # out of the way of 3 and 4, which the browser reads and writes
        theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (down[0], up[1])]
        self.to, self.out = down[1], up[0]
        options = (
            "--headless=new --no-sandbox --disable-gpu --mute-audio --no-first-run "
            "--disable-dev-shm-usage --disable-background-networking "
            "--disable-component-update --disable-sync --remote-debugging-pipe"
        )
        with open(folder / "browser.log", "w") as log:
            self.process = subprocess.Popen(
                [
                    *("bash", "-c", 'exec "$@" 3<&%d 4>&%d' % tuple(theirs), "bash"),
                    *(program, *options.split()),
                    *(f"--user-data-dir={folder / 'profile'}", "about:blank"),
                ],
                pass_fds=theirs,
                stdout=log,
                stderr=log,
                env={**os.environ, "HOME": str(folder)},
            )
        for fd in (down[0], up[1], *theirs):
            os.close(fd)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call(
            "Target.attachToTarget", targetId=target, flatten=True
        )["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call(
            "Browser.setDownloadBehavior",
            behavior="allow",
            downloadPath=str(self.downloads),
        )

    def close(self):
        """End the browser."""
        self.session = None
        try:
            self.call("Browser.close")
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self.to)
            os.close(self.out)

    def call(self, method, **parameters):
        """Send one command and return its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self._note(answer)

    def _receive(self):
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.out], [], [], PATIENCE)
            assert ready, "the browser does not answer"
            more = os.read(self.out, 1 << 20)
            assert more, "the browser has ended, see browser.log"
            self.rest += more
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event):
        """Keep what a user would see as an error in the console."""
        values = event.get("params", {})
        kind = event.get("method")
        if kind == "Runtime.exceptionThrown":
            self.faults.append(values["exceptionDetails"])
        if kind == "Runtime.consoleAPICalled" and values["type"] in ("error", "assert"):
            self.faults.append(values["args"])
        if kind == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.faults.append(values["entry"])

    def evaluate(self, expression):
        """Return the value of a JavaScript expression, of a promise if it is one."""
        answer = self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression):
        """Wait until a JavaScript expression holds, and return its value."""
        end = time.monotonic() + PATIENCE
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, f"never came true: {expression}"
            time.sleep(0.02)
        return value

    def open(self, path: Path):
        """Open a file."""
        self.call("Page.navigate", url=Path(path).as_uri())
        self.until(f"location.href === {json.dumps(Path(path).as_uri())}")
        self.until("document.readyState === 'complete'")

    def reload(self):
        """Load the page again."""
        self.evaluate("window.before = true")
        self.call("Page.reload")
        self.until("!window.before && document.readyState === 'complete'")

    def press(self, key):
        """Press and release a key; a character is also typed."""
        text, code = KEYS.get(key, (key, ord(key[0].upper())))
        what = dict(key=key, windowsVirtualKeyCode=code)
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **what)
        self.call("Input.dispatchKeyEvent", type="keyUp", **what)

    def type(self, text):
        """Type a text where the focus is."""
        for character in text:
            self.press(character)

    def click(self, selector):
        """Click into the middle of an element by the mouse."""
        x, y = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            where = dict(x=x, y=y, button="left", clickCount=1)
            self.call("Input.dispatchMouseEvent", type=kind, **where)

    def text(self, selector):
        """Return the text of an element as it is shown."""
        return self.evaluate(
            f"document.querySelector({json.dumps(selector)}).innerText"
        )

    def downloaded(self, pattern):
        """Wait for a download that is complete and return its file."""
        end = time.monotonic() + PATIENCE
        while not (found := list(self.downloads.glob(pattern))):
            assert time.monotonic() < end, f"nothing like {pattern} was downloaded"
            time.sleep(0.05)
        return found[0]

    def names_of_controls(self):
        """List what a screen reader says of each control: role and name."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        controls = ("button", "radio", "textbox", "link", "progressbar", "image")
        return [
            (node["role"]["value"], node["name"]["value"])
            for node in nodes
            if not node["ignored"] and node["role"]["value"] in controls
        ]
