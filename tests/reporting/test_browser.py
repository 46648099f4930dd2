"""The report in a real browser, where one is installed."""

import pytest
import torch
from torch import nn

import bayesdrop as bd
from bayesdrop.data import load_data, load_ood
from bayesdrop.reporting import add_analysis, build_report, write_page
from tests.browser import DESKTOP, PAPER, PHONE


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    pytest.importorskip("matplotlib")
    torch.set_default_dtype(torch.float32)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 4))
    bnn = bd.BayesianNetwork(bd.convert(net), bd.Categorical(), 100).eval()
    digits = load_data("digits:0-3")
    report = build_report(
        bnn,
        None,
        tuple(part[:80] for part in digits.test),
        description={"recipe": "<r>", "data": "d", "data_title": "D", "minutes": 0.0},
        ood={"digits:8-9": load_ood("digits:8-9", "digits:0-3")},
        num_samples=2,
    )
    report = add_analysis(report, validation=digits.validation, shift=False)
    return write_page(report, tmp_path_factory.mktemp("page") / "report.html")


@pytest.mark.parametrize(
    "width, media", [(PHONE, "screen"), (DESKTOP, "screen"), (PAPER, "print")]
)
def test_nothing_runs_off_the_page_and_every_image_loads(browser, page, width, media):
    browser.open(page, width=width, media=media)
    assert browser.run_off() == []
    assert browser.broken_images() == [] and browser.evaluate("document.images.length") > 5
    assert browser.complaints == []
    assert browser.evaluate("document.querySelector('h1').textContent") == "<r> on D"


def test_wide_tables_scroll_on_a_phone_and_not_on_paper(browser, page):
    browser.open(page, width=PHONE)
    assert browser.scrolling_tables() > 2
    browser.open(page, width=PAPER, media="print")
    assert browser.scrolling_tables() == 0


def test_a_dark_page_is_dark_and_can_be_read(browser, page):
    def lightness(what):
        script = f"getComputedStyle(document.body).{what}.match(/[0-9]+/g).map(Number)"
        return sum(browser.evaluate(script)[:3]) / (3 * 255)

    for dark in (False, True):
        browser.open(page, dark=dark)
        text, ground = lightness("color"), lightness("backgroundColor")
        assert (text > 0.85 and ground < 0.15) if dark else (text < 0.25 and ground > 0.9)


def test_a_browser_test_sees_what_runs_off_and_what_does_not_load(browser, tmp_path):
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!DOCTYPE html><meta name='viewport' content='width=device-width'><img src='no.png'>"
        "<p style='width: 500px'>wide</p><div style='overflow-x: auto'><table><tr>"
        "<td style='min-width: 500px'>may be wide</td></tr></table></div>"
        "<div style='width: 9px; overflow: hidden'>cutoff</div><script>missing()</script>"
    )
    browser.open(bad, width=PHONE)
    assert [text.split(":")[0] for text in browser.run_off()] == ["p", "div"]
    assert browser.broken_images() == [(tmp_path / "no.png").as_uri()[-80:]]
    assert browser.scrolling_tables() == 1 and len(browser.complaints) == 2
