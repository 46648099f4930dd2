"""Pages in a real browser: a headless Chromium on the other end of its debugging pipe.

The protocol is JSON between zero bytes, so that nothing but the browser has to be installed.
"""

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PHONE, DESKTOP = 390, 1280
"""Widths in CSS pixels."""

PAPER = 717
"""Width of A4 less the margins of a printed page, in CSS pixels."""

_READY = "new Promise(done => document.readyState == 'complete' ? done(1) : onload = done)"

# What is inside something that scrolls may be wider than the page; what is cut off may not.
_RUN_OFF = """(() => {
  const wide = document.documentElement.clientWidth, found = [];
  const scrolls = e => ['auto', 'scroll'].includes(getComputedStyle(e).overflowX);
  for (const e of document.body.querySelectorAll('*')) {
    const box = e.getBoundingClientRect(), style = getComputedStyle(e);
    if (!box.width || !box.height || style.visibility == 'hidden') continue;
    let up = e.parentElement;
    while (up && !scrolls(up)) up = up.parentElement;
    if (up && up != document.body && up != document.documentElement) continue;
    const off = box.right > wide + 1 || box.left < -1;
    const cut = ['hidden', 'clip'].includes(style.overflowX) && e.scrollWidth > e.clientWidth + 1
      && e.clientWidth > 1;
    if (off || cut) found.push(`${e.tagName.toLowerCase()}${e.className && '.' + e.className}: ` +
      `${Math.round(box.left)} to ${Math.round(box.right)} of ${wide}: ` +
      e.textContent.trim().slice(0, 40));
  }
  return found;
})()"""
_IMAGES = """Promise.all([...document.images].map(async i => {
  i.loading = 'eager';
  await i.decode().catch(() => 0);
  return [i.currentSrc.slice(-80), i.complete && i.naturalWidth > 0];
}))"""
_SCROLLING = """[...document.querySelectorAll('table')].filter(t => {
  let up = t;
  while (up && up.scrollWidth <= up.clientWidth + 1) up = up.parentElement;
  return up && up != document.documentElement && up != document.body
    && ['auto', 'scroll'].includes(getComputedStyle(up).overflowX);
}).length"""


def browser_path():
    """Return the path of an installed browser, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A running browser with one tab; use it as a context.

    Args:
        path: Of the program.
        profile: An empty folder that it may write to.
    """

    def __init__(self, path, profile):
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()

        def pipes():  # the protocol asks for these two numbers
            first, second = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(first, 3)
            os.dup2(second, 4)

        self._process = subprocess.Popen(
            [
                path, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
                "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank",
            ],
            preexec_fn=pipes, close_fds=False,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._numbers, self._rest, self._session = itertools.count(1), b"", None
        self.complaints = []
        (tab,) = [t for t in self._ask("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        self._session = self._ask("Target.attachToTarget", targetId=tab["targetId"], flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._session = None
        with contextlib.suppress(OSError, EOFError):
            self._ask("Browser.close")
        self._process.wait(30)
        os.close(self._out)
        os.close(self._in)

    def open(self, page, *, width=DESKTOP, height=900, dark=False, media="screen"):
        """Show a file, and wait until it has loaded.

        Args:
            page: Its path.
            width: Of the window, in CSS pixels.
            height: Of the window.
            dark: Whether the reader prefers dark pages.
            media: ``"screen"`` or ``"print"``.
        """
        self.complaints = []
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", media=media, features=[scheme])
        went = self._ask("Page.navigate", url=page.resolve().as_uri())
        assert "errorText" not in went, went
        self.evaluate(_READY)

    def evaluate(self, script):
        """Return the value of a script, of a promise what it comes to."""
        answer = self._ask(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def run_off(self):
        """Return what is wider than the page, or cut off, outside of anything that scrolls."""
        return self.evaluate(_RUN_OFF)

    def broken_images(self):
        """Return the addresses of images that cannot be shown."""
        return [address for address, shown in self.evaluate(_IMAGES) if not shown]

    def scrolling_tables(self):
        """Return how many tables are wider than what they stand in, and scroll there."""
        return self.evaluate(_SCROLLING)

    def screenshot(self, path, *, whole=True):
        """Write what is shown as PNG; the whole page, or the window."""
        size = self._ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        more = {"captureBeyondViewport": True, "clip": clip} if whole else {}
        path.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot", **more)["data"]))

    def print_to(self, path):
        """Write the page as PDF, on A4."""
        paper = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": True}
        path.write_bytes(base64.b64decode(self._ask("Page.printToPDF", **paper)["data"]))

    def _ask(self, method, **parameters):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        message |= {} if self._session is None else {"sessionId": self._session}
        text = json.dumps(message).encode() + b"\0"
        while text:
            text = text[os.write(self._out, text) :]
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._hear(answer)

    def _hear(self, event):
        about = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(about["exceptionDetails"]["text"])
        elif event.get("method") == "Runtime.consoleAPICalled" and about["type"] == "error":
            self.complaints.append(str(about["args"]))
        elif event.get("method") == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.complaints.append(about["entry"]["text"])

    def _read(self):
        while b"\0" not in self._rest:
            more = os.read(self._in, 1 << 20)
            if not more:
                raise EOFError("the browser has gone")
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        return json.loads(text)
