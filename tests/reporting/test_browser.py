"""Pages in a real browser, where one is installed."""

import json
import re
import shutil
import subprocess

import pytest
from torch import nn

import bayesdrop as bd
from bayesdrop.data import load_data
from bayesdrop.reporting import add_analysis, build_report, write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
COUNT = (
    "<script>addEventListener('load', () => { const all = [...document.images]; "
    "const found = {all: all.length, "
    "loaded: all.filter(i => i.complete && i.naturalWidth > 0).length, "
    "overflow: document.documentElement.scrollWidth - innerWidth}; "
    "document.body.innerHTML = '<pre id=result>' + JSON.stringify(found) + '</pre>'; })"
    "</script></body>"
)


@pytest.fixture
def browser(tmp_path):
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("needs Chromium or Chrome")

    def run(page, *options):
        return subprocess.run(
            [
                path, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
                f"--user-data-dir={tmp_path / 'profile'}", *options, "--dump-dom", page.as_uri(),
            ],
            capture_output=True, text=True, timeout=300, check=True,
        )  # fmt: skip

    return run


@pytest.fixture
def page(tmp_path):
    pytest.importorskip("matplotlib")
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 4))
    bnn = bd.BayesianNetwork(bd.convert(net), bd.Categorical(), 100).eval()
    test = load_data("digits:0-3").test
    description = {"recipe": "<r>", "data": "d", "data_title": "D", "minutes": 0.0}
    report = build_report(bnn, None, test, description=description, num_samples=2)
    write_report(add_analysis(report), tmp_path, html=True)
    return tmp_path / "report.html"


@pytest.mark.slow
def test_a_browser_shows_every_image_and_has_nothing_to_complain(browser, page):
    shown = browser(page)
    assert "CONSOLE" not in shown.stderr, shown.stderr
    assert "&lt;r&gt; on D" in shown.stdout
    # The page allows no script: a copy that does counts the images that were decoded.
    text = re.sub(r"<meta http-equiv=[^>]*>", "", page.read_text()).replace("</body>", COUNT)
    counting = page.with_name("counting.html")
    counting.write_text(text)
    found = browser(counting, "--window-size=400,800").stdout
    result = json.loads(re.search(r'<pre id="result">(.*?)</pre>', found)[1])
    assert result["loaded"] == result["all"] > 5
    assert result["overflow"] <= 0, "tables scroll, the page does not"
