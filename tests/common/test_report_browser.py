"""The report in a browser: slider, segment switches, viewer, keys, dark colours, nothing asked of a network."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.files import write_image, write_labels
from common.metrics.protocol import Interval, Protocol, Score, write_scores
from common.panels import write_panels
from common.report import build_report
from common.splits import Split
from common.visualize import overlay
from tests.browser import Browser, need_chromium


def write_run(folder: Path, lengths: dict[str, int]) -> Path:
    """A run directory with scores, curves, panels, layers, strips and restarts."""
    rng = np.random.default_rng(0)
    rows, scores = [], []
    y, x = np.mgrid[:120, :180]
    for name, number in lengths.items():
        for t in range(number):
            image = np.stack([x + 3 * t, y + 60, 200 - x // 2], -1).astype(np.uint8)
            truth = ((x - 60 - 4 * t) ** 2 + (y - 60) ** 2 < 900).astype(np.uint8)
            predicted = np.roll(truth, rng.integers(0, 25), axis=1) + 2 * ((x > 140) & (y > 80)).astype(np.uint8)
            for kind, picture in (("Image", image), ("GtInstance", truth), ("Pred", predicted)):
                cell = f"data/{kind}/{name}_{t}.png"
                (write_image if kind == "Image" else write_labels)(folder / cell, picture)
            row = {kind: f"data/{kind}/{name}_{t}.png" for kind in ("Image", "GtInstance", "Pred")}
            rows.append({"Sequence": name, "Sequence_Index": t, **row})
            inside = (predicted > 0) & (truth > 0)
            scores.append(inside.sum() / ((predicted > 0) | (truth > 0)).sum())
    split = Split.from_rows(rows, folder)
    per_frame = pd.DataFrame(rows)[["Sequence", "Sequence_Index"]].assign(j=scores)
    per_frame.to_csv(folder / "per_frame.csv", index=False)

    def pictures_of(row: int) -> dict[str, np.ndarray]:
        return {"prediction": overlay(np.zeros((120, 180, 3), np.uint8), np.asarray(y > row, int))}

    write_panels(split, per_frame, folder / "overlays", pictures_of)
    interval = Interval(0.5512, 0.6649, 0.95, "sequence", 3, 1000, 0)
    write_scores(
        folder / "scores.json", [Score("j_mean_frame", 0.6123, Protocol(), 12, interval=interval, spread=0.01)]
    )
    (folder / "metrics.csv").write_text("step,train/loss\n0,1\n10,0.5\n20,0.4\n")
    (folder / "restarts.csv").write_text("attempt,seed,iteration,action\n0,1,600,restart\n1,2,9000,stop\n")
    (folder / "provenance.json").write_text(json.dumps({"commit": "abc"}))
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_chromium()
    return build_report(write_run(tmp_path_factory.mktemp("run"), {"bear": 4, "cow": 4, "dog": 4}))


@pytest.fixture(scope="module")
def browser(report: Path) -> Iterator[Browser]:
    with Browser(report.parent) as tab:
        yield tab


@pytest.fixture
def page(browser: Browser, report: Path) -> Browser:
    browser.events.clear()
    browser.open(report)
    browser.wait("document.querySelector('figure.layered')?.dataset.painted")
    return browser


PIXELS = """(() => {
  const canvas = document.querySelector("figure.layered canvas[data-side=right]");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return data.filter((_, place) => place % 4 === 3).reduce((sum, alpha) => sum + (alpha > 0), 0);
})()"""


def test_a_click_switches_a_segment_off_and_on(page: Browser, tmp_path: Path) -> None:
    both = page.value(PIXELS)
    page.screenshot(tmp_path / "before.png")
    page.click("figure.layered [data-segment='1']")
    page.wait("document.querySelector('figure.layered').dataset.painted === '2'")
    without = page.value(PIXELS)
    assert 0 < without < both
    page.click("figure.layered [data-segment='1']")
    page.wait("document.querySelector('figure.layered').dataset.painted === '3'")
    assert page.value(PIXELS) == both
    assert page.errors() == []
    assert all(url.startswith("file:") for url in page.requested())


def test_segments_have_the_sizes_of_the_files(page: Browser, report: Path) -> None:
    """What is coloured are the pixels of the label map: the grey values survive the browser."""
    from common.files import read_labels

    caption = page.value("document.querySelector('figure.layered figcaption').textContent")
    name, index = caption.split(",")[0].split()
    labels = read_labels(report.parent / "layers" / name / f"{int(index):05d}.prediction.png")
    assert page.value(PIXELS) == np.count_nonzero(labels)


def test_slider_by_key_and_by_mouse(page: Browser) -> None:
    clip = "document.querySelector('figure.layered canvas[data-side=right]').style.clipPath"
    assert "50%" in page.value(clip)
    page.value("document.querySelector('figure.layered input[type=range]').focus()")
    page.press("ArrowRight", 39)
    page.wait(f"{clip}.includes('51%')")
    page.press("Home", 36)
    page.wait(f"{clip}.includes('0%') && !{clip}.includes('50%')")
    page.click("figure.layered .stage")
    page.wait(f"{clip}.includes('50%')")


def test_ground_truth_can_be_put_left(page: Browser) -> None:
    painted = "document.querySelector('figure.layered canvas[data-side=left]').width"
    page.value("document.querySelector('figure.layered select[data-side=left]').focus()")
    page.value(
        "(select => { select.value = 'ground truth'; select.dispatchEvent(new Event('change', {bubbles: true})); })"
        "(document.querySelector('figure.layered select[data-side=left]'))"
    )
    page.wait(f"{painted} === 180")
    assert page.errors() == []


def test_viewer_by_mouse_and_keys(page: Browser) -> None:
    page.click(".gallery button")
    page.wait("document.getElementById('viewer').open")
    first = page.value("document.querySelector('#viewer img').alt")
    page.press("ArrowRight", 39)
    page.wait(f"document.querySelector('#viewer img').alt !== {json.dumps(first)}")
    page.press("Escape", 27)
    page.wait("!document.getElementById('viewer').open")
    assert page.value("document.activeElement.matches('.gallery button')")


def test_every_control_can_be_reached_by_keyboard(page: Browser) -> None:
    unreachable = (
        "[...document.querySelectorAll('button, input, select, a')].filter((item) => item.tabIndex < 0).length"
    )
    unnamed = (
        "[...document.querySelectorAll('button, input, select')].filter((item) => "
        "!(item.textContent.trim() || item.ariaLabel || item.closest('label')?.textContent.trim())).length"
    )
    assert page.value(unreachable) == 0
    assert page.value(unnamed) == 0


def test_light_and_dark(browser: Browser, report: Path, tmp_path: Path) -> None:
    browser.open(report)
    colour = "getComputedStyle(document.body).backgroundColor"
    light = browser.value(colour)
    browser.dark()
    browser.wait(f"{colour} !== '{light}'")
    red, green, blue = (int(part) for part in browser.value(colour)[4:-1].split(","))
    assert max(red, green, blue) < 60
    browser.screenshot(tmp_path / "dark.png")
    browser.send("Emulation.setEmulatedMedia", features=[])


def test_sections_and_log(page: Browser) -> None:
    text = page.value("document.body.innerText")
    for expected in (
        "0.6123",
        "± 0.01",
        "[0.5512, 0.6649]",
        "95% interval over 3 sequences, 1000 resamples",
        "restart",
        "Clips",
    ):
        assert expected in text, expected
