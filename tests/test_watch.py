"""Watching a training: each figure against a plain loop of its own, what is written, and that nothing stays behind."""

from __future__ import annotations

import copy
import csv
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sinabs.layers
import snntorch
import torch
from snntorch import utils
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

import probe
from probe import watching
from probe.errors import ProbeError

pytestmark = pytest.mark.usefixtures("one_thread")
T, SAMPLES = 3, 5


class Heaviside(torch.autograd.Function):
    """θ or 0 forward; backward the gradient itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, theta: float) -> Tensor:
        return (x >= 0).float() * theta

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0], None


class Own(nn.Module):
    """A neuron of the user: integrate and fire without reset, output 0 or θ."""

    def __init__(self, theta: float = 1.0) -> None:
        super().__init__()
        self.theta, self.v = theta, 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.v = self.v + x
        return Heaviside.apply(self.v - self.theta, self.theta)


def leaky(seed: int = 0) -> nn.Sequential:
    """7-6-4 with hidden states, weights large enough to fire; neuron 0 of the first layer never does."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Linear(7, 6), snntorch.Leaky(beta=0.5, init_hidden=True),
        nn.Linear(6, 4), snntorch.Leaky(beta=0.5, init_hidden=True),
    )  # fmt: skip
    with torch.no_grad():
        for module in (network[0], network[2]):
            module.weight.mul_(3)
        network[0].weight[0], network[0].bias[0] = 0, -1
    return network


def data() -> Tensor:
    return torch.rand((SAMPLES, 7), generator=torch.Generator().manual_seed(1))


def train(network: nn.Module, x: Tensor) -> None:
    """One training step, T calls and a backward."""
    utils.reset(network)
    loss = torch.stack([network(x) for _ in range(T)]).sum(0)[:, 0].square().sum()
    if loss.requires_grad:
        loss.backward()


def by_hand(network: nn.Module, names: list[str], step: Callable[[], None]) -> dict[str, dict[str, float]]:
    """Rate, dead share and gradient norm of layers that are called once a timestep, by keeping every tensor."""
    fed: dict[str, list[Tensor]] = {name: [] for name in names}
    gave: dict[str, list[Tensor]] = {name: [] for name in names}
    handles = []
    for name in names:

        def keep(_module: nn.Module, args: Any, output: Any, name: str = name) -> None:
            args[0].retain_grad()
            fed[name].append(args[0])
            gave[name].append((output[0] if isinstance(output, tuple) else output).detach())

        handles.append(network.get_submodule(name).register_forward_hook(keep))
    step()
    for handle in handles:
        handle.remove()
    found = {}
    for name in names:
        spikes = torch.stack(gave[name]) != 0
        gradients = torch.stack([x.grad for x in fed[name]])
        found[name] = {
            "firing_rate": spikes.double().mean().item(),
            "dead_share": (~spikes.any(0).any(0)).double().mean().item(),
            "gradient_norm": gradients.double().square().sum().sqrt().item(),
        }
    return found


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def hooks(network: nn.Module) -> int:
    """Those of all modules, and those that hang on the network, of which there never is one."""
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    return len(nn.modules.module._global_forward_hooks) + len(nn.modules.module._global_forward_pre_hooks)


def agree(latest: list[dict[str, Any]], expected: dict[str, dict[str, float]]) -> None:
    assert [row["layer"] for row in latest] == list(expected)
    for row in latest:
        assert {name: row[name] for name in watching.FIGURES} == pytest.approx(expected[row["layer"]], rel=1e-5)


# ------------------------------------------------------------------------------------------------ the figures


def test_figures_of_snntorch_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    network, x = leaky(), data()
    expected = by_hand(network, ["1", "3"], lambda: train(network, x))
    assert expected["1"]["dead_share"] >= 1 / 6
    assert 0.05 < expected["1"]["firing_rate"] < 0.95
    assert expected["1"]["gradient_norm"] > 0
    with probe.watch(network, path=tmp_path / "w.csv") as watch:
        train(network, x)
        watch.step()
    agree(watch.latest, expected)
    written = rows(tmp_path / "w.csv")
    assert [(row["step"], row["layer"]) for row in written] == [("0", "1"), ("0", "3")]
    for row in written:
        assert float(row["gradient_norm"]) == pytest.approx(expected[row["layer"]]["gradient_norm"], rel=1e-5)


def test_spikes_and_potential_as_a_pair(tmp_path: Path) -> None:
    """The explicit style: mem is handed on, and the output is (spikes, mem)."""

    class Explicit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.lif = nn.Linear(7, 4), snntorch.Leaky(beta=0.9, threshold=0.3)

        def forward(self, x: Tensor) -> Tensor:
            mem, total = self.lif.reset_mem(), torch.zeros(())
            for _ in range(T):
                spikes, mem = self.lif(self.linear(x), mem)
                total = total + spikes.sum()
            return total

    torch.manual_seed(0)
    network, x = Explicit(), data()
    expected = by_hand(network, ["lif"], lambda: network(x).backward())
    with probe.watch(network, path=tmp_path / "w.csv") as watch:
        network(x).backward()
        watch.step()
    agree(watch.latest, expected)


def test_multi_step_mode_of_spikingjelly(tmp_path: Path) -> None:
    """[T, B, ...] in one call has the figures of one call a timestep; time and samples are no neurons."""
    torch.manual_seed(0)
    network = nn.Sequential(
        layer.Linear(7, 6), neuron.LIFNode(surrogate_function=surrogate.Sigmoid()), layer.Linear(6, 4), neuron.IFNode()
    )
    with torch.no_grad():
        network[0].weight.mul_(4)
        network[2].weight.mul_(3)
    x = data()

    def single() -> None:
        functional.reset_net(network)
        torch.stack([network(x) for _ in range(T)]).sum(0)[:, 0].square().sum().backward()

    expected = by_hand(network, ["1", "3"], single)
    assert all(0 < one["firing_rate"] < 1 for one in expected.values())
    functional.set_step_mode(network, "m")
    functional.reset_net(network)
    with probe.watch(network, path=tmp_path / "w.csv") as watch:
        network(x.repeat(T, 1, 1)).sum(0)[:, 0].square().sum().backward()
        watch.step()
    agree(watch.latest, expected)


def test_several_spikes_a_timestep_are_counted_each(tmp_path: Path) -> None:
    """sinabs' IAF, [B, T, neuron]: x = 2.5 at θ = 1 gives 2, 3, 2 spikes, x = 0 none."""
    network = nn.Sequential(sinabs.layers.IAF())
    x = torch.tensor([2.5, 0.0]).expand(1, T, 2).clone().requires_grad_()
    with probe.watch(network, path=tmp_path / "w.csv") as watch:
        assert network(x)[0, :, 0].tolist() == [2, 3, 2]
        watch.step()
    (row,) = watch.latest
    assert (row["layer"], row["firing_rate"], row["dead_share"]) == ("0", 7 / 6, 0.5)
    assert row["gradient_norm"] is None


def test_a_network_that_is_one_neuron(tmp_path: Path) -> None:
    with probe.watch(snntorch.Leaky(beta=0.5, init_hidden=True), path=tmp_path / "w.csv") as watch:
        watch._model(torch.full((2, 3), 5.0, requires_grad=True)).sum().backward()
        watch.step()
    assert (watch.latest[0]["layer"], watch.latest[0]["firing_rate"]) == ("Leaky", 1.0)


# -------------------------------------------------------------------------------------------- finding the layers


def own() -> nn.Sequential:
    torch.manual_seed(0)
    conv = nn.Conv1d(1, 4, 3)
    with torch.no_grad():
        conv.weight.abs_()
        conv.bias.zero_()
    return nn.Sequential(
        nn.Sequential(conv, Own(0.4)), nn.MaxPool1d(2), nn.Flatten(), nn.Dropout(0.5), nn.ReLU(),
        nn.Linear(8, 3, bias=False), Own(50.0), nn.Linear(3, 2),
    )  # fmt: skip


def test_layers_of_no_library_are_found_by_what_they_give(tmp_path: Path) -> None:
    """Neither what holds them nor what passes spikes on; one that does not fire yet is found too."""
    network, x = own(), data()[:, None, :6]
    expected = by_hand(network, ["0.1", "6"], lambda: network(x).square().sum().backward())
    network[0][1].v = network[6].v = 0.0
    torch.manual_seed(0)
    with (
        probe.watch(network, every=1, path=tmp_path / "w.csv") as watch,
        pytest.warns(UserWarning, match="layer 6 is dead: none of its neurons fired in step 0"),
    ):
        assert watch.layers == ()
        network(x).square().sum().backward()
        watch.step()
        assert hooks(network) == 2
    assert [one.name for one in watch.layers] == ["0.1", "6"]
    assert watch.latest[0]["firing_rate"] == pytest.approx(expected["0.1"]["firing_rate"])
    assert 0 < watch.latest[0]["firing_rate"] < 1
    assert watch.latest[1]["dead_share"] == 1.0


def test_layers_by_name(tmp_path: Path) -> None:
    network = own()
    for spec, names in {"0.1": ["0.1"], "*1": ["0.1", "1"], "re:^6$": ["6"]}.items():
        assert [one.name for one in probe.watch(network, layers=spec, path=tmp_path / "w.csv").layers] == names
    assert [one.name for one in probe.watch(leaky(), layers=["1"], path=tmp_path / "w.csv").layers] == ["1"]
    with pytest.raises(ProbeError, match=r"no module act; expected a dotted name.*it has 0, 0.0, 0.1, 1"):
        probe.watch(network, layers=["0.1", "act"], path=tmp_path / "w.csv")
    with pytest.raises(ProbeError, match="no module -1; "):
        probe.watch(network, layers="-1", path=tmp_path / "w.csv")
    with pytest.raises(ProbeError, match=r"no layer x\*"):
        probe.watch(network, layers="x*", path=tmp_path / "w.csv")


def test_merged_time_of_a_named_module(tmp_path: Path) -> None:
    """[T, B, neuron] says that two axes are no neurons: of 2, one fires at one t for one sample."""
    network = nn.Sequential(nn.Identity(), Own())
    x = torch.zeros(T, SAMPLES, 2, requires_grad=True)
    with torch.no_grad():
        x[1, 2, 0] = 3.0
    with probe.watch(network, layers=["1"], layout="T,B", path=tmp_path / "w.csv") as watch:
        network(x).sum().backward()
        watch.step()
    assert watch.latest[0]["dead_share"] == 0.5
    assert watch.latest[0]["firing_rate"] == pytest.approx(1 / (T * SAMPLES * 2))
    assert watch.latest[0]["gradient_norm"] == pytest.approx((T * SAMPLES * 2) ** 0.5)


@pytest.mark.parametrize("network", [nn.Sequential(nn.Linear(7, 3), nn.Sigmoid()), nn.Linear(7, 3)])
def test_a_network_without_spikes_is_told_once_and_trains_on(tmp_path: Path, network: nn.Module) -> None:
    with (
        probe.watch(network, every=1, path=tmp_path / "w.csv") as watch,
        pytest.warns(UserWarning, match="no module") as told,
    ):
        for _ in range(3):
            network(data()).sum().backward()
            watch.step()
    assert [str(one.message)[:56] for one in told] == ["step 0: no module within the network gives spikes for an"]
    assert rows(tmp_path / "w.csv") == []
    assert hooks(network) == 0


class Gives(nn.Module):
    """A neuron that gives any function of its input."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def through(x: Tensor) -> Tensor:
    """A straight-through estimator: 0 or 1, but for rounding."""
    soft = torch.sigmoid(5 * (x - 1))
    return (x >= 1).float() + soft - soft.detach()


SPIKES = {
    "straight-through": (through, lambda x: x >= 1),
    "ternary": (lambda x: (x >= 1).float() - (x <= -1).float(), lambda x: x.abs() >= 1),
    "several": (lambda x: x.round().clamp(0, 4), lambda x: x.round() > 0),
    "high": (lambda x: (x >= 1) * -0.7, lambda x: x >= 1),
}


@pytest.mark.parametrize("kind", SPIKES)
def test_spikes_of_every_kind_are_found_and_counted(tmp_path: Path, kind: str) -> None:
    function, fired = SPIKES[kind]
    network = nn.Sequential(nn.Linear(7, 20), Gives(function), nn.Dropout(0.3), nn.Flatten(), nn.Linear(20, 3))
    torch.manual_seed(0)
    with torch.no_grad():
        network[0].weight.mul_(6)
        expected = fired(network[0](data()))
    assert 0.1 < expected.double().mean() < 0.9
    assert kind != "straight-through" or (function(network[0](data())) % 1 != 0).any()
    with probe.watch(network, path=tmp_path / "w.csv") as watch:
        network(data()).sum().backward()
        watch.step()
    assert [one.name for one in watch.layers] == ["1"]
    assert watch.latest[0]["firing_rate"] == pytest.approx(expected.double().mean().item())
    assert watch.latest[0]["dead_share"] == pytest.approx((~expected.any(0)).double().mean().item())


def test_what_is_no_layer_of_spikes(tmp_path: Path) -> None:
    """Neither the network itself, nor a mean over time, nor a mean of neighbours."""
    mean = Gives(lambda x: torch.stack([(x > t / 4).float() for t in range(4)]).mean(0))
    network = nn.Sequential(nn.Linear(7, 6), mean, nn.Linear(6, 6), Own(), nn.AvgPool1d(2), nn.Linear(3, 2), Own())
    with probe.watch(network, path=tmp_path / "w.csv") as watch:
        network(data()).sum().backward()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            watch.step()
    assert [one.name for one in watch.layers] == ["3", "6"]
    with probe.watch(Own(), path=tmp_path / "own.csv") as watch:
        watch._model(data().requires_grad_()).sum().backward()
        with pytest.warns(UserWarning, match="no module within the network"):
            watch.step()
    assert watch.layers == ()


class Merged(nn.Module):
    """Two layers that take all timesteps at once, of which each second neuron is dead."""

    def __init__(self, before: Callable[[Tensor], Tensor], fed: int = 4) -> None:
        super().__init__()
        self.before = before
        self.a, self.n, self.b, self.m = nn.Linear(fed, 8), Gives(self.spikes), nn.Linear(8, 6), Gives(self.spikes)
        with torch.no_grad():
            for linear in (self.a, self.b):
                linear.weight.zero_()
                linear.bias.copy_(0.3 + 1.4 * (torch.arange(len(linear.bias)) % 2))

    @staticmethod
    def spikes(x: Tensor) -> Tensor:
        """At even times and samples only, so that axis 1 counted as neurons would be seen."""
        mask = (torch.arange(x.shape[1]) % 2 == 0).float()[(...,) + (None,) * (x.ndim - 2)]
        return (x >= 1).float() * mask + x - x.detach()

    def forward(self, x: Tensor) -> Tensor:
        return self.m(self.b(self.n(self.a(self.before(x)))))


MERGED = {
    "samples, time in": (lambda x: x.flatten(2), (SAMPLES, T, 1, 2, 2)),
    "time, samples in": (lambda x: x, (T, SAMPLES, 4)),
    "time is added": (lambda x: x.expand(T, *x.shape), (SAMPLES, 4)),
}


@pytest.mark.parametrize("kind", MERGED)
@pytest.mark.parametrize("layers", [(), ("n", "m")])
def test_two_axes_that_are_no_neurons_are_told_by_the_input(tmp_path: Path, kind: str, layers: tuple[str]) -> None:
    before, shape = MERGED[kind]
    network = Merged(before)
    with (
        warnings.catch_warnings(action="error"),
        probe.watch(network, every=1, layers=layers, path=tmp_path / "w.csv") as watch,
    ):
        for _ in range(2):
            network(torch.rand(shape)).sum().backward()
            watch.step()
            assert [(row["layer"], row["dead_share"]) for row in watch.latest] == [("n", 0.5), ("m", 0.5)]


def test_an_axis_that_may_be_time_is_told_once(tmp_path: Path) -> None:
    """[samples, 4] in, [samples, time or channels, neurons] in the layers; a layout that is given ends the question."""
    network = Merged(lambda x: x[:, None].expand(-1, T, -1))

    def trained(**options: Any) -> float:
        with probe.watch(network, every=1, path=tmp_path / "w.csv", overwrite=True, **options) as watch:
            for _ in range(2):
                network(torch.rand(SAMPLES, 4)).sum().backward()
                watch.step()
        return float(watch.latest[0]["dead_share"])

    with pytest.warns(UserWarning, match=r"axis 1 .*n gives \[5, 3, 8\], m gives.*layout='T,B'") as told:
        assert trained() == pytest.approx(2 / 3)
    assert len(told) == 1
    with warnings.catch_warnings(action="error"):
        assert trained(layout="step") == pytest.approx(2 / 3)
        assert trained(layout="B,T") == 0.5


# ------------------------------------------------------------------------------------------------ which steps


def test_hooks_are_on_for_every_nth_step_only(tmp_path: Path) -> None:
    network, x, on = leaky(), data(), []
    with probe.watch(network, every=3, path=tmp_path / "w.csv") as watch:
        for _ in range(8):
            on.append(hooks(network))
            train(network, x)
            watch.step()
    assert on == [2, 0, 0, 2, 0, 0, 2, 0]
    assert [row["step"] for row in rows(tmp_path / "w.csv")] == ["0", "0", "3", "3", "6", "6"]
    assert hooks(network) == 0


def test_a_validation_in_between_does_not_count(tmp_path: Path) -> None:
    network, x = leaky(), data()
    expected = by_hand(network, ["1", "3"], lambda: train(network, x))
    with probe.watch(network, path=tmp_path / "w.csv") as watch:
        with torch.no_grad():
            train(network, x * 9)
        network.eval()
        train(network, x * 9)
        network.train()
        train(network, x)
        watch.step()
    agree(watch.latest, expected)


def test_a_step_in_which_nothing_counts(tmp_path: Path) -> None:
    network = leaky().eval()
    with probe.watch(network, every=1, path=tmp_path / "w.csv") as watch:
        train(network, data())
        with pytest.warns(UserWarning, match="step 0: no layer was called in training mode"):
            watch.step()
        train(network.train(), data())
        watch.step()
    assert [row["step"] for row in rows(tmp_path / "w.csv")] == ["1", "1"]


def test_without_backward_there_is_no_norm(tmp_path: Path) -> None:
    network = leaky()
    with probe.watch(network, path=tmp_path / "w.csv") as watch:
        network(data())
        watch.step()
    assert [row["gradient_norm"] for row in watch.latest] == [None, None]
    assert [row["gradient_norm"] for row in rows(tmp_path / "w.csv")] == ["", ""]


def test_gradients_are_left_as_they_are(tmp_path: Path) -> None:
    plain, watched, x = leaky(), leaky(), data()
    train(plain, x)
    with probe.watch(watched, path=tmp_path / "w.csv") as watch:
        train(watched, x)
        watch.step()
    for one, other in zip(plain.parameters(), watched.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=0)


# -------------------------------------------------------------------------------------------- what is left behind


def test_a_network_can_be_saved_and_copied_at_any_time(tmp_path: Path) -> None:
    network, x = own(), data()[:, None, :6]
    with probe.watch(network, every=2, path=tmp_path / "w.csv") as watch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(4):
            network[0][1].v = network[6].v = 0.0
            network(x).square().sum().backward()
            for module in network.modules():
                vars(module).pop("v", None)
            for when in ("before the step ends", "between steps"):
                torch.save(network, tmp_path / "n.pt")
                for one in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
                    assert not any(module._forward_hooks or module._forward_pre_hooks for module in one.modules()), when
                if when == "before the step ends":
                    watch.step()
        twin = copy.deepcopy(network)
        twin[0][1].v = twin[6].v = 0.0
        twin(x)
        assert not any(tally.calls for tally in watch._tallies.values())
    assert [row["step"] for row in rows(tmp_path / "w.csv")] == ["0", "0", "2", "2"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_in_the_loop_leaves_no_hook_and_keeps_what_was_written(
    tmp_path: Path, error: type[BaseException]
) -> None:
    network, x = leaky(), data()

    def loop() -> None:
        with probe.watch(network, every=1, path=tmp_path / "w.csv") as watch:
            train(network, x)
            watch.step()
            network(x)
            raise error

    with pytest.raises(error):
        loop()
    assert hooks(network) == 0
    assert [row["layer"] for row in rows(tmp_path / "w.csv")] == ["1", "3"]


def test_each_step_is_on_the_disk_at_once(tmp_path: Path) -> None:
    network, x = leaky(), data()
    with probe.watch(network, every=1, path=tmp_path / "w.csv") as watch:
        for done in range(1, 4):
            train(network, x)
            watch.step()
            assert len(rows(tmp_path / "w.csv")) == 2 * done
    assert len(watch.latest) == 2


def test_a_dead_layer_is_told_once(tmp_path: Path) -> None:
    network = leaky()
    with torch.no_grad():
        network[2].weight.zero_()
        network[2].bias.zero_()
    with (
        probe.watch(network, every=1, path=tmp_path / "w.csv") as watch,
        pytest.warns(UserWarning, match="dead") as told,
    ):
        for _ in range(3):
            train(network, data())
            watch.step()
    assert [str(one.message) for one in told] == ["layer 3 is dead: none of its neurons fired in step 0"]


def test_a_forgotten_step_is_told(tmp_path: Path) -> None:
    network = leaky()
    with (
        pytest.warns(UserWarning, match=r"watch.step\(\) was never called"),
        probe.watch(network, path=tmp_path / "w.csv"),
    ):
        train(network, data())
    with pytest.raises(ProbeError, match="outside of the with block"):
        probe.watch(network, path=tmp_path / "other.csv").step()


def test_a_full_disk_ends_the_log_and_not_the_training(tmp_path: Path) -> None:
    class Full:
        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            raise OSError(28, "No space left on device")

        def flush(self) -> None: ...

    network = leaky()
    with probe.watch(network, every=1, writer=Full()) as watch:
        train(network, data())
        with pytest.warns(UserWarning, match="step 0 cannot be written .No space left on device"):
            watch.step()
        train(network, data())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            watch.step()
    assert watch.latest[0]["step"] == 1


# ---------------------------------------------------------------------------------------------- where it goes


def test_tensorboard_holds_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real package, into a folder of the user's and into its own default."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    network, x = leaky(), data()
    for options, folder in (({"log_dir": "logs"}, "logs"), ({}, "runs/*")):
        with probe.watch(network, every=2, **options) as watch:
            for _ in range(3):
                train(network, x)
                watch.step()
        (where,) = tmp_path.glob(folder)
        events = EventAccumulator(str(where)).Reload()
        assert sorted(events.Tags()["scalars"]) == sorted(f"{name}/{i}" for name in watching.FIGURES for i in (1, 3))
        for row in watch.latest:
            for name in watching.FIGURES:
                scalars = events.Scalars(f"{name}/{row['layer']}")
                assert [one.step for one in scalars] == [0, 2]
                assert scalars[-1].value == pytest.approx(row[name], rel=1e-6)
    assert not list(tmp_path.glob("*.csv"))


def test_without_tensorboard_it_is_a_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    network = leaky()
    with probe.watch(network) as watch:
        train(network, data())
        watch.step()
    assert Path("watch.csv").read_text().startswith("step,layer,firing_rate,dead_share,gradient_norm\n0,1,0.")
    with pytest.raises(ProbeError, match=r"watch.csv exists; expected a new file; pass overwrite=True"):
        probe.watch(network)
    with pytest.raises(ProbeError, match="TensorBoard is not installed"):
        probe.watch(network, log_dir="logs")
    with probe.watch(network, path="watch.csv", overwrite=True):
        pass
    assert rows(Path("watch.csv")) == []


def test_a_writer_of_the_users_is_not_closed(tmp_path: Path) -> None:
    class Kept:
        def __init__(self) -> None:
            self.told: list[tuple[str, int]] = []

        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            self.told.append((tag, global_step))

        def flush(self) -> None: ...

    network, writer = leaky(), Kept()
    with probe.watch(network, layers="1", writer=writer) as watch:
        train(network, data())
        watch.step()
    assert writer.told == [("firing_rate/1", 0), ("dead_share/1", 0), ("gradient_norm/1", 0)]


def test_bad_arguments(tmp_path: Path) -> None:
    network = leaky()

    def refused(match: str, **options: Any) -> None:
        with pytest.raises(ProbeError, match=match):
            probe.watch(network, **{"path": tmp_path / "w.csv", **options})

    for every in (0, -1, 1.5, "3", None, True):
        refused(f"every = {every!r}; expected a whole number from 1", every=every)
    refused("layout 'TBB'; expected one of step, TB", layout="TBB")
    refused("no folder", path=tmp_path / "none" / "w.csv")
    refused("is a folder", path=tmp_path)
    with pytest.raises(ProbeError, match="the network is of type list"):
        probe.watch([network], path=tmp_path / "w.csv")  # type: ignore[arg-type]
    first, second = (probe.watch(network, path=tmp_path / "w.csv") for _ in range(2))
    with first, pytest.raises(ProbeError, match=r"w.csv cannot be written \(File exists\)"):
        second.__enter__()


def test_tensorboard_is_not_imported_where_it_is_not_asked_for(tmp_path: Path) -> None:
    code = (
        "import sys, torch, probe\n"
        "with probe.watch(torch.nn.Linear(1, 1), path='w.csv'): pass\n"
        "print('tensorboard' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
