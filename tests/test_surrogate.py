"""Surrogates measured through autograd: closed forms of the libraries' own, users' functions, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from torch import Tensor, nn

import probe
from probe import measure_surrogate
from probe.errors import ProbeError
from probe.plots import draw_surrogates
from probe.surrogates import MeasuredSurrogate, distinct, parse_surrogate
from tests.test_cli import ok, refused

Run = Callable[..., Result]
STEP = 0.001
"""Of the grid from -2 to 2."""

MINE = """
import torch
from torch import nn

class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, v, threshold=1.0):
        ctx.save_for_backward(v)
        return (v >= threshold).float()

    @staticmethod
    def backward(ctx, grad):
        s = torch.sigmoid(10 * (ctx.saved_tensors[0] - 1))
        return grad * 10 * s * (1 - s), None

class Modern(torch.autograd.Function):
    @staticmethod
    def forward(x, alpha, shift=0.0):
        return (x >= shift).float()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.alpha = inputs[1]
        assert len(inputs) == 3

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.alpha, None, None

class Neuron(nn.Module):
    def __init__(self, threshold=0.0):
        super().__init__()
        self.threshold = threshold

    def forward(self, x):
        return (x >= self.threshold).float()

def steep(x, alpha=4.0):
    x -= 0.5
    return torch.sigmoid(alpha * x)

def made(alpha):
    def spike(x):
        return Modern.apply(x, alpha)
    return spike

spike, ready, number = Spike.apply, Modern, 3
def two(x): return x, x
def short(x): return x[:2]
def whole(x): return (x > 0).int()
def nothing(x): return None
def apart(x): return torch.ones(len(x), requires_grad=True)
def undefined(x): return x * float("nan")
def flat(x): return x * 0
def falling(x): return -x
def narrow(x): return torch.sigmoid(4000 * x)
def noisy(x): return x * torch.rand_like(x)

def backward(what):
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return (x >= 0).float()

        @staticmethod
        def backward(ctx, grad):
            if what == "raises":
                raise ValueError("no idea")
            return {"none": None, "shape": grad[:3], "two": (grad, grad)}[what]
    return Bad.apply

raises, none, shape, pair = map(backward, ("raises", "none", "shape", "two"))
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file of the user's, mine.py, in the current folder; what is put on the path is taken off again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.py").write_text(MINE)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


# ------------------------------------------------------------------------------------------- the libraries' own

FAST = 25.0
CLOSED = {
    # g, maximum, full width at half maximum, area from -2 to 2
    "spikingjelly:Sigmoid(alpha=4.0)": (
        lambda x: 4 / (4 * np.cosh(2 * x) ** 2), 1.0, 4 / 4 * math.acosh(math.sqrt(2)), math.tanh(4),
    ),
    "spikingjelly:ATan(alpha=2.0)": (
        lambda x: 1 / (1 + (math.pi * x) ** 2), 1.0, 2 / math.pi, 2 / math.pi * math.atan(2 * math.pi),
    ),
    "spikingjelly:PiecewiseQuadratic(alpha=1.0)": (lambda x: np.maximum(0, 1 - np.abs(x)), 1.0, 1.0, 1.0),
    "spikingjelly:SoftSign": (lambda x: 2 / (2 * (1 + np.abs(2 * x)) ** 2), 1.0, math.sqrt(2) - 1, 4 / 5),
    "spikingjelly:Erf(2.0)": (
        lambda x: 2 / math.sqrt(math.pi) * np.exp(-4 * x**2), 2 / math.sqrt(math.pi), math.sqrt(math.log(2)), 1.0,
    ),
    "snntorch:fast_sigmoid(slope=25)": (
        lambda x: 1 / (1 + FAST * np.abs(x)) ** 2, 1.0, 2 * (math.sqrt(2) - 1) / FAST, 2 * 2 / (1 + 2 * FAST),
    ),
    "snntorch:sigmoid(slope=10)": (
        lambda x: 10 / (4 * np.cosh(5 * x) ** 2), 2.5, 4 / 10 * math.acosh(math.sqrt(2)), math.tanh(10),
    ),
}  # fmt: skip


@pytest.mark.parametrize("spec", CLOSED)
def test_closed_forms(spec: str) -> None:
    """Maximum α/4 at 0, width 4·arcosh(√2)/α and so on; the area but for the tails outside the range."""
    g, maximum, width, area = CLOSED[spec]
    measured = measure_surrogate(spec)
    assert len(measured.x) == 4001
    assert (measured.x[0], measured.x[2000], measured.x[-1]) == (-2, 0, 2)
    assert measured.gradients is not None
    np.testing.assert_allclose(measured.gradients, g(measured.x), rtol=2e-5, atol=1e-6)
    found = measured.gradient
    assert found is not None
    assert found.maximum == pytest.approx(maximum, rel=1e-6)
    assert found.peak == 0
    assert found.width == pytest.approx(width, abs=STEP / 10)
    assert found.area == pytest.approx(area, abs=2e-4)
    assert found.area_below == pytest.approx(0.5, abs=1e-6)
    assert found.asymmetry == pytest.approx(0, abs=1e-5)
    active = measured.x[g(measured.x) > 0.01 * maximum]
    assert found.active_from == pytest.approx(active[0], abs=1.01 * STEP)
    assert found.active_to == pytest.approx(active[-1], abs=1.01 * STEP)
    assert measured.forward.step
    assert measured.forward.switch == 0
    assert measured.forward.fires_at == (">=" if spec.startswith("spikingjelly") else ">")
    np.testing.assert_array_equal(np.unique(measured.outputs), [0, 1])


def test_values_that_were_reported_for_spikingjellys_sigmoid() -> None:
    """x and gradient are given with four decimals: g' is at most 1 there."""
    measured = measure_surrogate("spikingjelly.activation_based.surrogate.Sigmoid(alpha=4.0)", at=(-0.1303, 0.4976))
    (x, below, first), (_, above, second) = measured.at
    assert (x, below, above) == (-0.1303, 0, 1)
    assert (first, second) == (pytest.approx(0.9351, abs=1e-4), pytest.approx(0.4231, abs=1e-4))


def test_every_form_of_a_name_is_the_same_surrogate() -> None:
    module = "spikingjelly.activation_based.surrogate"
    forms = ("spikingjelly:Sigmoid", f"{module}:Sigmoid", f"{module}.Sigmoid(4.0)", f"{module}:Sigmoid(alpha=4)",
             f"{module}.sigmoid(alpha=4)", "spikingjelly:sigmoid(4.)")  # fmt: skip
    expected, *others = [measure_surrogate(form) for form in forms]
    for other in others:
        assert (other.gradient, other.forward) == (expected.gradient, expected.forward)
    assert expected.label == "Sigmoid"
    assert others[2].label == "Sigmoid(alpha=4)"


def test_a_straight_through_estimator_is_a_step() -> None:
    """(x ≥ 0) + soft − soft leaves float32's rounding; values that are off by more are no step."""

    def off(by: float) -> MeasuredSurrogate:
        return measure_surrogate(lambda x: (x >= 0).float() + x - x.detach() + by)

    measured = off(0.0)
    assert not np.isin(measured.outputs, (0, 1)).all()
    assert (measured.forward.step, measured.forward.switch, measured.forward.fires_at) == (True, 0, ">=")
    assert measured.remarks == off(5e-7).remarks
    assert not off(1e-5).forward.step
    assert measure_surrogate(lambda x: (x > 0).float() + x - x.detach(), span=100.0).forward.fires_at == ">"


def test_objects_in_place_of_names() -> None:
    from snntorch import surrogate as theirs
    from spikingjelly.activation_based import surrogate

    expected = measure_surrogate("spikingjelly:ATan").gradient
    for one in (surrogate.ATan(), surrogate.ATan, lambda x: surrogate.ATan()(x)):
        assert measure_surrogate(one).gradient == expected
    assert measure_surrogate(theirs.fast_sigmoid(slope=10)).gradient == measure_surrogate(
        "snntorch:fast_sigmoid(slope=10)"
    ).gradient  # fmt: skip
    assert measure_surrogate(torch.sigmoid).name == "sigmoid"


def test_arguments_are_literals_only() -> None:
    assert parse_surrogate("a.b.c(1, x='(:', y=[2, -3.5])") == ("a.b:c", (1,), {"x": "(:", "y": [2, -3.5]})
    assert parse_surrogate("some (1)/file.py:f(alpha=2)") == ("some (1)/file.py:f", (), {"alpha": 2})
    assert parse_surrogate("some (1)/file.py:f") == ("some (1)/file.py:f", (), {})
    assert parse_surrogate("snntorch:atan()") == ("snntorch.surrogate:atan", (), {})
    with pytest.raises(ProbeError, match=r"__import__\('os'\) is no literal; expected numbers"):
        parse_surrogate("snntorch:atan(__import__('os'))")
    for text in ("snntorch:atan(1", "snntorch:atan)", "(1)", "f(*[1])", "f(**{'a': 1})"):
        with pytest.raises(ProbeError):
            measure_surrogate(text)


# ------------------------------------------------------------------------------------------------- the user's own


def test_a_derivative_that_is_centred_at_1_is_found_out(mine: Path) -> None:
    """Whatever θ is, the peak stays at 1."""
    for spec, switch in {"mine.py:Spike": 1.0, "mine.py:spike": 1.0, "mine.py:Spike(threshold=0.5)": 0.5}.items():
        measured = measure_surrogate(spec)
        assert measured.gradient is not None
        assert (measured.forward.switch, measured.gradient.peak) == (switch, 1.0)
        assert measured.gradient.maximum == pytest.approx(2.5)
        assert measured.gradient.width == pytest.approx(0.4 * math.acosh(math.sqrt(2)), abs=STEP)
        assert measured.remarks == (
            f"forward switches at x = {switch:g}, not at 0", "the gradient peaks at x = 1, not at 0",
        )  # fmt: skip


def test_kinds_of_callables(mine: Path) -> None:
    """A new-style autograd function with a default that is left out, a function that makes one, one in place."""
    for spec in (
        "mine.py:Modern(3.0)",
        "mine.py:Modern(alpha=3, shift=0.0)",
        "mine.py:made(alpha=3)",
        "mine.py:made(3)",
    ):
        measured = measure_surrogate(spec)
        assert measured.gradients is not None
        np.testing.assert_array_equal(measured.gradients, np.full(4001, 3.0))
        assert measured.gradient is not None
        assert (measured.gradient.peak, measured.gradient.width) == (None, None)
        assert measured.remarks == ("the gradient is at its maximum up to an end of the range: it has no peak there",)
    assert measure_surrogate("mine.py:Modern(shift=1.0, alpha=3)").forward.switch == 1.0
    measured = measure_surrogate("mine.py:steep(alpha=8)")
    assert measured.gradient is not None
    assert (measured.gradient.peak, measured.gradient.maximum) == (0.5, 2.0)
    assert not measured.forward.step
    assert measured.remarks[0].startswith("forward is no Heaviside step: values from 2.06115e-09 to 0.999994")


def test_no_gradient_is_said_and_not_an_error(mine: Path) -> None:
    for spec in ("mine.py:Neuron", "mine.py:Neuron(threshold=0.0)", "mine.py:whole"):
        measured = measure_surrogate(spec, at=[0.5])
        assert measured.gradients is None
        assert measured.gradient is None
        assert measured.forward.step
        assert measured.remarks[0].startswith("no gradient: autograd does not reach x")
        assert measured.plain()["at"] == {"0.5": {"forward": 1.0, "gradient": None}}


def said(spec: str, **options: float) -> str:
    return "; ".join(measure_surrogate(spec, **options).remarks)


def test_remarks(mine: Path) -> None:
    """What is odd about surrogates of the libraries, and of functions that no one should use."""
    assert "not finite at 7.2% of the points, x from -4 to -3.422, taken as 0" in said("snntorch:sigmoid", span=4)
    assert "negative at 50.0% of the points, x from 0 to 2, down to -1" in said("snntorch:triangular")
    assert "two measurements differ" in said("snntorch:SSO")
    assert "peaks at x = 1, not at 0" in said("snntorch:spike_rate_escape")
    assert "not symmetric: 23.7% of its area lies below 0" in said("spikingjelly:S2NN", span=4)
    assert "above 1% of its maximum up to an end of the range" in said("spikingjelly:ATan")
    assert "values from 0 to 3" in said("spikingjelly:MultiLevelSpikeCount(3)", span=4)
    assert said("spikingjelly:Sigmoid(alpha=4.0)") == ""
    assert "a few steps of the grid" in said("mine.py:narrow")
    assert "nowhere above 0" in said("mine.py:falling")
    assert "nowhere above 0" in said("mine.py:flat")
    assert "forward is not finite at 100.0%" in said("mine.py:undefined")
    assert "two measurements differ" in said("mine.py:noisy")
    flat = measure_surrogate("mine.py:flat").gradient
    assert flat is not None
    assert (flat.area, flat.area_below, flat.asymmetry, flat.active_from) == (0, None, None, None)


def test_a_measurement_leaves_random_numbers_and_gradients_alone() -> None:
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alpha = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(self.alpha * x) + 0 * torch.rand_like(x)

    torch.manual_seed(0)
    learned = Learned()
    expected = torch.get_rng_state()
    with torch.no_grad():
        measured = measure_surrogate(learned)
    assert torch.equal(torch.get_rng_state(), expected)
    assert learned.alpha.grad is None
    assert measured.gradient is not None
    assert measured.gradient.maximum == pytest.approx(0.5)


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("mine.py:none", ["the backward of mine.py:none gives no gradient for x; expected a tensor"]),
        ("mine.py:shape", ["the backward of mine.py:shape failed: ", "invalid gradient at index 0", "[3]"]),
        ("mine.py:pair", ["the backward of mine.py:pair failed: ", "incorrect number of gradients"]),
        ("mine.py:apart", ["the backward of mine.py:apart gives no gradient for x"]),
        ("mine.py:two", ["mine.py:two returns a tuple of 2; expected a tensor of spikes, one for each x"]),
        ("mine.py:nothing", ["mine.py:nothing returns None"]),
        ("mine.py:short", ["mine.py:short returns shape (2,) for 4001 values of x; expected (4001,)"]),
        ("mine.py:number", ["mine.py:number is of type int; expected a callable"]),
        ("mine.py:none_such", ["mine.py has no attribute none_such"]),
        ("mine.py:Neuron(beta=1)", ["unexpected keyword argument 'beta'", "threshold=0.0"]),
        ("mine.py:Modern", ["missing a required argument: 'alpha'; expected its parameters (x, alpha, shift=0.0)"]),
        ("spikingjelly:sigmoid", ["missing a required argument: 'alpha'", "as in sigmoid(alpha=4.0)"]),
        ("snntorch:fast_sigmoid(slop=3)", ["unexpected keyword argument 'slop'; expected its parameters slope=25"]),
        ("spikingjelly:Sigmoyd", ["has no attribute Sigmoyd; it has Sigmoid"]),
        ("spikingjelly", ["spikingjelly names no attribute"]),
        ("no_such.module.Sigmoid", ["no module no_such.module"]),
    ],
)
def test_one_line_for_what_cannot_be_measured(spec: str, parts: list[str], mine: Path, run: Run) -> None:
    result = run("surrogate", spec)
    refused(result, *parts)


def test_what_raises_is_shown_with_its_own_lines(mine: Path, run: Run) -> None:
    result = run("surrogate", "mine.py:raises")
    assert result.exit_code == 2
    *trace, last = result.stderr.splitlines()
    assert last == "probe: the backward of mine.py:raises raised ValueError: no idea"
    assert any("in backward" in line for line in trace)
    assert not any("autograd/__init__" in line for line in trace)
    result = run("surrogate", "snntorch:LSO")
    assert result.exit_code == 2
    assert "snntorch:LSO raised TypeError: StochasticSpikeOperator" in result.stderr.splitlines()[-1]


def test_bad_numbers(run: Run) -> None:
    refused(run("surrogate", "snntorch:atan", "--range", 0), "range 0; expected a number above 0")
    refused(run("surrogate", "snntorch:atan", "--range", "inf"), "range inf")
    refused(run("surrogate", "snntorch:atan", "--at", "nan"), "at nan; expected finite numbers")
    assert run("surrogate").exit_code == 2
    with pytest.raises(ProbeError, match="4000 points; expected an odd number"):
        measure_surrogate("snntorch:atan", points=4000)


# ----------------------------------------------------------------------------------------------------- the command


def test_the_table_and_the_values_at_x(run: Run, mine: Path) -> None:
    result = run("surrogate", "spikingjelly:Sigmoid(alpha=4.0)", "mine.py:Neuron", "--at", -0.1303, "--at", 0.4976)
    lines = [" ".join(line.split()) for line in ok(result).splitlines()]
    assert lines[1:3] == [
        "Sigmoid(alpha=4.0) x >= 0 1.0000 0.0000 0.8814 -1.4960 1.4960 0.9993 0.5000",
        "Neuron x >= 0 - - - - - - -",
    ]
    assert lines[5:] == [
        "Sigmoid(alpha=4.0) -0.1303 0.0000 0.9350",
        "Sigmoid(alpha=4.0) 0.4976 1.0000 0.4231",
        "Neuron -0.1303 0.0000 -",
        "Neuron 0.4976 1.0000 -",
    ]
    assert "probe: Neuron: no gradient: autograd does not reach x" in result.stderr


def test_json_is_whole_without_nan(run: Run, mine: Path) -> None:
    specs = ("spikingjelly:ATan", "mine.py:undefined", "mine.py:Neuron")
    printed = json.loads(ok(run("surrogate", *specs, "--json", "--at", 0.25)))
    assert {key: printed[key] for key in ("schema", "range", "points", "dtype")} == {
        "schema": "probe-surrogate/1", "range": 2.0, "points": 4001, "dtype": "float32",
    }  # fmt: skip
    first, undefined, neuron = printed["surrogates"]
    assert first["name"] == "spikingjelly:ATan"
    assert first["at"]["0.25"]["gradient"] == pytest.approx(1 / (1 + (math.pi / 4) ** 2))
    assert first["gradient"]["width"] == pytest.approx(2 / math.pi, abs=STEP)
    assert undefined["at"]["0.25"] == {"forward": None, "gradient": None}
    assert neuron["gradient"] is None
    assert neuron["remarks"]


def test_csv_has_a_row_each(run: Run) -> None:
    text = ok(run("surrogate", "snntorch:atan(alpha=2.0)", "snntorch:atan(alpha=4.0)", "--csv", "--at", 0.5))
    first, second = csv.DictReader(io.StringIO(text))
    assert (first["label"], first["forward.fires_at"]) == ("atan(alpha=2.0)", ">")
    assert float(second["gradient.maximum"]) == 2.0
    assert float(first["at.0.5.gradient"]) == pytest.approx(1 / (1 + (math.pi / 2) ** 2), rel=1e-6)


def test_the_picture(run: Run, tmp_path: Path) -> None:
    specs = ("spikingjelly:Sigmoid(alpha=4.0)", "snntorch:fast_sigmoid(slope=25)")
    result = run("surrogate", *specs, "-o", "s.png")
    ok(result)
    assert "s.png is drawn" in result.stderr
    with Image.open(tmp_path / "s.png") as image:
        assert image.size[0] > 900
    refused(run("surrogate", *specs, "-o", "s.png"), "s.png exists")
    refused(run("surrogate", *specs, "-o", "s.jpg"), "suffix '.jpg'")
    ok(run("surrogate", *specs, "-o", "s.png", "--overwrite"))


def test_what_is_drawn() -> None:
    measured = [measure_surrogate(spec) for spec in ("spikingjelly:Sigmoid", "snntorch:atan")]
    top, bottom = draw_surrogates(measured).axes
    step, *forwards, _threshold = top.lines
    assert step.get_label() == "Heaviside step"
    assert step.get_xydata().tolist() == [[-2, 0], [0, 0], [0, 1], [2, 1]]
    for line, one in zip(forwards, measured, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), one.outputs)
    curves = {line.get_label(): line for line in bottom.lines if not line.get_label().startswith("_")}
    assert list(curves) == ["Sigmoid", "atan"]
    for one in measured:
        np.testing.assert_array_equal(curves[one.label].get_ydata(), one.gradients)
    bars = [line for line in bottom.lines if line.get_marker() == "|"]
    for bar, one in zip(bars, measured, strict=True):
        assert one.gradient is not None
        assert np.ptp(bar.get_xdata()) == pytest.approx(one.gradient.width)
        assert list(bar.get_ydata()) == [one.gradient.maximum / 2] * 2


def test_equal_labels_become_whole_names(mine: Path) -> None:
    def labels(*specs: str) -> list[str]:
        return [one.label for one in distinct([measure_surrogate(spec) for spec in specs])]

    assert labels("snntorch:atan", "spikingjelly:ATan") == ["atan", "ATan"]
    assert labels("mine.py:spike", "mine:spike", "snntorch:atan") == ["mine.py:spike", "mine:spike", "atan"]


def test_it_is_public() -> None:
    assert probe.measure_surrogate is measure_surrogate
    assert isinstance(probe.measure_surrogate("snntorch:atan"), MeasuredSurrogate)
