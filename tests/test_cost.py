"""What a spike costs: counted by hand in small networks, and by poking every neuron and every connection in turn."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import probe
from probe.cost import compact, cost_fact, wiring_of
from tests.editing import editing
from tests.synthetic import write_recording

WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)


def wired(network: nn.Module, x: Tensor) -> Any:
    """Count with every ReLU of a network as a spiking layer."""
    layers = {name: (one, one) for name, one in network.named_modules() if isinstance(one, nn.ReLU)}
    with torch.no_grad():
        return wiring_of(network.eval(), layers, lambda: network(x))


class Residual(nn.Module):
    """Two blocks: one with a plain skip connection, one whose skip connection is a convolution with a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.relu0 = nn.Conv2d(1, 2, 3, padding=1), nn.ReLU()
        self.one, self.relu1 = nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(inplace=True)
        self.two, self.norm, self.relu2 = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU()
        self.three, self.short = nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Conv2d(2, 4, 1, stride=2)
        self.relu3, self.fc = nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu0(self.stem(x))
        x = self.relu2(self.norm(self.two(self.relu1(self.one(x)))) + x)
        x = self.relu3(self.three(x) + self.short(x))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


class Joined(nn.Module):
    """Two layers side by side, concatenated, and added to a third: each spike still travels its own connections."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.relu_a = nn.Conv1d(1, 2, 3), nn.ReLU()
        self.b, self.relu_b = nn.Conv1d(1, 2, 3), nn.ReLU()
        self.c, self.relu_c = nn.Conv1d(1, 4, 3), nn.ReLU()
        self.out, self.fc = nn.Conv1d(4, 3, 2, padding=1), nn.Linear(6, 2)
        self.relu_d = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.relu_a(self.a(x)), 0.5 * self.relu_b(self.b(x))], 1)
        joined += self.relu_c(self.c(x))
        out: Tensor = self.fc(self.relu_d(self.out(joined)))[:, 0]
        return out


def sequential(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), *modules)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "padding": (lambda: sequential(nn.Conv2d(4, 3, 3, padding=1)), (1, 4, 5)),
    "stride": (lambda: sequential(nn.Conv2d(4, 3, 3, stride=2)), (1, 6, 7)),
    "groups": (lambda: sequential(nn.Conv2d(4, 6, 3, padding=1, groups=2)), (1, 4, 4)),
    "depthwise": (lambda: sequential(nn.Conv2d(4, 4, (3, 1), padding="same", groups=4)), (1, 4, 4)),
    "dilation": (lambda: sequential(nn.Conv2d(4, 2, 2, dilation=2)), (1, 5, 5)),
    "circular": (lambda: sequential(nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular")), (1, 4, 4)),
    "transposed": (lambda: sequential(nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2)), (1, 3, 3)),
    "linear": (lambda: sequential(nn.Flatten(), nn.Dropout(), nn.Linear(36, 5)), (1, 3, 3)),
    "average": (lambda: sequential(nn.AvgPool2d(2), nn.Conv2d(4, 2, 2)), (1, 5, 5)),
    "overlapping": (lambda: sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(4, 2, 2)), (1, 4, 4)),
    "ceiling": (lambda: sequential(nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(4, 2, 2)), (1, 5, 5)),
    "adaptive": (lambda: sequential(nn.AdaptiveAvgPool2d((2, 3)), nn.Conv2d(4, 2, 2)), (1, 5, 4)),
    "normed": (lambda: sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 2, 2)), (1, 4, 4)),
    "deep": (lambda: sequential(nn.Conv2d(4, 2, 2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 3)),
             (1, 5, 5)),
    "residual": (Residual, (1, 4, 4)),
    "joined": (Joined, (1, 7)),
}  # fmt: skip


def poked(network: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Fan-outs and multiply-accumulates by changing one number at a time, with nothing shared with `probe`."""
    state: dict[str, Any] = {}
    poke: dict[str, Tensor] = {}
    relus = [name for name, one in network.named_modules() if isinstance(one, nn.ReLU)]
    weighted = [name for name, one in network.named_modules() if isinstance(one, WEIGHTED)]
    modules = dict(network.named_modules())

    def fire(name: str) -> Callable[..., Tensor]:
        # All layers stand still but the one that is poked, so that a change stops at the next.
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            state.setdefault(name, torch.rand_like(output))
            return state[name] + poke.get(name, 0)

        return hook

    handles = [modules[name].register_forward_hook(fire(name)) for name in relus]
    entered: dict[str, Tensor] = {}
    for name in weighted:

        def enter(_module: nn.Module, args: tuple[Tensor], name: str = name) -> None:
            entered[name] = args[0].clone()

        handles.append(modules[name].register_forward_pre_hook(enter))
    with torch.no_grad():
        network(x)
        still = dict(entered)
        outgoing = {name: connections(modules[name], still[name]) for name in weighted}
        fan_outs = {}
        for relu in relus:
            fan_outs[relu] = torch.zeros_like(state[relu])
            for place in range(state[relu].numel()):
                poke[relu] = torch.zeros_like(state[relu])
                poke[relu].view(-1)[place] = 1
                network(x)
                for name in weighted:
                    changed = (entered[name] - still[name]).abs() > 1e-6
                    fan_outs[relu].view(-1)[place] += outgoing[name][changed].sum()
            del poke[relu]
    for handle in handles:
        handle.remove()
    return fan_outs, {name: int(outgoing[name].sum()) for name in weighted}


def connections(module: nn.Module, x: Tensor) -> Tensor:
    """How many outputs change with each input, the others held."""
    before = module(x)
    found = torch.zeros_like(x)
    for place in range(x.numel()):
        other = x.clone()
        other.view(-1)[place] += 1
        found.view(-1)[place] = ((module(other) - before).abs() > 1e-7).sum()
    return found


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, shape = NETWORKS[request.param]
    built = make().eval()
    for parameter in built.parameters():
        # A weight that is 0 would hide its connection.
        parameter.data = torch.rand_like(parameter) + 0.1
    return built, torch.rand(1, *shape)


def test_fan_outs_are_those_of_poking_every_neuron(network: tuple[nn.Module, Tensor]) -> None:
    wiring = wired(*network)
    fan_outs, macs = poked(*network)
    assert wiring.unknown == {}
    assert set(wiring.fan_out) == set(fan_outs)
    for name, expected in fan_outs.items():
        np.testing.assert_array_equal(wiring.fan_out[name], expected)
        assert expected.max() > 0
    assert wiring.total == sum(macs.values())


def test_by_hand() -> None:
    """A corner of a padded 3x3 convolution is seen by 4 of its outputs, an edge by 6, the inside by 9."""
    ways = wired(sequential(nn.Conv2d(4, 3, 3, padding=1)), torch.rand(1, 1, 4, 5))
    taps = np.outer([2, 3, 3, 2], [2, 3, 3, 3, 2])
    np.testing.assert_array_equal(ways.fan_out["1"], np.broadcast_to(3 * taps, (1, 4, 4, 5)))
    # 4 inputs a channel and 3 outputs: as many as multiplications that do not meet padding.
    assert ways.macs["1"] == 3 * 4 * taps.sum() == ways.fan_out["1"].sum()
    # The convolution of the image: 4 channels of 20.
    assert (ways.dense, ways.total) == (80, 80 + ways.macs["1"])
    # Stride 2, 3x3, from 5x5 to 2x2: the middle row and column are seen twice.
    seen = np.array([1, 1, 2, 1, 1])
    ways = wired(sequential(nn.Conv2d(4, 3, 3, stride=2)), torch.rand(1, 1, 5, 5))
    np.testing.assert_array_equal(ways.fan_out["1"][0, 0], 3 * np.outer(seen, seen))
    # Two groups of 6 outputs: 3 each.
    ways = wired(sequential(nn.Conv2d(4, 6, 1, groups=2)), torch.rand(1, 1, 2, 2))
    assert set(ways.fan_out["1"].ravel()) == {3}
    assert ways.macs["1"] == 6 * 2 * 4


def test_pooling_lets_every_spike_through_but_multiplies_once() -> None:
    """2x2 average pooling, then 4 x 2x2 numbers to 5: each spike costs 5, the ANN multiplies 16 numbers 5 times."""
    ways = wired(sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)), torch.rand(1, 1, 4, 4))
    assert set(ways.fan_out["1"].ravel()) == {5}
    assert ways.macs["1"] == 16 * 5
    assert ways.fan_out["1"].sum() == 4 * ways.macs["1"]
    # What the windows leave over reaches nothing.
    ways = wired(sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)), torch.rand(1, 1, 5, 5))
    np.testing.assert_array_equal(ways.fan_out["1"][0, 0], 5 * np.outer([1, 1, 1, 1, 0], [1, 1, 1, 1, 0]))


def test_a_skip_connection_costs_its_convolution_and_no_more() -> None:
    ways = wired(Residual(), torch.rand(1, 1, 4, 4))
    taps = np.outer([2, 3, 3, 2], [2, 3, 3, 2])
    # relu0 feeds `one`, and by addition relu2 itself, which costs nothing.
    np.testing.assert_array_equal(ways.fan_out["relu0"][0, 0], 2 * taps)
    # relu2 feeds `three`, 3x3 with stride 2, and `short`, 1x1 with stride 2, which sees every other neuron.
    three, short = np.array([1, 2, 1, 1]), np.array([1, 0, 1, 0])
    np.testing.assert_array_equal(ways.fan_out["relu2"][0, 0], 4 * (np.outer(three, three) + np.outer(short, short)))
    assert set(ways.fan_out["relu3"].ravel()) == {3}
    assert ways.total == ways.dense + sum(ways.macs.values())


def test_what_is_fed_numbers_is_dense() -> None:
    """A convolution after another, with no spikes between, multiplies numbers; the first one's inputs are spikes."""
    ways = wired(sequential(nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 5, 1)), torch.rand(1, 1, 3, 3))
    assert set(ways.fan_out["1"].ravel()) == {2}
    assert ways.dense == 4 * 9 + 2 * 5 * 9
    assert ways.total == ways.dense + 4 * 2 * 9


def test_functions_and_operators_are_followed_as_modules_are() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU(inplace=True)
            self.kernel, self.matrix = nn.Parameter(torch.rand(2, 3, 2, 2)), nn.Parameter(torch.rand(8, 6))

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu(x.repeat(1, 3, 1, 1)) * 2 + 1
            assert not torch.isnan(x).any()
            x = x * (x > 0)
            x = functional.max_pool2d(x[:, :, :5], 2, stride=1)
            x = functional.conv2d(x, self.kernel, stride=2)
            return (torch.relu(x).flatten(1) / 3) @ self.matrix

    ways = wired(Functional(), torch.rand(1, 1, 6, 5))
    # 6x5 cut to 5x5, windows of 2 with stride 1 to 4x4: an inner neuron is in four, and each has 2 outputs.
    each = np.array([1, 2, 2, 2, 1])
    expected = 2 * np.outer([*each, 0], each)
    np.testing.assert_array_equal(ways.fan_out["relu"][0], np.broadcast_to(expected, (3, 6, 5)))
    assert ways.macs["relu"] == 2 * 3 * 16
    assert ways.dense == 8 * 6


def test_what_is_not_known_is_said() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.relu, self.fc = nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            other: Tensor = self.fc(torch.sigmoid(self.one(x)) + self.two(x) * self.two.weight)
            return other

    network = Odd()
    network.two.weight = nn.Parameter(torch.ones(4))
    ways = wired(network, torch.rand(1, 4))
    assert "sigmoid" in ways.unknown["one"]
    fact = cost_fact(ways, {"one": (4,), "two": (4,), "relu": (4,)}, of_ann=True)
    assert "sigmoid" in fact["layers"]["0"]["reason"]
    # Added to numbers, spikes are numbers: nothing is done for a spike alone.
    assert fact["layers"]["1"] == {"fan_out": {"values": [0.0], "places": [None]}, "macs": 0}
    assert "no activation" in fact["layers"]["2"]["reason"]
    assert fact["dense_macs"] == fact["macs"] == 8

    class Products(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            spikes = self.relu(x)
            return spikes @ spikes.T

    ways = wired(Products(), torch.rand(1, 4))
    assert "two things that depend on the data" in ways.unknown["relu"]
    assert cost_fact(ways, {"relu": (4,)}, of_ann=True)["macs"] is None


def test_timesteps_merged_or_one_by_one_give_what_one_gives() -> None:
    network, x = sequential(nn.Conv2d(4, 3, 3, padding=1)), torch.rand(1, 1, 4, 4)
    once = wired(network, x)
    layers = {"1": (network[1], network[1])}  # type: ignore[index]

    def stepwise() -> None:
        for _ in range(3):
            network(x)

    with torch.no_grad():
        merged = wired(network, x.repeat(3, 1, 1, 1))
        stepped = wiring_of(network, layers, stepwise)
    for other in (merged, stepped):
        fact = cost_fact(other, {"1": (4, 4, 4)}, of_ann=False)
        assert fact == cost_fact(once, {"1": (4, 4, 4)}, of_ann=False)
        assert (other.total, other.dense, other.macs["1"]) == (3 * once.total, 3 * once.dense, 3 * once.macs["1"])


def test_compact_is_whole() -> None:
    random = np.random.default_rng(0)
    profile = [2, *[3] * 220, 2]
    image = np.broadcast_to(np.outer(profile, profile), (64, 222, 222)) * 7.0
    for values in (image, np.full((4096,), 10.0), random.random((3, 4))):
        kept = compact(values)
        places = [np.zeros(n, int) if p is None else p for n, p in zip(values.shape, kept["places"], strict=True)]
        np.testing.assert_array_equal(np.array(kept["values"])[np.ix_(*places)], values)
    assert np.size(compact(image)["values"]) == 4


# ---------------------------------------------------------------------------------------------------- recordings


def test_a_recording_counts_each_spike(full: Path) -> None:
    """Σ spikes x fan-out, neuron by neuron, with the fan-outs of poking; the ANN's total by the formula."""
    with probe.open(full) as recording:
        table = probe.layer_table(recording)
        spikes = recording.layers[0].snn_spikes
        hidden = recording.layers[5].snn_spikes
    taps = np.outer([2, *[3] * 6, 2], [2, *[3] * 6, 2])
    row = table["layers"][0]
    assert row["synaptic_operations"] == pytest.approx(float((spikes.sum((0, 1)) * 16 * taps).sum() / 40))
    assert row["macs"] == 16 * 16 * taps.sum()
    assert row["fan_out"] == 16 * taps.mean()
    assert table["layers"][5]["synaptic_operations"] == hidden.sum() * 10 / 40
    assert table["layers"][5]["macs"] == 64 * 10
    cost = table["cost"]
    assert cost["dense_macs"] == 16 * taps.sum()
    assert cost["macs"] == cost["dense_macs"] + sum(row["macs"] for row in table["layers"])
    assert cost["synaptic_operations"] == pytest.approx(sum(row["synaptic_operations"] for row in table["layers"]))
    assert cost["reason"] is None


def test_negative_spikes_cost_as_much(recordings: Callable[..., Path]) -> None:
    signed = recordings(neuron="negspike")
    with probe.open(signed) as recording:
        rows = probe.layer_table(recording)["layers"]
        spikes = recording.layers[5].snn_spikes
    assert (spikes < 0).any()
    assert rows[5]["synaptic_operations"] == np.abs(spikes).sum() * 10 / 40 > spikes.sum() * 10 / 40
    rows = probe.layer_table(recordings(neuron="negspike", record="stats"))["layers"]
    assert rows[5]["synaptic_operations"] is None
    assert "--record spikes" in rows[5]["cost_reason"]
    assert rows[5]["macs"] == 640


def test_a_part_of_the_layers_and_older_recordings(tmp_path: Path, full: Path, recordings: Callable[..., Path]) -> None:
    some = probe.layer_table(recordings(layers=["1:3"]))
    assert [row["macs"] for row in some["layers"]] == [51_200, 102_400]
    assert (some["cost"]["synaptic_operations"], some["cost"]["reason"]) == (None, "only some layers are recorded")
    old = probe.layer_table(write_recording(tmp_path / "old.h5", ["a"]))
    assert (old["layers"][0]["synaptic_operations"], old["layers"][0]["macs"]) == (None, None)
    assert old["cost"]["reason"] == old["layers"][0]["cost_reason"] == "recorded before fan-outs were"
    harmed = tmp_path / "harmed.h5"
    harmed.write_bytes(full.read_bytes())
    with editing(harmed) as file:
        text = file["facts/cost"].asstr()[()]
        del file["facts/cost"]
        file["facts"].create_dataset("cost", data=text.replace('"values"', '"value"', 1))
    with pytest.raises(probe.ProbeError, match="fan-outs of layer 0 cannot be read"):
        probe.layer_table(harmed)


def test_a_network_without_an_ann_has_operations_but_no_macs(tmp_path: Path) -> None:
    snntorch = pytest.importorskip("snntorch")
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 20), snntorch.Leaky(beta=0.9, init_hidden=True), nn.Linear(20, 10),
        snntorch.Leaky(beta=0.9, init_hidden=True, output=True),
    )  # fmt: skip
    path = probe.capture(network, data="digits", samples=6, timesteps=5, output=tmp_path / "r.h5")
    with probe.open(path) as recording:
        table = probe.layer_table(recording)
        spikes = recording.layers[0].snn_spikes.sum()
    assert table["layers"][0]["synaptic_operations"] == pytest.approx(spikes * 10 / 6)
    assert spikes > 0
    assert table["layers"][-1]["synaptic_operations"] == 0
    assert (table["layers"][0]["macs"], table["cost"]["macs"]) == (None, None)
    assert table["cost"]["reason"] == "there is no ANN"


def test_the_table_says_what_it_costs(run: Callable[..., Any], full: Path) -> None:
    text = run("layers", full).stdout
    assert "123,904" in text
    assert "310,464 MACs, 7,744 of them not fed by spikes" in text
    assert math.isfinite(probe.layer_table(full)["layers"][0]["fan_out"])
