"""Reports in a real browser: every control is used, and what is shown are the numbers of the Python API.

They need Debian's chromium and chromium-driver; without them they are skipped, and fail where CI is set.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import probe
from probe.attribution import CASES, PIECES
from probe.plots.colours import CASE_LABELS, TERM_LABELS
from probe.reporting.single import telling_neurons
from tests.editing import editing
from tests.synthetic import write_recording
from tests.test_report import HOSTILE

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1280,900",
)  # fmt: skip
PANELS = ("cases", "attribution", "phi", "offsets", "residual", "figures", "rates", "raster", "trace", "maps")
Number = float | None


class Browser:
    """A browser with a report in it, used as a reader does."""

    def __init__(self, downloads: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in FLAGS:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        self.downloads = downloads
        self.cdp("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def cdp(self, method: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(method, arguments)

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def open(self, file: Path, address: str = "", width: int = 1280, height: int = 900, **media: str) -> None:
        """Load a page anew, in a window of that size; `media` are features such as prefers_color_scheme."""
        self.cdp(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self.cdp("Emulation.setEmulatedMedia", media="", features=features)
        self.driver.get("about:blank")
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(f"file://{file}{address}")
        assert self.js("return document.documentElement.dataset.ready") == "true"

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return str(self.js("return document.querySelector(arguments[0]).textContent", selector))

    def press(self, *keys: str) -> None:
        """Keys, wherever the focus is."""
        for key in keys:
            webdriver.ActionChains(self.driver).send_keys(key).perform()

    def tab(self, back: bool = False) -> None:
        """To the next thing that takes the focus, or the one before."""
        chain = webdriver.ActionChains(self.driver)
        (
            chain.key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT) if back else chain.send_keys(Keys.TAB)
        ).perform()

    def layer(self, index: int) -> None:
        Select(self.find("#row")).select_by_index(index)

    def at(self, place: int) -> None:
        """Move the slider to a place of the grid, by keyboard."""
        slider = self.find("#timestep")
        slider.send_keys(Keys.HOME, *[Keys.ARROW_RIGHT] * place)

    def table(self, selector: str) -> list[list[str]]:
        """Cells of a table's body: what they hold exactly where they keep it, else their text."""
        found: list[list[str]] = self.js(
            "return [...document.querySelector(arguments[0]).tBodies[0].rows].map((row) => "
            "[...row.cells].map((cell) => cell.dataset.value ?? cell.textContent))",
            selector,
        )
        return found

    def click(self, element: WebElement) -> None:
        """In the middle of the window, clear of the controls at its top."""
        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def hover(self, element: WebElement, across: float, down: float) -> str:
        """What a canvas says of the place at that share of its width and height."""
        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        size = element.size
        x, y = round((across - 0.5) * size["width"]), round((down - 0.5) * size["height"])
        webdriver.ActionChains(self.driver).move_to_element_with_offset(element, x, y).perform()
        return str(element.get_attribute("title"))

    def focused(self) -> str:
        """What has the focus: its id, or its class, element and name."""
        said = "const e = document.activeElement; return [e.id, e.tagName, e.className, e.getAttribute('aria-label')]"
        found: list[str | None] = self.js(said)
        return found[0] or " ".join(one or "" for one in found[1:])

    def errors(self) -> list[str]:
        return [str(line["message"]) for line in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that were asked for, less those that the page's policy stopped."""
        found: dict[str, str] = {}
        for line in self.driver.get_log("performance"):
            message = json.loads(line["message"])["message"]
            parameters = message["params"]
            if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                found[parameters["requestId"]] = str(parameters.get("request", parameters)["url"])
            elif message["method"] == "Network.loadingFailed" and parameters.get("blockedReason") == "csp":
                found.pop(parameters["requestId"], None)
        return list(found.values())

    def runs_over(self) -> bool:
        """The page is wider than the window."""
        return bool(self.js("return document.documentElement.scrollWidth > document.documentElement.clientWidth"))

    def downloaded(self, name: str) -> str:
        """A file that was saved, and is removed."""
        file = self.downloads / name
        for _ in range(100):
            if file.is_file():
                break
            time.sleep(0.02)
        text = file.read_text(encoding="utf-8")
        file.unlink()
        return text


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None or DRIVER is None:
        lacking = "no chromium and chromedriver on the PATH: apt-get install chromium chromium-driver"
        if os.environ.get("CI"):
            pytest.fail(lacking)
        pytest.skip(lacking)
    browser = Browser(tmp_path_factory.mktemp("downloads"))
    yield browser
    browser.driver.quit()


@pytest.fixture
def browser(started: Browser) -> Iterator[Browser]:
    """After each test nothing has been complained of, and nothing but the page itself was asked for."""
    yield started
    assert started.errors() == []
    assert [url for url in started.requests() if not url.startswith(("file:", "blob:file:", "about:", "data:"))] == []


@pytest.fixture(scope="session")
def reports(recordings: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The report of recordings, made once for each."""
    folder = tmp_path_factory.mktemp("reports")
    made: dict[tuple[Path, ...], Path] = {}

    def make(*files: Path) -> Path:
        if files not in made:
            made[files] = probe.report(list(files), folder / f"{len(made)}.html")
        return made[files]

    return make


@pytest.fixture
def report(reports: Callable[..., Path], full: Path) -> Path:
    return reports(full)


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A recording of random neurons, made once for each name."""
    folder = tmp_path_factory.mktemp("synthetic")

    def make(name: str, layers: list[str], **options: Any) -> Path:
        file = folder / f"{name}.h5"
        return file if file.exists() else write_recording(file, layers, **options)

    return make


def numbers(cells: list[list[str]]) -> dict[str, list[Number]]:
    """Rows by their heads."""
    return {row[0]: [float(one) if one else None for one in row[1:]] for row in cells}


def near(one: Any) -> Any:
    """Numbers that went through JSON and JavaScript, and came back."""
    return None if one is None else pytest.approx(one, rel=1e-12, abs=1e-15)


# ---------------------------------------------------------------------------------------------- what is shown


@pytest.mark.parametrize(("index", "t"), [(0, 8), (3, 8), (3, 1), (5, 4)])
def test_the_tables_of_a_layer_are_those_of_unevenness(
    browser: Browser, report: Path, full: Path, index: int, t: int
) -> None:
    browser.open(report)
    browser.layer(index)
    browser.at(t - 1)
    row = probe.unevenness(full, index, timestep=t)["layers"][0]
    count = row["count"]
    local = row["local_cases"]
    assert numbers(browser.table("#cases table")) == {
        CASE_LABELS[name]: [
            row["cases"][name],
            near(row["cases"][name] / count),
            local[name],
            near(local[name] / count),
        ]
        for name in CASES
    }
    pieces = row["attribution"]
    shown = numbers(browser.table("#attribution table"))
    assert shown.pop("total") == [near(pieces["total"]["mean"]), near(pieces["total"]["mean_square"]), None]
    assert shown == {
        TERM_LABELS[name]: [near(pieces[name][key]) for key in ("mean", "mean_square", "share")] for name in PIECES
    }
    assert numbers(browser.table("#offsets table")) == {
        key: [number, near(number / count)] for key, number in row["offset_spikes"].items()
    }
    assert [cells[1] for cells in browser.table("#residual table")] == [str(one) for one in row["residual"].values()]
    figures = numbers(browser.table("#figures table"))
    assert figures["RMSE (θ)"][0] == near(row["figures"]["rmse"])
    assert figures["bias (θ)"] == [
        near(row["figures"]["bias"]), *[near(row["figures"]["interval"]["bias"][end]) for end in ("low", "high")]
    ]  # fmt: skip
    assert f"t = {t} of T = 8" in browser.text("#timestep-told")


def test_the_pictures_of_a_layer_have_its_numbers(browser: Browser, report: Path, full: Path) -> None:
    """Marks are measured: widths of the shares, heights of the bars, a rectangle for each pair of a and n."""
    browser.open(report, "#layer=3&t=6")
    row = probe.unevenness(full, 3, timestep=6)["layers"][0]
    widths = browser.js(
        "return [...document.querySelector('#cases svg.shares').children].map((e) => +e.getAttribute('width'))"
    )
    assert widths == [near(100 * row["cases"][name] / row["count"]) for name in CASES]
    with probe.open(full) as recording:
        layer = recording.layers[3]
        k = np.rint(layer.ann_output / layer.threshold * 8).astype(int)
        n = layer.snn_spikes[:, :6].sum(1, dtype=int)
    pairs, number = np.unique(np.stack([k.ravel(), n.ravel()], 1), axis=0, return_counts=True)
    said = browser.js("return [...document.querySelectorAll('#phi svg.chart rect title')].map((e) => e.textContent)")
    expected = {
        f"a = {float(f'{a / 8:.4g}'):g} θ, n = {count}: {seen:,} neurons"
        for (a, count), seen in zip(pairs, number, strict=True)
    }
    assert set(said) == expected
    heights = browser.js(
        "return [...document.querySelectorAll('#offsets svg.chart rect')].map((e) => +e.getAttribute('height'))"
    )
    shares = np.array([row["offset_spikes"][key] for key in sorted(row["offset_spikes"], key=int)]) / row["count"]
    np.testing.assert_allclose(np.array(heights) / max(heights), shares / max(shares), atol=1e-9)
    label = browser.find("#cases svg.shares").get_attribute("aria-label")
    assert f"{CASE_LABELS['positive_equal']}: {100 * row['cases']['positive_equal'] / row['count']:.1f} %" in label


def test_the_map_has_a_column_a_layer_as_high_as_its_error(browser: Browser, report: Path, full: Path) -> None:
    browser.open(report)
    for place, t in ((7, 8), (0, 1)):
        browser.at(place)
        columns = browser.js(
            "return [...document.querySelectorAll('.column')].map((e) => [...e.querySelectorAll('rect')]"
            ".map((r) => [+r.getAttribute('height'), r.getAttribute('fill')]))"
        )
        rows = probe.unevenness(full, timestep=t)["layers"]
        squares = [row["attribution"]["total"]["mean_square"] for row in rows]
        pieces = [
            [(row["attribution"][name]["share"] or 0) * square for name in PIECES]
            for row, square in zip(rows, squares, strict=True)
        ]
        scale = max(sum(max(0.0, one) for one in layer) for layer in pieces) - min(
            0.0, *(sum(min(0.0, one) for one in layer) for layer in pieces)
        )
        for shown, layer in zip(columns, pieces, strict=True):
            np.testing.assert_allclose([height * scale for height, _ in shown], np.abs(layer), rtol=1e-9, atol=1e-15)
    said = browser.all(".column")[3].get_attribute("aria-label")
    assert said.startswith(f"layer 3 block4.act: mean square {squares[3]:.4g} θ²")


def test_accuracy_over_t(browser: Browser, report: Path, full: Path) -> None:
    browser.open(report)
    told = probe.accuracy(full)
    shown = numbers(browser.table("#accuracy table"))
    assert [row[0] for row in shown.values()] == [near(one) for one in told["snn"].values()]
    assert f"ANN {100 * told['ann']:.1f} %" in browser.find("#accuracy svg.chart").get_attribute("aria-label")


def test_firing_rates(browser: Browser, report: Path, full: Path) -> None:
    browser.open(report, "#layer=2&t=4")
    with probe.open(full) as recording:
        spikes = recording.layers[2].snn_spikes
        every = [layer.snn_spikes.reshape(40, 8, -1).mean((0, 2)) for layer in recording.layers]
    shown = numbers(browser.table("#rates table"))
    assert [row[0] for row in shown.values()] == [near(one) for one in every[2]]
    canvas = browser.find("#rates canvas")
    rows, columns = int(str(canvas.get_attribute("height"))), int(str(canvas.get_attribute("width")))
    rate = spikes[:, :4].reshape(40, 4, spikes.shape[2], -1).mean((0, 1))
    assert rate.shape == (rows, columns)
    for row, column in ((0, 0), (rows - 1, columns - 1), (7, 3)):
        said = browser.hover(canvas, (column + 0.5) / columns, (row + 0.5) / rows)
        size = int(spikes.shape[-1])
        name, value = re.fullmatch(r"neuron ([\d,]+): ([\d.]+)", said).groups()  # type: ignore[union-attr]
        assert name == f"{row},{column // size},{column % size}"
        assert float(value) == pytest.approx(rate[row, column], abs=0.0035)
    browser.click(browser.find("#map-picture > details > summary"))
    cells = browser.table("#map-picture details details table")
    assert [[float(one) for one in row[1:]] for row in cells] == [[near(one) for one in rates] for rates in every]


def test_feature_maps_show_a_phi_and_their_difference(browser: Browser, report: Path, full: Path) -> None:
    browser.open(report, "#layer=1&t=5")
    sample = int(browser.text("#sample option:checked").split(":")[0])
    heads = [int(one.text) for one in browser.all("#maps thead th")[1:]]
    with probe.open(full) as recording:
        layer = recording.layers[1]
        a = layer.ann_output[sample] / layer.threshold.reshape(-1)[0]
        phi = layer.snn_spikes[sample, :5].sum(0, dtype=int) / 5
    assert len(heads) == 8
    rows = browser.all("#maps tbody tr")
    assert [row.find_element(By.TAG_NAME, "th").text for row in rows] == ["a", "φ(t)", "φ(t) − a"]
    for row, values in zip(rows, (a, phi, phi - a), strict=True):
        canvases = row.find_elements(By.TAG_NAME, "canvas")
        assert len(canvases) == 8
        for place in (0, 5):
            image, size = values[heads[place]], a.shape[-1]
            for down, across in ((0, 0), (size - 1, 2)):
                said = browser.hover(canvases[place], (across + 0.5) / size, (down + 0.5) / size)
                name, value = said.removesuffix(" θ").split(": ")
                assert name == f"{heads[place]},{down},{across}"
                assert float(value.replace("−", "-")) == pytest.approx(image[down, across], abs=1e-4)


def test_a_neuron_is_followed_as_probe_trace_follows_it(browser: Browser, report: Path, full: Path) -> None:
    browser.open(report, "#layer=4")
    Select(browser.find("#sample")).select_by_index(1)
    sample = int(browser.text("#sample option:checked").split(":")[0])
    with probe.open(full) as recording:
        neurons = telling_neurons(recording.layers[4], sample, 48)
        places = [",".join(map(str, np.unravel_index(one, recording.layers[4].shape))) for one in neurons]
    options = [one.text.split(":")[0] for one in browser.all("#neuron option")]
    assert options == places
    for place in (0, 7):
        Select(browser.find("#neuron")).select_by_index(place)
        expected = probe.trace(full, 4, sample, neurons[place])
        shown = [[float(one) for one in row] for row in browser.table("#trace table")]
        columns = np.array(shown).T
        assert columns[0].tolist() == list(range(1, 9))
        assert np.array_equal(columns[1].astype(np.float32), expected.x)
        assert np.array_equal(columns[2].astype(np.float32), expected.potential)
        assert columns[3].tolist() == expected.spike.tolist()
        assert columns[4].tolist() == expected.count.tolist()
        assert columns[5] == near(expected.snn_output)
        assert f"Neuron {places[place]}, sample {sample}" in browser.text("#trace")
        assert len(browser.all("#trace circle")) == expected.spike.sum()
        assert places[place] in browser.text("#raster .row.current title")


def test_the_raster_draws_every_spike_and_a_click_chooses_its_neuron(
    browser: Browser, report: Path, full: Path
) -> None:
    browser.open(report, "#layer=2")
    sample = int(browser.text("#sample option:checked").split(":")[0])
    with probe.open(full) as recording:
        spikes = recording.layers[2].snn_spikes[sample].reshape(8, -1)
        neurons = telling_neurons(recording.layers[2], sample, 48)
    fired = {row[0]: [int(t) for t in row[1].split()] for row in browser.table("#raster table")}
    assert list(fired.values()) == [(np.flatnonzero(spikes[:, one]) + 1).tolist() for one in neurons]
    assert len(browser.all("#raster .row line")) == spikes[:, neurons].sum()
    row = browser.all("#raster .row")[11]
    browser.js("arguments[0].scrollIntoView({block: 'center'})", row)
    row.find_element(By.CSS_SELECTOR, ".back").click()
    place = list(fired)[11]
    assert f"Neuron {place}, " in browser.text("#trace")
    assert browser.text("#neuron option:checked").startswith(f"{place}: n = {spikes[:, neurons[11]].sum()}")


# ------------------------------------------------------------------------------------------------- the controls


def test_every_way_from_layer_to_layer(browser: Browser, report: Path) -> None:
    browser.open(report)

    def here() -> int:
        shown = int(re.match(r"Layer (\d+): ", browser.text("#layer-title")).group(1))  # type: ignore[union-attr]
        assert browser.find("#row").get_attribute("value") == str(shown)
        assert [one.get_attribute("aria-current") for one in browser.all(".column")].index("true") == shown
        assert f"layer={shown}&" in browser.driver.current_url
        assert browser.text("#status").startswith(f"Layer {shown} ")
        return shown

    browser.find("#before").click()
    assert browser.text("#layer-title").startswith("Layer 0")
    browser.find("#after").click()
    assert here() == 1
    browser.all(".column")[4].click()
    assert here() == 4
    browser.press(Keys.ARROW_RIGHT)
    assert here() == 5
    browser.find("#after").click()
    assert here() == 5
    browser.find("#before").click()
    assert here() == 4
    Select(browser.find("#row")).select_by_visible_text("2 block3.act")
    assert here() == 2
    browser.js("document.activeElement.blur()")
    browser.press(Keys.ARROW_LEFT)
    assert here() == 1
    browser.click(browser.find("#map-picture > details > summary"))
    canvas = browser.find("#map-picture details canvas")
    assert browser.hover(canvas, 2.5 / 8, 3.5 / 6).startswith("layer 3 block4.act, t = 3: ")
    webdriver.ActionChains(browser.driver).click().perform()
    assert here() == 3


def test_the_address_is_restored_and_links_of_findings_lead_to_their_layer(
    browser: Browser, report: Path, full: Path
) -> None:
    browser.open(report)
    browser.layer(3)
    browser.at(2)
    Select(browser.find("#sample")).select_by_index(1)
    Select(browser.find("#neuron")).select_by_index(5)
    before = [browser.text(f"#{one}") for one in (*PANELS, "layer-title", "timestep-told")]
    assert browser.driver.current_url.endswith("#layer=3&t=3&sample=1&neuron=5")
    browser.driver.refresh()
    assert [browser.text(f"#{one}") for one in (*PANELS, "layer-title", "timestep-told")] == before
    finding = probe.diagnose(full)["findings"][0]
    for _ in range(2):
        link = browser.find(".finding a.layer")
        link.click()
        assert browser.text("#layer-title").startswith(f"Layer {finding['index']}: {finding['layer']}")
        assert browser.focused() == "layer-title"
        browser.js("window.scrollTo(0, 0)")
    for nonsense in ("#layer=99&t=1000&sample=77&neuron=-3", "#%%%", "#layer=__proto__"):
        browser.open(report, nonsense)
        assert browser.text("#layer-title").startswith("Layer 0: ")
    browser.open(report, "#layer=1&neuron=999999")
    assert "Neuron " in browser.text("#trace")


def test_what_was_opened_stays_open_and_every_table_can_be_opened(browser: Browser, report: Path) -> None:
    browser.open(report)
    summaries = [one for one in browser.all("summary") if one.is_displayed()]
    assert len(summaries) > 12
    for summary in summaries:
        browser.click(summary)
    inner = [one for one in browser.all("details:not([open]) > summary") if one.is_displayed()]
    for summary in inner:
        browser.click(summary)
    closed = browser.js("return document.querySelectorAll('details:not([open])').length")
    assert closed == 0
    assert all(one.is_displayed() for one in browser.all("table"))
    browser.at(0)
    browser.layer(3)
    Select(browser.find("#neuron")).select_by_index(2)
    assert browser.js("return document.querySelectorAll('details:not([open])').length") == 0
    assert not browser.runs_over()


def test_tables_are_saved_and_copied_with_exact_numbers(browser: Browser, report: Path, full: Path) -> None:
    browser.open(report, "#layer=3&t=4")
    row = probe.unevenness(full, 3, timestep=4)["layers"][0]
    for summary in browser.all("#cases summary, #attribution summary, #map details:last-of-type > summary"):
        browser.js("arguments[0].click()", summary)
    copy, save = browser.all("#attribution .buttons button")
    browser.click(save)
    rows = list(csv.reader(io.StringIO(browser.downloaded("layer3-t4-attribution.csv"))))
    assert rows[0] == ["piece", "mean", "mean square", "share"]
    total = row["attribution"]["total"]
    assert [float(one) for one in rows[1][1:3]] == [total["mean"], total["mean_square"]]
    for name, cells in zip(PIECES, rows[2:], strict=True):
        piece = row["attribution"][name]
        assert cells[0] == TERM_LABELS[name]
        assert [float(one) for one in cells[1:]] == [piece["mean"], piece["mean_square"], piece["share"]]
    browser.click(copy)
    for _ in range(100):
        if copy.text == "Copied":
            break
        time.sleep(0.02)
    # Pasted, as a reader would.
    browser.js(
        "const area = document.createElement('textarea'); area.id = 'pasted'; document.body.append(area); area.focus()"
    )
    webdriver.ActionChains(browser.driver).key_down(Keys.CONTROL).send_keys("v").key_up(Keys.CONTROL).perform()
    pasted = browser.js("return document.getElementById('pasted').value")
    assert [line.split("\t") for line in pasted.split("\n")] == rows
    browser.click(browser.find("#cases .buttons button:last-child"))
    cases = list(csv.reader(io.StringIO(browser.downloaded("layer3-t4-cases.csv"))))[1:]
    assert [int(cells[1]) for cells in cases] == list(row["cases"].values())
    browser.js("document.querySelector('#map > details .buttons button:last-child').click()")
    layers = list(csv.DictReader(io.StringIO(browser.downloaded("layers.csv"))))
    expected = probe.unevenness(full)["layers"]
    assert [float(one["mean square"]) for one in layers] == [
        one["attribution"]["total"]["mean_square"] for one in expected
    ]
    assert [float(one["firing rate"]) for one in layers] == [one["firing_rate"] for one in expected]
    browser.js("document.querySelector('#accuracy .buttons button:last-child').click()")
    accuracy = list(csv.DictReader(io.StringIO(browser.downloaded("accuracy.csv"))))
    assert [float(one["SNN"]) for one in accuracy] == list(probe.accuracy(full)["snn"].values())


# ------------------------------------------------------------------------------------- by keyboard and by ear


def test_the_keyboard_reaches_all_and_is_held_by_nothing(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.js("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    wanted = browser.js(
        "return [...document.querySelectorAll('a, button, select, input, summary, [tabindex]')]"
        ".filter((e) => e.tabIndex >= 0 && e.getClientRects().length).length"
    )
    look = (
        "const e = document.activeElement; const r = e.getBoundingClientRect(); const s = getComputedStyle(e);"
        "const bar = document.getElementById('controls').getBoundingClientRect();"
        "const under = !e.closest('#controls') && bar.top <= 0 && r.bottom < bar.bottom;"
        "const outline = s.outlineStyle === 'none' ? 0 : parseFloat(s.outlineWidth);"
        "if (e !== document.body) e.classList.add('reached');"
        "return [e.tagName, outline, under || r.bottom < 0 || r.top > innerHeight]"
    )
    hidden = []
    for back in (False, True):
        for _ in range(wanted + 1):
            browser.tab(back)
            where, outline, covered = browser.js(look)
            if where == "BODY":
                break
            if outline < 2 or covered:
                hidden.append((browser.focused(), outline, covered))
        # Were it held anywhere, some would be missing.
        count = "const all = [...document.querySelectorAll('.reached')];"
        count += "all.forEach((e) => e.classList.remove('reached')); return all.length"
        assert browser.js(count) == wanted
    assert hidden == []
    browser.js("document.activeElement.blur(); window.scrollTo(0, 0); document.querySelector('a').focus()")
    browser.press(Keys.ENTER)
    assert browser.focused() == "layer-title", "the link skips to the layer"


def test_what_has_the_focus_does_not_lie_under_the_controls(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.js(
        "const one = document.querySelector('#cases summary'); document.querySelector('#attribution summary').focus();"
        "window.scrollBy(0, one.getBoundingClientRect().top - 8)"
    )
    browser.tab(back=True)
    top, bar = browser.js(
        "return [document.activeElement, document.getElementById('controls')].map((e) => e.getBoundingClientRect())"
        ".map((r, i) => (i ? r.bottom : r.top))"
    )
    assert browser.js("return document.activeElement.matches('#cases summary')")
    assert top >= bar


def test_the_focus_stays_where_it_was_when_the_page_changes(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.js("document.querySelector('.column[aria-current]').focus()")
    browser.press(*[Keys.ARROW_RIGHT] * 3)
    assert browser.focused().startswith("BUTTON column layer 3 ")
    for selector in (
        "#after",
        "#timestep",
        "#row",
        "#sample",
        "#neuron",
        "#cases summary",
        "#map-picture details summary",
    ):
        browser.js("document.querySelector(arguments[0]).focus()", selector)
        here = browser.js("window.was = document.activeElement; return document.activeElement.tagName")
        assert here != "BODY"
        browser.press(
            Keys.ENTER if selector == "#after" else Keys.ARROW_LEFT if "summary" in selector else Keys.ARROW_DOWN
        )
        assert browser.js("return document.activeElement.tagName") == here, selector
        assert browser.js("return document.activeElement.matches(arguments[0])", selector), selector
    # At either end the buttons do nothing, and keep the focus.
    browser.layer(0)
    browser.js("document.getElementById('before').focus()")
    browser.press(Keys.ENTER)
    assert browser.focused() == "before"
    assert browser.find("#before").get_attribute("aria-disabled") == "true"


def test_the_focus_is_not_lost_with_the_picture_that_had_it(
    browser: Browser, reports: Callable[..., Path], recordings: Callable[..., Path]
) -> None:
    """In layer 3 the first recording has a table, in layer 0 that is not there it has a reason."""
    browser.open(reports(recordings(layers=["3"]), recordings()), "#layer=3")
    browser.js("document.querySelector('#cases .side summary').focus()")
    browser.press(Keys.ARROW_RIGHT)
    assert browser.js("return document.activeElement.tagName") in ("SUMMARY", "SELECT")


def test_tables_and_maps_stay_scrolled(browser: Browser, report: Path) -> None:
    browser.open(report, "#layer=1", width=390)
    browser.js("document.querySelector('#maps .scroll').scrollLeft = 60")
    assert browser.js("return document.querySelector('#maps .scroll').scrollLeft") > 0
    browser.at(3)
    assert browser.js("return document.querySelector('#maps .scroll').scrollLeft") > 0


def test_everything_has_a_name_and_headings_are_in_order(browser: Browser, report: Path) -> None:
    browser.open(report, "#layer=3")
    browser.js("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    nodes = browser.cdp("Accessibility.getFullAXTree")["nodes"]
    roles: dict[str, int] = {}
    for node in nodes:
        if node.get("ignored"):
            continue
        role, name = node["role"]["value"], node.get("name", {}).get("value", "")
        roles[role] = roles.get(role, 0) + 1
        if role in (
            "button",
            "link",
            "combobox",
            "slider",
            "img",
            "image",
            "canvas",
            "Canvas",
            "region",
            "figure",
            "table",
            "group",
            "DisclosureTriangle",
        ):
            # The sign on a button is no name.
            assert re.search(r"\w", name) or role in ("group", "table"), node
    levels = browser.js("return [...document.querySelectorAll('h1, h2, h3, h4')].map((one) => +one.tagName[1])")
    assert len(levels) == roles["heading"]
    assert levels[0] == 1, levels
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert roles["main"] == 1
    assert roles["status"] == 1
    assert roles["figure"] == len(PANELS)
    # Chromium counts the thumb of the slider as another.
    sliders = [node for node in nodes if node["role"]["value"] == "slider" and not node.get("ignored")]
    assert {node["name"]["value"] for node in sliders} == {"Timestep"}
    assert browser.find("#timestep").get_attribute("aria-valuetext") == "t = 8 of T = 8"


def test_changes_are_announced(browser: Browser, report: Path, full: Path) -> None:
    browser.open(report)
    browser.layer(4)
    browser.at(3)
    row = probe.unevenness(full, 4, timestep=4)["layers"][0]["attribution"]
    said = browser.text("#status")
    assert said.startswith(f"Layer 4 block5.act, t = 4 of T = 8, mean square {row['total']['mean_square']:.4g} θ². ")
    for name in PIECES:
        if abs(row[name]["share"]) >= 0.005:
            assert f"{TERM_LABELS[name]} {100 * row[name]['share']:.0f} %".replace("-", "−") in said.replace("-", "−")
    browser.js("document.querySelector('#figures .buttons button').click()")
    time.sleep(0.1)
    assert browser.text("#status").startswith("Copied: φ against a in layer 4")


# ------------------------------------------------------------------------------------------------------ safety


def test_nothing_else_runs_or_is_loaded(started: Browser, report: Path, tmp_path: Path) -> None:
    """What somebody puts into the file is stopped by its policy: scripts, handlers, pictures, styles, requests."""
    text = report.read_text(encoding="utf-8")
    injected = (
        '<script>window.hacked = 1</script><img src="x.png" onerror="window.hacked = 2">'
        '<img src="https://example.org/x.png"><style>body { display: none }</style>'
        '<p style="position: fixed" id="styled" onclick="window.hacked = 3">x</p>'
        '<a id="link" href="javascript:window.hacked=4">y</a>'
        '<iframe src="data:text/html,x"></iframe><script src="other.js"></script>'
    )
    (tmp_path / "other.js").write_text("window.hacked = 5")
    (tmp_path / "x.png").write_bytes(
        base64.b64decode(
            "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
        )
    )
    file = tmp_path / "injected.html"
    file.write_text(text.replace("<main>", "<main>" + injected), encoding="utf-8")
    started.open(file)
    started.js("document.getElementById('styled').click(); document.getElementById('link').click()")
    reached = started.driver.execute_async_script(
        "const done = arguments[0]; fetch('https://example.org/').then(() => done('yes'), () => done('no'))"
    )
    assert reached == "no"
    assert started.js("return window.hacked") is None
    assert started.js("return [...document.images].map((one) => one.naturalWidth)") == [0, 0]
    assert started.js("return getComputedStyle(document.body).display") != "none"
    assert started.js("return getComputedStyle(document.getElementById('styled')).position") == "static"
    complaints = started.errors()
    for directive in ("script-src", "img-src", "style-src", "connect-src", "default-src"):
        assert any(directive in one for one in complaints), directive
    assert [url for url in started.requests() if "example.org" in url or "other.js" in url or "x.png" in url] == []


def test_hostile_names_are_text(browser: Browser, full: Path, tmp_path: Path) -> None:
    path = tmp_path / "<b>&name;\u202e.h5"
    shutil.copy(full, path)
    with editing(path) as file:
        for i, name in enumerate(HOSTILE[:6]):
            file[f"layers/{i}"].attrs["name"] = name
        file.attrs["model"], file.attrs["data"], file.attrs["method"] = HOSTILE[0], HOSTILE[4], HOSTILE[3]
    for width in (1280, 390):
        browser.open(probe.report(path, tmp_path / "report.html"), width=width)
        shown = [name if name.isprintable() else probe.printable.printable(name) for name in HOSTILE[:6]]
        for i, name in enumerate(shown):
            browser.layer(i)
            assert browser.text("#layer-title") == f"Layer {i}: {name}, at t = 8"
            assert browser.all(".column")[i].get_attribute("title").startswith(f"layer {i} {name}: ")
            assert not browser.runs_over(), (width, i)
        assert "&name;\\u202e.h5" in browser.text("h1")
        browser.js("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert not browser.runs_over()
        assert browser.js("return window.hacked ?? document.images.length") == 0
        assert "49" not in browser.text("#layer-title")
        assert HOSTILE[0] in browser.text(".lead")
    browser.js("document.querySelector('#map > details .buttons button:last-child').click()")
    names = [row["name"] for row in csv.DictReader(io.StringIO(browser.downloaded("layers.csv")))]
    # A spreadsheet would compute the last one.
    assert names == [*shown[:5], "'=1+1"]


# ------------------------------------------------------------------------------------- other recordings, and two


def test_two_recordings_side_by_side(
    browser: Browser, reports: Callable[..., Path], full: Path, recordings: Callable[..., Path]
) -> None:
    other = recordings(neuron="srp", timesteps=16)
    browser.open(reports(full, other), "#layer=3&t=4")
    sides = [probe.unevenness(one, 3, timestep=4)["layers"][0] for one in (full, other)]
    for place, row in enumerate(sides, 1):
        cells = numbers(browser.table(f"#cases .side:nth-child({place}) table"))
        assert [cells[CASE_LABELS[name]][0] for name in CASES] == [row["cases"][name] for name in CASES]
    assert [one.text for one in browser.all("#cases .label") if one.text[1:2] == ":"] == [
        f"A: {full.name}",
        f"B: {other.name}",
    ]
    told = browser.text("#status")
    for letter, row in zip("AB", sides, strict=True):
        assert f"{letter}: mean square {row['attribution']['total']['mean_square']:.4g} θ²" in told
    # Both are on one scale: a bar of the higher column is higher.
    heights = browser.js(
        "return [...document.querySelectorAll('.strip')].map((s) => [...s.children[3].querySelectorAll('rect')]"
        ".reduce((sum, r) => sum + +r.getAttribute('height'), 0))"
    )
    pieces = [
        sum(abs(row["attribution"][name]["share"]) * row["attribution"]["total"]["mean_square"] for name in PIECES)
        for row in sides
    ]
    assert heights[0] / heights[1] == pytest.approx(pieces[0] / pieces[1])
    # The same neuron is shown in both.
    Select(browser.find("#neuron")).select_by_index(3)
    neurons = re.findall(r"Neuron ([\d,]+), sample (\d+)", browser.text("#trace"))
    assert len(neurons) == 2
    assert neurons[0] == neurons[1]
    assert neurons[0][0] == browser.text("#neuron option:checked").split(":")[0]
    # Beyond the T of the first.
    browser.at(8)
    assert browser.text("#timestep-told") == "t = 16 of T = 16"
    first, second = browser.all("#cases .side")
    assert "keeps no statistics at this t" in first.text
    assert "Table" in second.text
    difference = probe.diff(full, other)
    shown = numbers([[row[0], *row[2:-1]] for row in browser.table("#verdict > details table")])
    for row in difference["layers"]:
        square = row["mean_square"]
        assert shown[str(row["index"])][:3] == [near(square[key]) for key in ("a", "b", "difference")]


def test_two_recordings_with_other_layers(
    browser: Browser, reports: Callable[..., Path], recordings: Callable[..., Path]
) -> None:
    one, other = recordings(layers=["0", "2", "4"]), recordings(layers=["2", "3", "4"])
    browser.open(reports(one, other))
    assert [option.text for option in browser.all("#row option")] == [
        "0 block1.act",
        "2 block3.act",
        "4 block5.act",
        "B3 block4.act",
    ]
    browser.layer(3)
    assert browser.text("#cases .side:nth-child(1)").endswith("This recording has no such layer.")
    assert "#layer=B3&" in browser.driver.current_url
    browser.driver.refresh()
    assert browser.text("#layer-title").startswith("Layer 3: block4.act")
    # By arrow keys through the strip of the second, where it has no column.
    browser.js("document.querySelectorAll('.strip')[1].querySelector('[aria-current]').focus()")
    for _ in range(3):
        browser.press(Keys.ARROW_LEFT)
        assert browser.js("return document.querySelectorAll('.strip')[1].contains(document.activeElement)")
    assert browser.text("#layer-title").startswith("Layer 0: block1.act")
    # A link of a finding in the second leads to the second's layer.
    for link in browser.all(".side:nth-child(2) .finding a.layer"):
        index = re.match(r"layer (\d+) (\S+)", link.text)
        browser.click(link)
        assert browser.text("#layer-title").startswith(f"Layer {index.group(1)}: {index.group(2)}")  # type: ignore[union-attr]


def test_an_snn_without_ann_shows_what_it_has(
    browser: Browser, reports: Callable[..., Path], synthetic: Callable[..., Path]
) -> None:
    file = synthetic("alone", ["first", "second"], paired=False, levels=None)
    browser.open(reports(file))
    shown = [one.get_attribute("id") for one in browser.all("#panels > figure") if one.is_displayed()]
    assert shown == ["rates", "raster", "trace", "maps"]
    assert browser.text("#map-title") == "Firing rate of the layers"
    assert "no ANN partner" in browser.text("#layer-facts")
    browser.at(2)
    with probe.open(file) as recording:
        rates = [float(layer.snn_spikes[:, :3].mean()) for layer in recording.layers]
    heights = browser.js("return [...document.querySelectorAll('.column rect')].map((e) => +e.getAttribute('height'))")
    np.testing.assert_allclose(heights, np.array(rates) / max(rates))
    assert f"firing rate {100 * rates[0]:.1f} %" in browser.text("#status")
    assert not browser.all("#map-picture > .legend")


@pytest.mark.parametrize("record", ["stats", "counts", "spikes"])
def test_smaller_presets_say_what_they_lack(
    browser: Browser, reports: Callable[..., Path], recordings: Callable[..., Path], record: str
) -> None:
    file = recordings(record=record)
    browser.open(reports(file), "#layer=2&t=3")
    row = probe.unevenness(file, 2, timestep=3)["layers"][0]
    cells = numbers(browser.table("#cases table"))
    assert [cells[CASE_LABELS[name]][0] for name in CASES] == [row["cases"][name] for name in CASES]
    spikes = record == "spikes"
    assert browser.find("#neuron").is_enabled() is spikes
    assert ("recorded with --record spikes or full" in browser.text("#raster")) is not spikes
    assert ("recorded with --record spikes or full" in browser.text("#trace")) is not spikes
    assert ("Inputs and potentials are recorded with --record full" in browser.text("#trace")) is spikes
    assert ("recorded with --record counts, spikes or full" in browser.text("#maps")) is (record == "stats")
    assert ("n below T is not kept" in browser.text("#maps")) is (record == "counts")
    assert ("Below T it is not kept" in browser.text("#rates")) is not spikes


KINDS: dict[str, dict[str, Any]] = {
    "one of all": {"shape": (1,), "samples": 1, "timesteps": 1},
    "long": {"timesteps": 300, "shape": (3, 5)},
    "deep": {"shape": (2, 3, 4, 5)},
    "vector": {"shape": (100,)},
    "negative": {"unguarded": True},
    "analog": {"levels": None, "timesteps": 33, "threshold": np.array([0.5, 1.0, 2.0]).reshape(3, 1, 1)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_recording_is_shown(
    browser: Browser, reports: Callable[..., Path], synthetic: Callable[..., Path], kind: str
) -> None:
    file = synthetic(kind, ["only"], **KINDS[kind])
    browser.open(reports(file))
    with probe.open(file) as recording:
        grid, layer = recording.grid, recording.layers[0]
        neurons = telling_neurons(layer, 0, 48)
        for place in sorted({0, len(grid) - 1}):
            browser.at(place)
            row = probe.unevenness(recording, timestep=grid[place])["layers"][0]
            cells = numbers(browser.table("#cases table"))
            assert [cells[CASE_LABELS[name]][0] for name in CASES] == [row["cases"][name] for name in CASES]
            total = sum(int(one[2]) for one in browser.table("#phi table"))
            assert total == row["count"]
        trace = probe.trace(recording, 0, int(browser.text("#sample option:checked").split(":")[0]), neurons[0])
    browser.js("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    shown = np.array([[float(one) for one in row] for row in browser.table("#trace table")]).T
    assert len(shown[0]) == len(trace.x)
    invalid = "return [...document.querySelectorAll('svg *')].filter((e) => /NaN|Infinity/.test(e.outerHTML)).length"
    assert browser.js(invalid) == 0
    assert not browser.runs_over()


def test_several_spikes_a_step_are_told(
    browser: Browser, reports: Callable[..., Path], report: Path, tmp_path: Path
) -> None:
    """Of graded neurons; the page's data is edited as such a recording would have it."""
    text = report.read_text(encoding="utf-8")
    start = text.index('id="data">') + len('id="data">')
    data, after = json.JSONDecoder().raw_decode(text[start:])
    traces = data["recordings"][0]["layers"][0]["shown"][0]["traces"]
    spikes = np.frombuffer(base64.b64decode(traces["spikes"]), "i1").reshape(-1, 8).copy()
    spikes[0] = [0, 3, 0, -2, 0, 0, 1, 0]
    traces["spikes"] = base64.b64encode(spikes.tobytes()).decode()
    file = tmp_path / "graded.html"
    changed = json.dumps(data).replace("<", "\\u003c")
    file.write_text(text[:start] + changed + text[start + after :], encoding="utf-8")
    browser.open(file)
    assert browser.table("#raster table")[0][1] == "2 (3 times) −4 (2 times) 7"
    assert browser.table("#trace table")[1][-3:-1] == ["3", "3"]
    widths = [
        float(str(one.get_attribute("stroke-width")))
        for one in browser.all("#raster .row")[0].find_elements(By.TAG_NAME, "line")
    ]
    assert [width / widths[-1] for width in widths] == [3, 2, 1]
    assert "negative spike" in browser.text("#raster .legend")


def test_where_nothing_is_promised_nothing_is_drawn(
    browser: Browser, reports: Callable[..., Path], synthetic: Callable[..., Path]
) -> None:
    """Of neurons with a leak no exact conversion is known, nor of what kind their error is."""
    file = synthetic("leaky", ["only"])
    with editing(file) as opened:
        layer = opened["layers/0"]
        layer.attrs["traits"] = json.dumps({**json.loads(layer.attrs["traits"]), "leaky": True})
    browser.open(reports(file))
    reason = probe.unevenness(file)["layers"][0]["reason"]
    assert reason
    assert "exact conversion" not in browser.text("#phi .legend")
    assert len(browser.all("#phi polyline")) == 1
    assert "of unknown kind" in browser.text("#map-picture > .legend")
    assert browser.text("#attribution").endswith(f"No attribution: {reason}.")


def test_inputs_that_are_no_numbers(browser: Browser, full: Path, tmp_path: Path) -> None:
    """Of a network that has gone wrong; the lines have gaps, and no picture is broken."""
    path = tmp_path / "nan.h5"
    shutil.copy(full, path)
    with editing(path) as file:
        inputs = file["layers/1/snn_input"]
        inputs[:, 4] = np.nan
        inputs[:, 6] = np.inf
    browser.open(probe.report(path, tmp_path / "nan.html"), "#layer=1")
    rows = browser.table("#trace table")
    assert [row[1] for row in rows][4] == "NaN"
    assert [row[2] for row in rows][4:] == ["NaN"] * 4
    invalid = "return [...document.querySelectorAll('svg *')].filter((e) => /NaN|Infinity/.test(e.outerHTML)).length"
    assert browser.js(invalid) == 0


def test_more_layers_than_fit_on_the_screen(
    browser: Browser, reports: Callable[..., Path], synthetic: Callable[..., Path]
) -> None:
    file = synthetic(
        "many", [f"layer{i}" for i in range(120)], shape=(2, 2, 2), samples=2, timesteps=2, record="counts"
    )
    browser.open(reports(file), "#layer=119")
    columns = browser.all(".column")
    assert len(columns) == 120
    assert not browser.runs_over()
    left, right, edge = browser.js(
        "const c = document.querySelector('.column[aria-current]').getBoundingClientRect();"
        "const s = document.querySelector('.striprow .scroll').getBoundingClientRect();"
        "return [c.left - s.left, c.right, s.right + 1]"
    )
    assert left >= 0
    assert right <= edge


# -------------------------------------------------------------------------------------------------- its looks


def cut_off(browser: Browser) -> list[str]:
    """Elements that reach over an edge of the window, and are not in something that can be scrolled."""
    found: list[str] = browser.js(
        "const w = document.documentElement.clientWidth;"
        "const over = ({ left, right, width }) => width && (right > w + 1 || left < -1);"
        "return [...document.querySelectorAll('main *, header *')]"
        ".filter((e) => !e.closest('.scroll, .away, .skip, svg') && over(e.getBoundingClientRect()))"
        ".map((e) => e.tagName + '.' + e.className)"
    )
    return found


@pytest.mark.parametrize(("width", "height"), [(390, 844), (320, 640), (640, 450), (1280, 900)])
def test_nothing_is_cut_off_on_a_phone_or_zoomed_in(
    browser: Browser, reports: Callable[..., Path], full: Path, recordings: Callable[..., Path], width: int, height: int
) -> None:
    """640 pixels are a window of 1280 at 200 %, 320 one at 400 %."""
    for file in (reports(full), reports(full, recordings(neuron="srp", timesteps=16))):
        browser.open(file, "#layer=3", width=width, height=height)
        browser.js("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert not browser.runs_over()
        assert cut_off(browser) == []
        # What can be pressed is large enough for a finger, or stands in a line of text.
        small = browser.js(
            "return [...document.querySelectorAll('button:not(.column), select, summary')]"
            ".filter((e) => e.offsetHeight && e.offsetHeight < 24).length"
        )
        assert small == 0


def luminance(rgb: list[float]) -> float:
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in (part / 255 for part in rgb)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(browser: Browser, report: Path, scheme: str) -> None:
    browser.open(report, "#layer=3", prefers_color_scheme=scheme)
    pairs = browser.js(
        "const parse = (c) => c.match(/[\\d.]+/g).map(Number);"
        "const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);"
        " if (c.length < 4 || c[3] > 0.99) return c; } };"
        "const texts = 'p, td, th, dt, dd, summary, button, select, label, h1, h2, h3, a, li, svg text';"
        "const unused = '[aria-disabled=true], :disabled';"
        "const seen = (e) => e.getClientRects().length && e.textContent.trim() && !e.closest(unused);"
        "const ink = (e) => { const s = getComputedStyle(e); return e instanceof SVGElement ? s.fill : s.color; };"
        "return [...document.querySelectorAll(texts)].filter(seen).map((e) => [e.tagName, parse(ink(e)), ground(e)])"
    )
    assert len(pairs) > 100
    dark = (
        luminance(browser.js("return getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).map(Number)"))
        < 0.1
    )
    assert dark is (scheme == "dark")
    for tag, ink, ground in pairs:
        high, low = sorted((luminance(ink[:3]), luminance(ground[:3])), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (tag, ink, ground)


def test_it_prints(browser: Browser, report: Path, tmp_path: Path) -> None:
    browser.open(report, "#layer=3&t=4", prefers_color_scheme="dark")
    pdf = base64.b64decode(browser.cdp("Page.printToPDF", printBackground=True)["data"])
    assert pdf.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 8
    browser.cdp("Emulation.setEmulatedMedia", media="print")
    assert not browser.find("#controls").is_displayed()
    assert not any(one.is_displayed() for one in browser.all("button:not(.column)"))
    assert browser.js("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    # Without the controls the page still says what it shows.
    assert "at t = 4" in browser.text("#layer-title")
    assert not browser.runs_over()
    browser.cdp("Emulation.setEmulatedMedia", media="")


def test_it_opens_in_under_two_seconds(
    browser: Browser, reports: Callable[..., Path], synthetic: Callable[..., Path]
) -> None:
    """Fifty layers and T = 64; what is measured on real ones stands in docs/report.md."""
    file = synthetic("fifty", [f"layer{i}" for i in range(50)], shape=(8, 8, 8), samples=4, timesteps=64)
    report = reports(file)
    assert report.stat().st_size < 15_000_000
    before = time.monotonic()
    browser.open(report)
    assert time.monotonic() - before < 2 * (3 if os.environ.get("CI") else 1.5)
    moves = browser.js(
        "const slider = document.getElementById('timestep'); const start = performance.now();"
        "for (const place of [0, 3, 6, 10]) { slider.value = place; slider.dispatchEvent(new Event('input')); }"
        "return (performance.now() - start) / 4"
    )
    assert moves < 500
