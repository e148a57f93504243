"""What the plots show, against numbers computed from the arrays; that they can be read; and what they refuse."""

from __future__ import annotations

import itertools
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

import probe
from probe import plots
from probe.attribution import CASES, RESIDUAL_EDGES
from probe.plots import KINDS, draw, save
from probe.plots.colours import CASE_COLOURS, TERM_COLOURS
from probe.plots.style import clean
from probe.recording import Layer, Recording
from tests.synthetic import write_recording


@pytest.fixture
def recording(full: Path) -> Iterator[Recording]:
    with probe.open(full) as opened:
        yield opened


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Recording]:
    """An open recording of random neurons, made once for each name."""
    folder = tmp_path_factory.mktemp("synthetic")
    known: dict[str, Recording] = {}

    def make(name: str, names: list[str], **options: object) -> Recording:
        if name not in known:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                known[name] = probe.open(write_recording(folder / f"{name}.h5", names, **options))
        return known[name]

    return make


def heights(axes: Axes) -> np.ndarray:
    return np.array([bar.get_height() for bar in axes.patches])


def phi_and_a(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """φ(T) and a in units of θ, whole numbers of 1/(L·T), (sample, *neuron)."""
    levels, timesteps = layer.levels or 0, layer.recording.timesteps
    a = np.rint(layer.ann_output / layer.threshold * levels).astype(int) * timesteps
    return layer.spike_count.astype(int) * levels, a


# ----------------------------------------------------------------------------------------------- what they show


def test_rates_are_spikes_over_samples_and_neurons(recording: Recording) -> None:
    shown = draw(recording, "rates").axes[0].collections[0].get_array()
    expected = [layer.snn_spikes.reshape(40, 8, -1).mean((0, 2)) for layer in recording.layers]
    assert shown.shape == (6, 8)
    np.testing.assert_allclose(shown, expected, atol=1e-12)


def test_case_bars_are_shares_that_add_up_to_one(recording: Recording) -> None:
    axes = draw(recording, "cases").axes[0]
    shown = {bars.get_label(): [bar.get_width() for bar in bars] for bars in axes.containers}
    np.testing.assert_allclose(np.sum(list(shown.values()), axis=0), 1.0)
    phi, a = phi_and_a(recording.layers[3])
    for sign, of_sign in (("=", a == 0), (">", a > 0)):
        for than, compared in (("=", phi == a), (">", phi > a), ("<", phi < a)):
            assert shown[f"a {sign} 0, φ {than} a"][3] == pytest.approx((of_sign & compared).mean())


def test_cases_at_an_earlier_t(recording: Recording) -> None:
    axes = draw(recording, "cases", layers="2", timestep=3).axes[0]
    layer = recording.layers[2]
    k = np.rint(layer.ann_output / layer.threshold * 8).astype(int)
    n = layer.snn_spikes[:, :3].sum(1, dtype=int)
    over = next(bars for bars in axes.containers if bars.get_label() == "a = 0, φ > a")
    assert over[0].get_width() == pytest.approx(((k == 0) & (n * 8 > 0)).mean())
    assert "t = 3 of T = 8" in axes.get_title(loc="left")


def test_attribution_parts_add_up_to_the_mean_square(recording: Recording) -> None:
    axes = draw(recording, "attribution").axes[0]
    parts = np.array([[bar.get_width() for bar in bars] for bars in axes.containers])
    total = axes.lines[0].get_xdata()
    assert parts.shape == (6, 6)
    np.testing.assert_allclose(parts.sum(0), total, atol=1e-15)
    for layer, shown in zip(recording.layers, total, strict=True):
        phi, a = phi_and_a(layer)
        assert shown == pytest.approx(((phi - a) ** 2).mean() / 64**2)


def test_attribution_of_one_layer_is_drawn_over_the_grid(recording: Recording) -> None:
    axes = draw(recording, "attribution", layers=4).axes[0]
    total = axes.lines[0]
    assert list(total.get_xdata()) == list(range(1, 9))
    for t, shown in zip(*total.get_data(), strict=True):
        row = probe.unevenness(recording, 4, timestep=int(t))["layers"][0]["attribution"]
        assert shown == pytest.approx(row["total"]["mean_square"])
    at_four = draw(recording, "attribution", layers=4, timestep=4).axes[0]
    assert at_four.lines[0].get_xdata() == pytest.approx(total.get_ydata()[3])


def test_phi_counts_every_neuron_once(recording: Recording) -> None:
    layer = recording.layers[3]
    axes = draw(recording, "phi", layers=3).axes[0]
    shown = axes.collections[0].get_array()
    phi, a = phi_and_a(layer)
    expected, _, _ = np.histogram2d(phi.ravel() / 8, a.ravel() / 8, bins=[np.arange(10) - 0.5] * 2)
    np.testing.assert_array_equal(shown.filled(0), expected)
    assert shown.sum() == 40 * layer.neurons


@pytest.mark.parametrize(
    ("timestep", "a", "count"), [(8, 0.5, 4), (4, 0.124, 0), (4, 0.126, 1), (1, 0.49, 0), (1, 0.51, 1)]
)
def test_the_stairs_round_a_to_the_grid_of_t(recording: Recording, timestep: int, a: float, count: int) -> None:
    """With v(0) = θ/2 an input of a for t steps gives ⌊t·a/θ + ½⌋ spikes."""
    line, stairs = draw(recording, "phi", layers=1, timestep=timestep).axes[0].lines
    assert np.interp(a, *line.get_data()) == pytest.approx(a)
    step = np.searchsorted(stairs.get_xdata(), a, side="right") - 1
    assert stairs.get_ydata()[step] * timestep == pytest.approx(count)


def test_neurons_that_promise_no_even_count_get_no_stairs(full: Path) -> None:
    with probe.open(full) as recording:
        assert len(draw(recording, "phi", layers=1).axes[0].lines) == 2
        recording.layers[1].traits["reset"] = "zero"
        assert len(draw(recording, "phi", layers=1).axes[0].lines) == 1


@pytest.mark.parametrize("initial", [-0.25, 0.0, 0.3, 0.5, 1.0, 1.7])
def test_the_stairs_for_any_initial_potential(initial: float) -> None:
    from probe.plots.phi_against_a import stairs

    edges, count = stairs(4, initial)
    for a in np.arange(0.003, 1, 0.01):
        assert count[np.searchsorted(edges, a, side="right") - 1] == np.clip(np.floor(4 * a + initial), 0, 4)


def test_offsets_match_a_direct_count(recording: Recording) -> None:
    axes = draw(recording, "offsets", layers=5).axes[0]
    phi, a = phi_and_a(recording.layers[5])
    psi = (phi - a) / 8
    keys, numbers = np.unique(np.sign(psi) * np.ceil(np.abs(psi)), return_counts=True)
    assert [bar.get_x() + bar.get_width() / 2 for bar in axes.patches] == pytest.approx(list(keys))
    np.testing.assert_allclose(heights(axes), numbers / psi.size)


def test_residual_follows_the_conservation_law(recording: Recording) -> None:
    layer = recording.layers[2]
    axes = draw(recording, "residual", layers=2).axes[0]
    v = layer.initial_potential + layer.input_sum - layer.threshold * layer.spike_count
    edges = np.concatenate([[-np.inf], RESIDUAL_EDGES, [np.inf]])
    expected = np.histogram(v.astype(float) / float(layer.threshold), edges)[0] / v.size
    # A potential on an edge may fall to either side of it by rounding.
    np.testing.assert_allclose(heights(axes), expected, atol=3 / v.size)
    assert heights(axes).sum() == pytest.approx(1)
    assert [line.get_xdata()[0] for line in axes.lines] == [0.0, 1.0]


def test_accuracy_is_that_of_summed_logits(recording: Recording) -> None:
    axes = draw(recording, "accuracy").axes[0]
    snn, ann = axes.lines
    right = recording.snn_logits.astype(float).cumsum(1).argmax(2) == recording.labels[:, None]
    np.testing.assert_allclose(snn.get_ydata(), right.mean(0))
    assert ann.get_ydata()[0] == (recording.ann_logits.argmax(1) == recording.labels).mean()


def test_raster_draws_every_spike_of_the_chosen_neurons(recording: Recording) -> None:
    places = [(3, 2, 1), (0, 0, 0), (15, 7, 7)]
    axes = draw(recording, "raster", layers=1, samples=7, neurons=places).axes[0]
    rows = axes.collections[: len(places)]
    for place, row in zip(places, rows, strict=True):
        expected = np.flatnonzero(recording.layers[1].snn_spikes[(7, slice(None), *place)]) + 1
        np.testing.assert_array_equal(np.sort(row.get_positions()), expected)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["3,2,1", "0,0,0", "15,7,7"]


def test_raster_shows_the_most_active_neurons(recording: Recording) -> None:
    from probe.plots.choice import most_active

    layer = recording.layers[3]
    spikes = layer.spike_count.sum(0, dtype=int)
    chosen = [int(spikes[place]) for place in most_active(layer)]
    assert sorted(chosen, reverse=True) == sorted(spikes.ravel(), reverse=True)[:40]
    assert most_active(layer) == sorted(most_active(layer))


def test_negative_spikes_are_told_apart(made: Callable[..., Recording]) -> None:
    signed = made("signed", ["a"], unguarded=True)
    layer = signed.layers[0]
    axes = draw(signed, "raster", neurons=[tuple(place) for place in np.ndindex(layer.shape)]).axes[0]
    drawn = [len(row.get_positions()) for row in axes.collections]
    spikes = layer.snn_spikes[0]
    assert sum(drawn[: layer.neurons]) == (spikes == 1).sum()
    assert sum(drawn[layer.neurons :]) == (spikes == -1).sum() > 0
    colours = {tuple(row.get_color()) for row in axes.collections}
    assert len(colours) == 2
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["spike", "negative spike"]


def test_features_show_a_phi_and_their_difference(recording: Recording) -> None:
    layer = recording.layers[1]
    figure = draw(recording, "features", layers=1, samples=4)
    a, phi = layer.ann_output[4] / layer.threshold, layer.snn_output[4] / layer.threshold
    images = [axes.images[0] for axes in figure.axes if axes.images]
    channels = [int(axes.get_title().split()[1]) for axes in figure.axes[:8]]
    strength = (a + phi).sum((1, 2))
    assert set(strength[channels]) == set(sorted(strength, reverse=True)[:8])
    for row, expected in enumerate((a, phi, phi - a)):
        for channel, image in zip(channels, images[8 * row : 8 * row + 8], strict=True):
            np.testing.assert_allclose(image.get_array(), expected[channel], atol=1e-6)
    assert images[0].get_clim() == images[8].get_clim()
    assert images[16].get_clim()[0] == -images[16].get_clim()[1]


@pytest.mark.parametrize("shape", [(300,), (5,), (17, 24), (2, 3, 4, 5)])
def test_features_of_any_shape(made: Callable[..., Recording], shape: tuple[int, ...]) -> None:
    recording = made(f"shape{shape}", ["a"], shape=shape)
    image = draw(recording, "features").axes[0].images[0].get_array()
    values = recording.layers[0].ann_output[0] / recording.layers[0].threshold
    seen = np.asarray(image)[np.isfinite(image)]
    assert set(np.round(seen, 5)) <= set(np.round(values.ravel(), 5))
    if len(shape) < 3:
        np.testing.assert_allclose(seen.ravel(), values.ravel(), atol=1e-6)


def test_trace_shows_the_law(recording: Recording) -> None:
    layer = recording.layers[1]
    found = probe.trace(recording, 1, 3, (4, 2, 2))
    top, middle, bottom = draw(recording, "trace", layers=1, samples=3, neurons="4,2,2").axes
    x, spikes = layer.snn_input[3, :, 4, 2, 2], layer.snn_spikes[3, :, 4, 2, 2]
    np.testing.assert_array_equal(top.lines[0].get_ydata(), x)
    path = middle.lines[0].get_ydata()
    np.testing.assert_allclose(path[1::2], path[:-1:2] + x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(path[1::2] - path[2::2], spikes * float(layer.threshold), rtol=1e-4, atol=1e-5)
    phi = layer.threshold * spikes.cumsum() / np.arange(1, 9)
    np.testing.assert_allclose(bottom.lines[0].get_ydata(), phi, rtol=1e-6)
    assert bottom.lines[1].get_ydata()[0] == pytest.approx(float(layer.ann_output[3, 4, 2, 2]))
    alone = plots.draw_trace(found)
    np.testing.assert_array_equal(alone.axes[1].lines[0].get_ydata(), path)


def test_trace_looks_at_the_largest_error_first(recording: Recording) -> None:
    from probe.plots.choice import largest_neuron, largest_sample

    for layer in recording.layers[1:]:
        phi, a = phi_and_a(layer)
        error = np.abs(phi - a)
        sample = largest_sample(layer)
        assert error[(sample, *largest_neuron(layer, sample))] == error.max()
        assert error[(7, *largest_neuron(layer, 7))] == error[7].max()


# ------------------------------------------------------------------------------------------- that they can be read


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_in_every_format(recording: Recording, tmp_path: Path, kind: str) -> None:
    layers = None if KINDS[kind].over == "network" else 1
    figure = draw(recording, kind, layers=layers)
    assert isinstance(figure, Figure)
    title = figure.get_suptitle() or figure.axes[0].get_title(loc="left")
    assert "T = 8" in title
    assert "40" in title or "sample" in title
    png, svg, pdf = (save(figure, tmp_path / f"x.{suffix}") for suffix in ("png", "SVG", "pdf"))
    with Image.open(png) as picture:
        assert np.asarray(picture.convert("L")).std() > 5
        assert picture.width == pytest.approx(150 * figure.get_size_inches()[0], abs=2)
    assert svg.read_text().lstrip().startswith("<?xml")
    assert pdf.read_bytes().startswith(b"%PDF")


def test_the_same_picture_is_the_same_file(recording: Recording, tmp_path: Path) -> None:
    for suffix in ("png", "svg", "pdf"):
        files = [save(draw(recording, "cases"), tmp_path / f"{i}.{suffix}").read_bytes() for i in (1, 2)]
        assert files[0] == files[1]


@pytest.fixture
def fifty(made: Callable[..., Recording]) -> Recording:
    names = [f"features.{i}.a_block_with_a_long_name.convolution_and_activation" for i in range(50)]
    return made("fifty", names, timesteps=64, samples=3, shape=(2, 3, 3))


def boxes_of(figure: Figure, texts: list) -> list[Bbox]:
    renderer = FigureCanvasAgg(figure).get_renderer()
    shown = [text for text in texts if text.get_text() and text.get_visible()]
    return [text.get_window_extent(renderer) for text in shown]


def overlapping(boxes: list[Bbox]) -> list[tuple[Bbox, Bbox]]:
    smaller = [box.padded(-0.5) for box in boxes]
    return [(one, other) for one, other in itertools.combinations(smaller, 2) if one.overlaps(other)]


@pytest.mark.parametrize("size", [None, (6.0, 4.0), (16.0, 9.0)])
@pytest.mark.parametrize("kind", ["rates", "cases", "attribution"])
def test_fifty_layers_are_legible(fifty: Recording, kind: str, size: tuple[float, float] | None) -> None:
    figure = draw(fifty, kind, size=size)
    axes = figure.axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = boxes_of(figure, labels)
        assert len(boxes) >= 5
        assert not overlapping(boxes)
    if size is None:
        assert len(axes.get_yticks()) == 50
    legend = axes.get_legend()
    if legend is not None:
        assert not legend.get_window_extent().overlaps(axes.get_window_extent())


@pytest.mark.parametrize("kind", ["phi", "residual", "offsets", "raster", "features"])
def test_panels_do_not_overlap(fifty: Recording, kind: str) -> None:
    figure = draw(fifty, kind, layers="0:12" if kind != "features" else "0:3")
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [axes.get_tightbbox(renderer) for axes in figure.axes]
    assert not overlapping([box for box in boxes if box is not None])
    for axes in figure.axes:
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            assert not overlapping(boxes_of(figure, labels))
    width, height = figure.canvas.get_width_height()
    inside = Bbox([[-1, -1], [width + 1, height + 1]])
    assert all(Bbox.intersection(inside, box).bounds == box.bounds for box in boxes if box is not None)


def test_one_sample_one_neuron_one_timestep(made: Callable[..., Recording], tmp_path: Path) -> None:
    smallest = made("smallest", ["a"], timesteps=1, samples=1, shape=(1,))
    for kind in KINDS:
        save(draw(smallest, kind), tmp_path / f"{kind}.png")


def test_names_from_files_are_harmless(made: Callable[..., Recording], tmp_path: Path) -> None:
    """No mathtext, no control characters, no missing glyphs; and it says that the recording is incomplete."""
    strange = made("strange", ["a$x^{$", "b\n\x1b[31m", "层\u202e"], model="$\\frac", complete=False, samples=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in KINDS:
            figure = draw(strange, kind)
            save(figure, tmp_path / f"{kind}.svg")
            title = figure.get_suptitle() or figure.axes[0].get_title(loc="left")
            assert "INCOMPLETE" in title
    assert [label.get_text() for label in draw(strange, "cases").axes[0].get_yticklabels()] == [
        "0  a\\$x^{\\$", "1  b\\n\\x1b[31m", "2  \\u5c42\\u202e",
    ]  # fmt: skip


def test_long_names_keep_both_ends() -> None:
    shown = clean("network." + "x" * 100 + ".act", 20)
    assert len(shown) == 20
    assert shown.startswith("network.")
    assert shown.endswith(".act")


def test_each_category_has_one_colour() -> None:
    assert set(CASE_COLOURS) == set(CASES)
    assert len(set(CASE_COLOURS.values())) == len(CASE_COLOURS)
    assert len(set(TERM_COLOURS.values())) == len(TERM_COLOURS)


def test_neither_pyplot_nor_torch_nor_the_users_settings(full: Path, tmp_path: Path) -> None:
    script = f"""
import sys, probe.plots
assert not any(name.partition(".")[0] in ("matplotlib", "h5py", "numpy") for name in sys.modules)
import matplotlib
before = matplotlib.rcParams.copy()
with probe.open({str(full)!r}) as recording:
    for kind in probe.plots.KINDS:
        layers = None if kind == "accuracy" else 1
        probe.plots.save(probe.draw(recording, kind, layers=layers), {str(tmp_path)!r} + "/x.png")
assert matplotlib.rcParams.copy() == before
print([name for name in ("matplotlib.pyplot", "torch") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


# ----------------------------------------------------------------------------------------------- what they refuse


@pytest.mark.parametrize(
    ("kind", "choice", "words"),
    [
        ("pie", {}, ["pie", "raster", "trace"]),
        ("cases", {"timestep": 9}, ["t = 9", "1, 2, 3, 4, 5, 6, 7, 8"]),
        ("phi", {"timestep": 0}, ["t = 0", "1, 2, 3"]),
        ("phi", {"layers": "nothing"}, ["nothing", "block1.act"]),
        ("phi", {"layers": []}, ["no layer"]),
        ("raster", {"samples": 40}, ["40", "0 to 39"]),
        ("raster", {"samples": []}, ["no sample"]),
        ("raster", {"layers": 0, "neurons": (1, 2)}, ["16,8,8"]),
        ("raster", {"layers": 0, "neurons": [(0, 0, 0), (16, 0, 0)]}, ["16", "16,8,8"]),
        ("trace", {"layers": 0, "neurons": "a,b,c"}, ["a,b,c"]),
        ("rates", {"timestep": 3}, ["rates", "timestep"]),
        ("accuracy", {"layers": 0}, ["accuracy", "layers"]),
        ("cases", {"samples": 0}, ["cases", "samples"]),
        ("phi", {"size": (0, 3)}, ["size"]),
        ("raster", {"samples": list(range(20))}, ["120 panels", "64"]),
    ],
)
def test_bad_choices(recording: Recording, kind: str, choice: dict, words: list[str]) -> None:
    with pytest.raises(probe.ProbeError) as raised:
        draw(recording, kind, **choice)
    assert "\n" not in str(raised.value)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize("kind", ["cases", "attribution", "phi", "offsets", "residual"])
def test_layers_without_an_ann_are_named_together(made: Callable[..., Recording], kind: str) -> None:
    alone = made("alone", ["first", "second"], levels=None, paired=False)
    with pytest.raises(probe.ProbeError, match=r"0 \(first\), 1 \(second\): no ANN partner"):
        draw(alone, kind)
    assert draw(made("relu", ["first", "second"], levels=None), kind).axes


@pytest.mark.parametrize("kind", ["rates", "accuracy", "raster", "features", "trace"])
def test_layers_without_levels_have_the_other_plots(made: Callable[..., Recording], kind: str) -> None:
    assert draw(made("relu", ["first", "second"], levels=None), kind).axes
    if kind != "trace":
        assert draw(made("alone", ["first", "second"], levels=None, paired=False), kind).axes


@pytest.mark.parametrize(
    ("kind", "missing"), [("raster", "snn_spikes"), ("features", "ann_output"), ("trace", "record")]
)
def test_what_the_preset_lacks_is_named(made: Callable[..., Recording], kind: str, missing: str) -> None:
    stats = made("stats", ["a"], record="stats")
    with pytest.raises(probe.ProbeError, match=missing):
        draw(stats, kind)
    for other in ("rates", "cases", "attribution", "phi", "offsets", "residual", "accuracy"):
        assert draw(stats, other).axes


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x.jpg", [".jpg", ".png or .svg or .pdf", "x.png"]),
        ("x", ["no suffix"]),
        ("none/x.png", ["no folder"]),
        ("d.png", ["folder"]),
    ],
)
def test_bad_file_names(recording: Recording, tmp_path: Path, name: str, words: list[str]) -> None:
    (tmp_path / "d.png").mkdir()
    with pytest.raises(probe.ProbeError) as raised:
        save(draw(recording, "accuracy"), tmp_path / name)
    for word in words:
        assert word in str(raised.value)


def test_a_file_is_replaced_only_where_that_was_asked_for(recording: Recording, tmp_path: Path) -> None:
    figure = draw(recording, "accuracy")
    path = save(figure, tmp_path / "x.png", overwrite=False)
    with pytest.raises(probe.ProbeError, match="exists"):
        save(figure, path, overwrite=False)
    assert save(figure, path) == path


# ----------------------------------------------------------------------------------------------- the command


def test_command_writes_and_says_where(run: Callable[..., Result], full: Path, tmp_path: Path) -> None:
    assert run("plot", "phi", full, "--layer", 0).stdout == "phi-layer0.png\n"
    assert run("plot", "rates", full).stdout == "rates.png\n"
    assert run("plot", "features", full).stdout == "features-layer0.png\n"
    assert run("plot", "offsets", full, "--layer", "0:2", "--layer", "-1").stdout == "offsets-layer0-1-5.png\n"
    assert (
        run("plot", "trace", full, "--layer", 1, "--sample", 3, "--neuron", "4,2,2", "-o", "n.svg").stdout == "n.svg\n"
    )
    made_files = {file.name for file in tmp_path.iterdir() if file.is_file()}
    assert {"phi-layer0.png", "rates.png", "features-layer0.png", "offsets-layer0-1-5.png", "n.svg"} <= made_files


def test_command_does_not_overwrite_by_itself(run: Callable[..., Result], full: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_text("mine")
    refused = run("plot", "accuracy", full, "-o", "mine.png")
    assert refused.exit_code == 2
    assert "mine.png exists" in refused.stderr
    assert "--overwrite" in refused.stderr
    assert (tmp_path / "mine.png").read_text() == "mine"
    assert run("plot", "accuracy", full, "-o", "mine.png", "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("pie",),
        ("phi", "-t", 9),
        ("rates", "-t", 3),
        ("phi", "--layer", "x"),
        ("phi", "-o", "x.gif"),
        ("raster", "--sample", 99),
    ],
)
def test_command_refuses_in_a_line(run: Callable[..., Result], full: Path, arguments: tuple[object, ...]) -> None:
    kind, *rest = arguments
    result = run("plot", kind, full, *rest)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_help_names_every_kind_without_matplotlib() -> None:
    script = """
import sys
from probe.cli import main
try:
    main(["plot", "--help"])
finally:
    print([name for name in ("matplotlib", "h5py", "numpy", "torch") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert all(kind in done.stdout for kind in KINDS)
    assert "Example:  probe plot" in done.stdout
