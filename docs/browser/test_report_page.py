"""A page of `report` in Chromium, as a file: it draws, fits, loads nothing; its legend hides a scheme everywhere."""

import io

import numpy as np
import pytest

pytest.importorskip("playwright")
pytest.importorskip("bokeh")

import checks
from PIL import Image

from r2mae_core import Page, Record, Reporter, RunFolder, write_page

REPORTER = Reporter("r2mae-toy", {}, {"accuracy": "max"}, load=lambda _: "load(" + "folder, " * 12 + ")")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    run = RunFolder(tmp_path_factory.mktemp("runs") / "run", {"seeds": [0, 1]}, command="demo", program="r2mae-toy")
    lines = ["step,metric,value"]
    for level, scheme in enumerate(("mdlm", "r2mae"), start=1):
        for step in (1, 2, 3):
            lines += [
                f"{step},{scheme}/seed0/{metric},{value}"
                for metric, value in (("loss", level / step), ("mask_ratio", level / 4))
            ]
    run.metrics_file.write_text("\n".join(lines))
    names = ("mdlm", "r2mae", "a control with a long name that nothing draws")
    run.write_results([
        Record("t", metric, value, name, 0, 9)
        for value, name in zip((0.2, 0.9, 0.5), names, strict=True)
        for metric in ("accuracy", *(f"a_long_metric_{i}" for i in range(12)))
    ])  # fmt: skip
    return write_page(Page((run.path,)), REPORTER).as_uri()


@pytest.fixture
def page(chromium, address):
    with chromium.new_page(viewport={"width": checks.DESKTOP, "height": 900}) as opened:
        opened.goto(address)
        drawn(opened)
        yield opened


def drawn(page):
    page.wait_for_selector("html[data-drawn=yes]", state="attached")
    page.wait_for_timeout(500)  # the canvas


def blue_in(page, place):
    """Return how many pixels have the colour of the first scheme."""
    picture = np.asarray(Image.open(io.BytesIO(page.locator(place).screenshot())).convert("RGB"), int)
    return int((picture[..., 2] - picture[..., 0] > 80).sum())


@pytest.mark.parametrize("width", [checks.DESKTOP, checks.PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_draws_fits_and_loads_nothing(chromium, address, width, scheme):
    asked = []
    with chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme) as page:
        page.on("request", lambda request: asked.append(request.url))
        found = checks.loading_faults(page, address)
        drawn(page)
        found += checks.width_faults(page, code=False)
        assert blue_in(page, "#chart-0") > 50
        texts = page.evaluate("Bokeh.documents[0].roots()[0].below[0].major_label_text_color")
    assert found == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert texts == ("#57606a" if scheme == "light" else "#9aa5b1")


def test_a_click_in_the_legend_hides_the_scheme_everywhere(page):
    assert page.locator(".chip").all_inner_texts() == ["mdlm", "r2mae"]
    places = [f"#chart-{i}" for i in range(page.locator(".place").count())]
    assert len(places) == 2
    assert all(blue_in(page, place) for place in places)
    page.locator(".chip", has_text="mdlm").click()
    page.wait_for_timeout(300)
    assert [blue_in(page, place) for place in places] == [0, 0]
    assert page.locator("tr.hidden").count() == 2  # of the evaluation, and of the cost
    page.locator(".chip", has_text="mdlm").click()
    page.wait_for_timeout(300)
    assert all(blue_in(page, place) for place in places)
    assert page.locator("tr.hidden").count() == 0


def test_pointing_at_a_point_tells_its_numbers(page):
    # The last step of r2mae, whose loss of 2 / 3 is halfway up the chart.
    box = page.evaluate("""() => {
        const view = Object.values(Bokeh.index.roots ?? Bokeh.index)[0];
        const frame = view.frame, place = view.el.getBoundingClientRect();
        return {x: place.x + frame.x_scale.compute(3), y: place.y + frame.y_scale.compute(2 / 3)};
    }""")
    page.mouse.move(box["x"] - 40, box["y"])
    page.mouse.move(box["x"], box["y"], steps=5)
    page.wait_for_timeout(300)
    assert page.get_by_text("r2mae, seed 0").count() == 1


def test_a_table_is_sorted_by_a_click(page):
    rows = page.locator("#evaluation ~ .scroll tbody").first.locator("tr td:first-child")
    before = rows.all_inner_texts()
    page.locator("th button", has_text="accuracy").click()
    assert [text.split()[0] for text in rows.all_inner_texts()] == ["r2mae", "a", "mdlm"]
    page.locator("th button", has_text="accuracy").click()
    assert [text.split()[0] for text in rows.all_inner_texts()] == ["mdlm", "a", "r2mae"]
    assert sorted(before) == sorted(rows.all_inner_texts())
