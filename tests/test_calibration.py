"""Thresholds from activations against numpy on the same numbers, and what is said of rules that are none."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from probe.calibration import BINS, CANDIDATES, check_rule, thresholds
from probe.errors import ProbeError


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 5), nn.ReLU()
    )


@pytest.fixture
def images() -> Tensor:
    return torch.randn(30, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def found(network: nn.Module, images: Tensor, batch: int = 7, **options: object) -> dict[str, np.ndarray]:
    def batches() -> Iterator[Tensor]:
        yield from images.split(batch)

    layers = {name: network.get_submodule(name) for name in ("1", "4")}
    return thresholds(network, layers, batches, **options)  # type: ignore[arg-type]


def outputs(network: nn.Module, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        first = network[:2](images)
        return first.numpy(), network[2:](first).numpy()


def test_maximum(network: nn.Module, images: Tensor) -> None:
    first, second = outputs(network, images)
    layer, channel = found(network, images, rule="max"), found(network, images, rule="max", per="channel")
    assert layer["1"].shape == layer["4"].shape == ()
    # Another batch size may round the last bit of a convolution otherwise.
    assert (layer["1"], layer["4"]) == (pytest.approx(first.max(), rel=1e-6), pytest.approx(second.max(), rel=1e-6))
    assert channel["1"].shape == (1, 4, 1, 1)
    np.testing.assert_allclose(channel["1"].ravel(), first.max((0, 2, 3)), rtol=1e-6)
    assert channel["4"].shape == (1, 5)
    # A neuron that never fires takes the largest threshold of its layer.
    top = np.where(second.max(0) > 0, second.max(0), second.max())
    assert (second.max(0) == 0).sum() == 1
    np.testing.assert_allclose(channel["4"].ravel(), top, rtol=1e-6)


@pytest.mark.parametrize("rule", ["99.9%", "99%", "80%"])
@pytest.mark.parametrize("batch", [1, 7, 30])
def test_percentiles_are_those_of_all_outputs_up_to_a_bin(
    network: nn.Module, images: Tensor, rule: str, batch: int
) -> None:
    """Zeros count too, as in the field's own tools; the batches do not matter."""
    layer = found(network, images, batch, rule=rule)
    for name, values in zip(("1", "4"), outputs(network, images), strict=True):
        exact = np.percentile(values, float(rule[:-1]))
        # Between two neighbouring outputs any number is such a percentile; a bin adds max/2048.
        ordered = np.sort(values.ravel())
        near = np.searchsorted(ordered, exact)
        gap = ordered[min(near + 1, len(ordered) - 1)] - ordered[max(near - 1, 0)]
        assert abs(layer[name] - exact) <= gap + 2 * values.max() / BINS
    channel = found(network, images, batch, rule="80%", per="channel")["1"].ravel()
    assert len(set(channel.tolist())) == 4


def test_least_squares(network: nn.Module, images: Tensor) -> None:
    """No candidate quantizes the outputs better than the one chosen, but for what binning hides."""
    values = outputs(network, images)[0].ravel().astype(np.float64)

    def error(theta: float, timesteps: int) -> float:
        levels = np.clip(np.floor(values * timesteps / theta + 0.5), 0, timesteps)
        return float(((values - theta * levels / timesteps) ** 2).mean())

    for timesteps in (1, 4, 32):
        theta = float(found(network, images, rule="mse", timesteps=timesteps)["1"])
        best = min(error(top, timesteps) for top in np.arange(1, CANDIDATES + 1) * values.max() / CANDIDATES)
        assert error(theta, timesteps) <= best * 1.01 + (values.max() / BINS) ** 2
    # With one level the best θ lies well below the largest output, with many at it.
    assert float(found(network, images, rule="mse", timesteps=1)["1"]) < 0.8 * values.max()
    assert float(found(network, images, rule="mse", timesteps=255)["1"]) > 0.9 * values.max()


def test_silent_channels_get_a_threshold_that_can_be_divided_by(network: nn.Module, images: Tensor) -> None:
    conv = network[0]
    with torch.no_grad():
        conv.weight[1] = 0
        conv.bias[1] = -1
    for rule in ("max", "99.9%", "mse"):
        channel = found(network, images, rule=rule, per="channel")["1"].ravel()
        assert channel[1] == channel.max() > 0
    with torch.no_grad():
        conv.weight[:] = 0
        conv.bias[:] = -1
    assert float(found(network, images, rule="99.9%")["1"]) == 1.0


def test_a_percentile_that_is_zero_gives_way_to_the_maximum(network: nn.Module, images: Tensor) -> None:
    first = outputs(network, images)[0]
    assert np.percentile(first, 1) == 0
    assert found(network, images, rule="1%")["1"] == pytest.approx(first.max(), rel=1e-6)


def test_nothing_of_the_network_is_changed(network: nn.Module, images: Tensor) -> None:
    before = images.clone()
    found(network, images)
    assert torch.equal(images, before)
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("rule", ["maximum", "99.9", "0%", "101%", "-1%", "", "%"])
def test_rules_that_are_none(rule: str) -> None:
    with pytest.raises(ProbeError, match=re.escape(f"calibration {rule!r}; expected max, mse or a percentile")):
        check_rule(rule)


def test_infinite_activations_are_named(network: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        network[0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ProbeError, match="layer 1 gives NaN or infinity"):
        found(network, images)
