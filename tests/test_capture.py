"""The aligned run: what is recorded is what the networks did, and they are left as they were found."""

from __future__ import annotations

import copy
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import probe
from probe import analysis, zoo
from probe.data import DataSet, open_data
from probe.errors import Interrupted, ProbeError
from probe.families import convert
from probe.neurons import IF, QCFS, NeuronSpec
from probe.recording.schema import Batch
from probe.run import Run, survey
from probe.session import plan


def test_a_recording_holds_what_plain_loops_see(full: Path) -> None:
    """The same numbers by hand: forward the ANN, then the SNN step by step, and look at every module."""
    network = zoo.load("digits")
    subject = convert.adapt(network, "if", NeuronSpec())
    with probe.open(full) as recording:
        images = torch.from_numpy(open_data("digits").load(recording.indices[:20]))
        seen: dict[str, list[Tensor]] = {}
        for pair in subject.layers:
            for kind, module in (("ann", pair.ann), ("snn", pair.snn)):
                module.register_forward_hook(
                    lambda _m, args, out, key=f"{pair.name}/{kind}": seen.setdefault(key, []).extend([args[0], out])
                )
        with torch.no_grad():
            ann = subject.run_ann(images)
            snn = torch.stack(list(subject.run_snn(images, 8)), 1)
        np.testing.assert_allclose(recording.ann_logits[:20], ann, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(recording.snn_logits[:20], snn, rtol=1e-5, atol=1e-5)
        assert len(recording.layers) == 6
        for layer in recording.layers:
            x, a = seen[f"{layer.name}/ann"]
            steps = seen[f"{layer.name}/snn"]
            inputs, outputs = torch.stack(steps[::2], 1), torch.stack(steps[1::2], 1)
            np.testing.assert_array_equal(layer.read("ann_input", slice(0, 20)), x)
            np.testing.assert_array_equal(layer.read("ann_output", slice(0, 20)), a)
            np.testing.assert_array_equal(layer.read("snn_input", slice(0, 20)), inputs)
            spikes = (outputs > 0).numpy().astype(np.int8)
            np.testing.assert_array_equal(layer.read("snn_spikes", slice(0, 20)), spikes)
            np.testing.assert_array_equal(layer.read("spike_count", slice(0, 20)), spikes.sum(1))
            np.testing.assert_allclose(layer.read("input_sum", slice(0, 20)), inputs.sum(1), rtol=1e-5, atol=1e-4)


def test_samples_are_those_of_the_data_set_and_both_networks_got_the_same(full: Path) -> None:
    data = open_data("digits")
    with probe.open(full) as recording:
        np.testing.assert_array_equal(recording.labels, data.labels[recording.indices])
        ann, snn = recording.digests
        np.testing.assert_array_equal(ann, snn)
        assert len(set(ann.tolist())) == 40
        assert np.bincount(recording.labels).tolist() == [4] * 10


@pytest.mark.parametrize("neuron", ["if", "snm", "negspike", "srp", "srp+negspike"])
def test_statistics_kept_equal_those_of_the_arrays_at_every_t(neuron: str, recordings: Callable[..., Path]) -> None:
    with probe.open(recordings(neuron=neuron)) as recording:
        for t in range(1, 9):
            found = probe.unevenness(recording, timestep=t, recompute=True)
            assert all(sum(layer["cases"].values()) == layer["count"] for layer in found["layers"])


@pytest.mark.parametrize("timesteps", [1, 3, 8, 20])
def test_the_first_layer_has_no_unevenness_and_no_error_where_T_is_L(
    timesteps: int, recordings: Callable[..., Path]
) -> None:
    with probe.open(recordings(timesteps=timesteps, record="stats")) as recording:
        layer = probe.unevenness(recording, 0)["layers"][0]
        assert layer["oracle"]["applies"]
        assert layer["oracle"]["violations"] == 0
        assert layer["attribution"]["unevenness"]["mean_square"] == 0
        assert (layer["attribution"]["total"]["mean_square"] == 0) == (timesteps == 8)


def test_statistics_do_not_depend_on_the_batch_size(recordings: Callable[..., Path]) -> None:
    """Given equal activations: this small network rounds alike at every batch size, so all counts must be equal."""
    with probe.open(recordings()) as first, probe.open(recordings(batch_size=7)) as second:
        assert np.array_equal(first.ann_logits.argmax(1), second.ann_logits.argmax(1))
        for one, other in zip(first.layers, second.layers, strict=True):
            if not np.array_equal(one.snn_input, other.snn_input) or not np.array_equal(
                one.ann_output, other.ann_output
            ):
                continue
            for t in range(1, 9):
                assert one.statistics.statistics[t].same(other.statistics.statistics[t])
            np.testing.assert_array_equal(one.statistics.per_sample, other.statistics.per_sample)
        np.testing.assert_array_equal(first.layers[0].spike_count, second.layers[0].spike_count)


def _state(network: nn.Module) -> dict[str, Any]:
    hooks = {
        name: (len(module._forward_hooks), len(module._forward_pre_hooks), module.training, sorted(vars(module)))
        for name, module in network.named_modules()
    }
    return {"modules": hooks, "weights": {name: value.clone() for name, value in network.state_dict().items()}}


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    weights = all(torch.equal(value, other["weights"][name]) for name, value in one["weights"].items())
    return weights and one["modules"] == other["modules"]


def test_the_users_network_is_left_as_found(tmp_path: Path) -> None:
    network = zoo.load("digits")
    network.train()
    network[0].eval()  # a mixture of modes, as after freezing a block
    before = _state(network)
    path = probe.capture(network, data="digits", samples=10, output=tmp_path / "r.h5")
    assert _same(before, _state(network))
    with probe.open(path) as recording:
        assert "block2.norm" in recording.facts["modes"]["found_in_training_mode"]
        assert "block1.norm" not in recording.facts["modes"]["found_in_training_mode"]


def test_no_hook_and_no_file_stays_after_an_exception(tmp_path: Path) -> None:
    network = zoo.load("digits")
    images = open_data("digits")

    def failing(index: Any) -> Any:
        if len(index) > 1 and index[0] != chosen[0]:
            raise RuntimeError("the user's loader broke")
        return images.load(index)

    data = DataSet("broken", images.labels, images.classes, failing)
    planned = plan(network, data=data, samples=20, batch_size=5, output=tmp_path / "r.h5")
    chosen = planned.indices
    before = _state(network)
    with pytest.raises(ProbeError, match="the data failed on samples 5 to 9: the user's loader broke"):
        planned.run()
    assert _same(before, _state(network))
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_once_ends_after_the_batch_and_keeps_the_samples(tmp_path: Path) -> None:
    def press(done: int, _samples: int) -> None:
        if done == 10:
            os.kill(os.getpid(), signal.SIGINT)

    network = zoo.load("digits")
    before = _state(network)
    planned = plan(network, data="digits", samples=40, batch_size=5, output=tmp_path / "r.h5")
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(Interrupted, match="10 of 40"):
            planned.run(press)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, found)
    assert _same(before, _state(network))
    with pytest.warns(UserWarning, match="incomplete.*10 samples"), probe.open(tmp_path / "r.h5") as recording:
        assert (recording.samples, recording.complete) == (10, False)
        assert recording.layers[2].spike_count.shape == (10, 32, 4, 4)
        assert probe.unevenness(recording, recompute=True)["complete"] is False


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """As under `nohup`."""
    found = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        planned = plan(samples=20, batch_size=10, output=tmp_path / "r.h5")
        captured = planned.run(lambda _done, _samples: os.kill(os.getpid(), signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, found)
    assert captured.samples == 20


def test_capture_works_outside_the_main_thread(tmp_path: Path) -> None:
    """Signals cannot be caught there; notebooks and servers run such."""
    thread = threading.Thread(target=probe.capture, kwargs={"samples": 10, "output": tmp_path / "r.h5"})
    thread.start()
    thread.join()
    with probe.open(tmp_path / "r.h5") as recording:
        assert recording.samples == 10


class Gathering:
    """A sink that is a list."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int | None, str, int | None, tuple[int, ...]]] = []

    def append(self, layer: int | None, batch: Batch) -> None:
        self.pieces.append((layer, batch.field, batch.timestep, batch.values.shape))


def test_any_sink_will_do() -> None:
    subject = convert.adapt(zoo.load("digits"), "if", NeuronSpec())
    images = torch.from_numpy(open_data("digits").load(np.arange(3)))
    surveyed = survey(subject, images[:1])
    sink = Gathering()
    run = Run(subject, surveyed, surveyed.infos[:1], sink, record="full", timesteps=2, grid=(1, 2))
    with run.hooked():
        run.batch(images, 0)
    neurons = (3, 16, 8, 8)
    assert sink.pieces == [
        (0, "ann_input", None, neurons),
        (0, "ann_output", None, neurons),
        (0, "snn_spikes", 1, (3, 128)),
        (0, "snn_input", 1, neurons),  # the first layer's input is constant, so it is kept once
        (0, "snn_spikes", 2, (3, 128)),
        (0, "spike_count", None, neurons),
        (0, "input_sum", None, neurons),
    ]


class InPlace(nn.Module):
    """A neuron that charges in place, as in-place activations and some papers' code do."""

    def __init__(self, inner: IF) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        output = self.inner(x)
        x.fill_(12345.0)
        return output


def test_inputs_are_read_before_the_module_rewrites_them(tmp_path: Path) -> None:
    """The recording of a network whose neurons overwrite their input equals that of one whose neurons do not."""
    plain = convert.adapt(zoo.load("digits"), "if", NeuronSpec())
    images = torch.from_numpy(open_data("digits").load(np.arange(3)))

    def inputs(rewriting: bool) -> list[np.ndarray[Any, Any]]:
        subject = copy.deepcopy(plain)
        if rewriting:
            pairs = []
            for pair in subject.layers:
                wrapper = InPlace(pair.snn)
                parent, _, name = pair.name.rpartition(".")
                setattr(subject.snn.get_submodule(parent), name, wrapper)
                pairs.append(pair.__class__(**{**vars(pair), "snn": wrapper}))
            subject = subject.__class__(
                **{**vars(subject), "layers": tuple(pairs), "reset": lambda: [p.snn.inner.reset() for p in pairs]}
            )
        else:
            subject = subject.__class__(**{**vars(subject), "reset": lambda: [p.snn.reset() for p in subject.layers]})
        surveyed = survey(subject, images[:1])
        assert bool(surveyed.rewrites) == rewriting
        kept: list[np.ndarray[Any, Any]] = []

        class Keep:
            def append(self, layer: int | None, batch: Batch) -> None:
                if batch.field == "snn_input":
                    kept.append(batch.values.copy())

        run = Run(subject, surveyed, surveyed.infos, Keep(), record="full", timesteps=3, grid=(1, 2, 3))
        with run.hooked():
            run.batch(images, 0)
        return kept

    for one, other in zip(inputs(False), inputs(True), strict=True):
        np.testing.assert_array_equal(one, other)


class Shared(nn.Module):
    """One activation used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.act = nn.Linear(64, 64), nn.Linear(64, 10), QCFS(8, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.act(self.first(self.act(x.flatten(1)))))
        return out


def test_a_module_called_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="act is called 2 times by the ANN"):
        probe.capture(Shared(), data="digits", output=tmp_path / "r.h5")


def test_a_threshold_that_is_not_positive_names_its_layer(tmp_path: Path) -> None:
    network = zoo.load("digits")
    network.get_submodule("block3.act").threshold.data.fill_(-0.5)
    with pytest.raises(ProbeError, match=r"block3\.act has threshold -0\.5"):
        probe.capture(network, data="digits", output=tmp_path / "r.h5")


@pytest.mark.parametrize("where", ["block1.conv", "block4.conv", "output"])
def test_nan_is_named_with_its_layer_and_leaves_no_file(where: str, tmp_path: Path) -> None:
    network = zoo.load("digits")
    network.get_submodule(where).weight.data.fill_(float("nan"))
    with pytest.raises(ProbeError, match="NaN or infinity"):
        probe.capture(network, data="digits", samples=10, output=tmp_path / "r.h5")
    assert list(tmp_path.iterdir()) == []


def test_nan_in_the_snn_alone_is_named(tmp_path: Path) -> None:
    planned = plan(samples=10, output=tmp_path / "r.h5")
    planned.prepared.subject.snn.get_submodule("block2.conv").weight.data.fill_(float("nan"))
    with pytest.raises(ProbeError, match=r"block2\.act.*SNN"):
        planned.run()
    assert list(tmp_path.iterdir()) == []


def test_a_broken_oracle_is_told_and_kept(tmp_path: Path) -> None:
    """The SNN is fed other images than the ANN: plausible tables, but the first layer gives it away."""
    planned = plan(samples=20, output=tmp_path / "r.h5")
    run_ann = planned.prepared.subject.ann.forward
    planned.prepared.subject.ann.forward = lambda x: run_ann(x.roll(1, 0))
    captured = planned.run()
    (told,) = captured.broken
    assert "layer 0 (block1.act) errs in" in told
    with probe.open(captured.path) as recording:
        layer = probe.unevenness(recording, 0)["layers"][0]
        assert layer["oracle"]["broken"]
        assert layer["oracle"]["violations"] > 1000
        assert layer["cases"]["zero_over"] > 1000


def test_a_broken_oracle_is_warned_of_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan(samples=20, output=tmp_path / "r.h5")
    run_ann = planned.prepared.subject.ann.forward
    planned.prepared.subject.ann.forward = lambda x: run_ann(x.roll(1, 0))
    monkeypatch.setattr("probe.session.plan", lambda model, **options: planned)
    with pytest.warns(UserWarning, match=r"ORACLE BROKEN: .*layer 0"):
        assert probe.capture() == tmp_path / "r.h5"


@pytest.mark.parametrize("at_once", [1, 250, 10**9])
def test_answers_do_not_depend_on_how_many_logits_are_read_at_once(
    recordings: Callable[..., Path], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analysis, "LOGITS_AT_ONCE", at_once)
    with probe.open(recordings()) as recording:
        ann, snn = analysis.right_answers(recording)
        summed = np.cumsum(recording.snn_logits.astype(np.float64), axis=1)
        np.testing.assert_array_equal(snn, summed.argmax(2) == recording.labels[:, None])
        np.testing.assert_array_equal(ann, recording.ann_logits.argmax(1) == recording.labels)


def test_more_levels_and_more_times(recordings: Callable[..., Path]) -> None:
    """T = 40 keeps t = 1..8, 16, 32, 40; other t are recomputed from `full` and refused without it."""
    with probe.open(recordings(timesteps=40, levels=4, at=[12])) as recording:
        assert recording.grid == (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32, 40)
        assert recording.layers[0].statistics.spikes_at.shape == (40,)
        for t in (12, 17, 40):
            probe.unevenness(recording, timestep=t, recompute=t != 17)
        for layer in recording.layers:
            np.testing.assert_array_equal(
                layer.spikes_at, layer.snn_spikes.astype(int).sum((0, *range(2, 2 + len(layer.shape))))
            )
            np.testing.assert_array_equal(layer.spikes_per_neuron, layer.spike_count.astype(int).sum(0))
    with probe.open(recordings(timesteps=40, record="counts")) as recording:
        probe.unevenness(recording, recompute=True)
        with pytest.raises(ProbeError, match="keeps no statistics at t = 17"):
            probe.unevenness(recording, timestep=17)


def test_a_long_run_needs_no_dense_histogram(recordings: Callable[..., Path]) -> None:
    with probe.open(recordings(timesteps=300, samples=10, record="full", layers=["-1"])) as recording:
        assert recording.layers[0].index == 5
        for t in (1, 8, 128, 300):
            probe.unevenness(recording, timestep=t, recompute=True)


def test_a_neuron_that_breaks_the_conservation_law_is_told(tmp_path: Path) -> None:
    """A hard reset in one layer: the tables look plausible, the law does not hold."""
    planned = plan(samples=10, output=tmp_path / "r.h5")
    neuron = planned.prepared.subject.snn.get_submodule("block3.act")
    step = neuron._step

    def hard(x: Tensor) -> Tensor:
        output = step(x)
        neuron.potential = neuron.potential.masked_fill(output > 0, 0.0)
        return output

    neuron._step = hard
    captured = planned.run()
    (told,) = captured.broken
    assert "layer 2 (block3.act)" in told
    assert "conservation law" in told
    with probe.open(captured.path) as recording:
        law = [layer["law"]["broken"] for layer in probe.unevenness(recording)["layers"]]
        assert law == [False, False, True, False, False, False]


class Shifts(nn.Module):
    """A network that prepares its input in place, as some papers' code does."""

    def __init__(self) -> None:
        super().__init__()
        self.network = zoo.load("digits")

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.1
        out: Tensor = self.network(x)
        return out


def test_each_forward_gets_its_own_copy_of_the_input(tmp_path: Path) -> None:
    with probe.open(probe.capture(Shifts(), data="digits", samples=10, output=tmp_path / "r.h5")) as recording:
        assert recording.facts["oracles"]["0"]["applies"]
        assert probe.unevenness(recording, 0)["layers"][0]["cases"]["zero_over"] == 0


def test_what_each_network_is_fed_is_hashed_on_its_own(tmp_path: Path) -> None:
    planned = plan(samples=10, output=tmp_path / "r.h5")
    planned.prepared.subject.snn.register_forward_pre_hook(lambda _module, args: (args[0].flip(0),))
    captured = planned.run()
    assert any("were fed different numbers in 10 samples" in told for told in captured.broken)
    with probe.open(captured.path) as recording:
        ann, snn = recording.digests
        np.testing.assert_array_equal(ann, snn[::-1])


class Fickle(nn.Module):
    """A layer that is called twice, or not at all, where the batch is large."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls, self.linear, self.act = calls, nn.Linear(64, 10), QCFS(8, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x.flatten(1))
        for _ in range(1 if len(x) == 1 else self.calls):
            x = self.act(x)
        return x


@pytest.mark.parametrize(
    ("calls", "told"), [(2, "has been called 2 times by the SNN at t = 1"), (0, "was called 0 times")]
)
def test_calls_are_counted_in_the_run_itself(calls: int, told: str, tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match=told):
        probe.capture(Fickle(calls), data="digits", samples=10, output=tmp_path / "r.h5")
    assert list(tmp_path.iterdir()) == []


class Unused(Fickle):
    """A layer that no forward reaches."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.flatten(1))
        return out


class Pair(Fickle):
    """A network whose output has names."""

    def forward(self, x: Tensor) -> Tensor:
        out: Any = {"logits": super().forward(x)}
        return out


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (Unused(1), "act is never called by the ANN"),
        (Pair(1), "output is a dict"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10), QCFS(512, 1.0)), "512 levels"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Tanh()),
            "no spiking layer and no activation found among Flatten, Linear, Tanh",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 7), QCFS(8, 1.0)), "7 classes"),
        (nn.Sequential(nn.Linear(5, 10), QCFS(8, 1.0)), "cannot run a sample of shape 1x8x8"),
    ],
)
def test_networks_that_cannot_be_recorded(network: nn.Module, told: str, tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match=told):
        probe.capture(network, data="digits", samples=10, output=tmp_path / "r.h5")
    assert list(tmp_path.iterdir()) == []


def test_silenced_neurons_are_told_apart(recordings: Callable[..., Path]) -> None:
    """They could not fire: no witness of the threshold, and a trace says so."""
    with probe.open(recordings(neuron="srp")) as recording:
        layer = recording.layers[1]
        x, spikes, silenced = layer.read("snn_input")[:, 0], layer.read("snn_spikes")[:, 0], layer.silenced
        quiet = np.where((spikes == 0) & ~silenced, x, -np.inf).max((0, 2, 3))
        fired = np.where(spikes > 0, x, np.inf).min((0, 2, 3))
        kept = layer.statistics.first_input
        np.testing.assert_array_equal(kept[0], np.where(np.isinf(fired), np.nan, fired).astype(np.float32))
        np.testing.assert_array_equal(kept[1], np.where(np.isinf(quiet), np.nan, quiet).astype(np.float32))
        sample, *neuron = (int(i[0]) for i in np.nonzero(silenced))
        assert probe.trace(recording, 1, sample, neuron).silenced
        sample, *neuron = (int(i[0]) for i in np.nonzero(~silenced))
        assert not probe.trace(recording, 1, sample, neuron).silenced


def test_names_of_neurons_are_the_same_on_the_command_line() -> None:
    from probe.cli.source import NEURONS as ON_THE_COMMAND_LINE
    from probe.methods import METHODS

    assert tuple(METHODS) == ON_THE_COMMAND_LINE
