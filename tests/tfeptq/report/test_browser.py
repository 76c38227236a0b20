"""The page in a real browser: every section is drawn, nothing complains, tables sort."""

from __future__ import annotations

import shutil

import pytest

import tfeptq
import tflite_export
from tests.tfeptq import small_models

pytest.importorskip("jinja2", reason="extra 'report' is missing")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")
WIDTHS = {
    "one width": ({"weight_bits": 4, "steps": 4}, {"training", "weights", "activations", "graph"}),
    "candidates": (
        {
            "weight_bits": (2, 4, 8),
            "rounding": "nearest",
            "sensitivity": "label_free",
            "first_last_bits": None,
            "budget": tfeptq.Budget(weight_bytes=850),
        },
        {"frontier", "weights", "activations", "graph"},
    ),
}


@pytest.fixture(scope="module", params=WIDTHS)
def page(request, tmp_path_factory):
    """A report, opened; what is drawn in it; what the browser had to say."""
    settings, drawn = WIDTHS[request.param]
    config = tfeptq.QuantizationConfig(samples=24, **settings)
    images = small_models.images(32)
    quantized = tfeptq.quantize(small_models.residual_network(), images, config, verbose=0)
    folder = tmp_path_factory.mktemp("page")
    result = tflite_export.export(quantized, folder / "m.tflite")
    path = tfeptq.write_report(folder / "r.html", quantized, result)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1200, "height": 900}, offline=True)
        said: list[str] = []
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.goto(path.as_uri())
        opened.wait_for_selector("body[data-drawn]", timeout=120_000)
        yield opened, drawn, said
        browser.close()


def test_every_figure_is_drawn_and_nothing_complains(page):
    opened, drawn, said = page
    places = opened.query_selector_all("div.figure")
    assert {place.get_attribute("id") for place in places} == drawn
    for place in places:
        assert place.query_selector("svg.main-svg") is not None
        assert place.bounding_box()["height"] > 300
    assert said == []


def test_layers_sort_by_the_column_that_is_clicked(page):
    opened, _, _ = page

    def column(index):
        rows = opened.query_selector_all("#layers tbody tr")
        return [row.query_selector_all("td")[index].inner_text() for row in rows]

    headings = [cell.inner_text() for cell in opened.query_selector_all("#layers th")]
    lost = headings.index("lost here dB")
    values = list(map(float, filter(None, column(lost))))
    assert values == sorted(values, reverse=True)
    size = headings.index("weight bytes")
    for rises in (True, False):
        opened.query_selector_all("#layers th")[size].click()
        cells = column(size)
        numbers = [int(cell.replace(",", "")) for cell in cells if cell]
        assert numbers == sorted(numbers, reverse=not rises)
        assert not any(cells[len(numbers) :])
    opened.query_selector_all("#layers th")[0].click()
    assert column(0) == sorted(column(0))


def test_the_page_is_no_wider_than_the_window(page):
    opened, _, _ = page
    assert opened.evaluate("document.documentElement.scrollWidth") <= 1200
