"""What a user gives becomes a subject, from Python and from the command line; and every mistake is one clear line."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from click.testing import Result
from torch import Tensor, nn

import probe
from probe import models
from probe.errors import ProbeError
from probe.families import Subject, Traits, time_first
from probe.neurons import IF, NeuronSpec
from tests import paper_models
from tests.test_cli import ok, refused

Run = Callable[..., Result]


def network(*middle: nn.Module, inputs: int = 64, classes: int = 10) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 12), *middle, nn.Linear(12, classes)).eval()


class Leaking(nn.Module):
    """A neuron of a user: a leak, a hard reset and firing strictly above θ = 1; it gives 2 for a spike."""

    def __init__(self) -> None:
        super().__init__()
        self.v: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        v = (0.0 if self.v is None else 0.9 * self.v) + x
        spike = (v > 1.0).float()
        self.v = v * (1 - spike)
        return 2 * spike


def leaking(**extra: Any) -> Subject:
    ann, neuron = network(nn.ReLU()), Leaking()
    snn = copy.deepcopy(ann)
    snn[2] = neuron

    def reset() -> None:
        neuron.v = None

    layer = probe.LayerPair(
        "2", snn=neuron, ann=ann[2], threshold=1.0, height=2.0, initial_fraction=0.0, neuron="mine",
        traits=Traits(reset="zero", leaky=True, fires_at=">"), potential=lambda: neuron.v,
    )  # fmt: skip
    return probe.Subject(**{"ann": ann, "snn": snn, "layers": [layer], "reset": reset, **extra})


def test_a_subject_of_ones_own_is_recorded_as_it_runs(tmp_path: Path) -> None:
    subject = leaking()
    path = probe.capture(subject, data="digits", samples=20, timesteps=5, batch_size=7, output=tmp_path / "r.h5")
    with probe.open(path) as recording:
        images = torch.from_numpy(probe_images(recording.indices))
        layer = recording.layers[0]
        assert (layer.name, layer.neuron, layer.levels, recording.attributes["family"]) == ("2", "mine", None, "user")
        neuron, potentials, spikes = Leaking(), [], []
        with torch.no_grad():
            x = subject.snn[1](images.flatten(1))
            for _ in range(5):
                spikes.append(neuron(x) / 2)
                potentials.append(neuron.v)
        np.testing.assert_array_equal(layer.snn_spikes, torch.stack(spikes, 1).numpy())
        # No law rebuilds such a potential, so it is kept.
        np.testing.assert_allclose(layer.read("membrane_potential"), torch.stack(potentials, 1).numpy(), atol=1e-5)
        table = probe.unevenness(recording, recompute=True)["layers"][0]
        assert table["attribution"] is table["local_cases"] is table["residual"] is None
        assert table["reason"].startswith("reset to zero")
        assert sum(table["cases"].values()) == table["count"] == 20 * 12
        # Half a spike either way is equal: |n - T·a/θ| <= 1/2.
        offset = layer.spike_count - 5 * layer.ann_output.astype(np.float64)
        equal = table["cases"]["zero_equal"] + table["cases"]["positive_equal"]
        assert equal == (abs(offset) <= 0.5).sum()
        found = probe.trace(recording, 0, 3, 5)
        np.testing.assert_allclose(found.potential, torch.stack(potentials, 1)[3, :, 5], atol=1e-5)


def probe_images(indices: Any) -> Any:
    from probe.data import open_data

    return open_data("digits").load(indices)


def test_a_subject_without_an_ann(tmp_path: Path) -> None:
    subject = leaking(ann=None)
    alone = Subject(**{**vars(subject), "layers": [probe.LayerPair(**{**vars(subject.layers[0]), "ann": None})]})
    path = probe.capture(alone, data="digits", samples=20, timesteps=5, output=tmp_path / "r.h5")
    with h5py.File(path) as file:
        assert set(file["output"]) == {"snn"}
        assert set(file["samples"]) == {"index", "label", "digest_snn"}
        assert "ann_output" not in file["layers/0"]
    with probe.open(path) as recording:
        assert probe.accuracy(recording)["ann"] is None
        assert probe.layer_table(recording)["layers"][0]["spikes_per_sample"] > 0
        with pytest.raises(ProbeError, match="has no ANN partner, so there is no error to speak of"):
            probe.unevenness(recording)
        with pytest.raises(ProbeError, match="recorded without an ANN"):
            _ = recording.ann_logits
        v = recording.layers[0].read("membrane_potential")
        assert v.shape == (20, 5, 12)
        np.testing.assert_array_equal(recording.layers[0].read("membrane_potential", [3, 4], slice(1, 3)), v[3:5, 1:3])
        # By default the neuron with most spikes, where there is no error to look for.
        assert probe.draw(recording, "trace").axes


def test_a_subject_that_takes_all_timesteps_in_one_call(tmp_path: Path) -> None:
    """The same neuron stepwise, T-major and B-major gives the same recording."""
    ann, recorded = network(nn.ReLU()), []
    for layout in ("step", "TB", "BT"):
        neuron = IF(0.8, NeuronSpec(), timesteps=None if layout == "step" else 4)
        snn = copy.deepcopy(ann)
        snn[2] = neuron if layout != "BT" else Swapped(neuron, 4)

        def forward(x: Tensor, timesteps: int, snn: nn.Module = snn, layout: str = layout) -> Any:
            repeated = x.repeat(timesteps, 1, 1, 1) if layout == "TB" else x.repeat_interleave(timesteps, 0)
            yield from time_first(snn(repeated), layout, timesteps, len(x))

        layer = probe.LayerPair("2", snn=snn[2], ann=ann[2], threshold=0.8, layout=layout)
        subject = probe.Subject(
            ann=ann, snn=snn, layers=[layer], reset=neuron.reset, forward_snn=None if layout == "step" else forward
        )
        path = probe.capture(
            subject, data="digits", samples=20, timesteps=4, output=tmp_path / f"{layout}.h5", strict=True
        )
        with probe.open(path) as recording:
            one = recording.layers[0]
            recorded.append((one.snn_spikes, one.snn_input, recording.snn_logits, one.statistics_at(4)))
            assert recording.facts["oracles"]["0"]["applies"]
    for other in recorded[1:]:
        for first, second in zip(recorded[0][:3], other[:3], strict=True):
            np.testing.assert_allclose(first, second, atol=1e-6)
        assert (recorded[0][3].cases == other[3].cases).all()


class Swapped(nn.Module):
    """A neuron with timesteps outermost in a network with samples outermost."""

    def __init__(self, neuron: IF, timesteps: int) -> None:
        super().__init__()
        self.neuron, self.timesteps = neuron, timesteps

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        spikes = self.neuron(x.view(-1, self.timesteps, *shape[1:]).transpose(0, 1).reshape(shape))
        return spikes.view(self.timesteps, -1, *shape[1:]).transpose(0, 1).reshape(shape)


def test_a_family_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Family:
        @staticmethod
        def match(model: Any) -> bool:
            return isinstance(model, nn.Sequential) and isinstance(model[2], Leaking)

        @staticmethod
        def adapt(model: Any) -> Subject:
            return leaking()

    monkeypatch.setattr(EntryPoint, "load", lambda self: Family)
    entry = EntryPoint("mine", "somewhere:Family", "probe.families")
    monkeypatch.setattr(models, "entry_points", lambda group: [entry] if group == "probe.families" else [])
    path = probe.capture(network(Leaking()), data="digits", samples=10, timesteps=3, output=tmp_path / "r.h5")
    with probe.open(path) as recording:
        assert recording.layers[0].neuron == "mine"


# ------------------------------------------------------------------------------------------------ the command line


def write(folder: Path, body: str) -> None:
    (folder / "nets.py").write_text(
        "import copy\nimport torch\nfrom torch import nn\nfrom tests import paper_models, relu_models\n" + body
    )


def test_layers_shows_the_pairing_before_anything_is_recorded(run: Run, tmp_path: Path) -> None:
    write(tmp_path, "def pair():\n    return paper_models.stepwise()\n")
    printed = ok(run("layers", "--model", "nets.py:pair", "--data", "digits", "-T", 4))
    assert printed.startswith("nets.py:pair: qcfs-stepwise, T = 4, 10 classes\n")
    first = next(line for line in printed.splitlines() if line.startswith("0 "))
    cells = "block1.act MyFloor block1.act ScaledNeuron if 16x8x8 8 1.329507 0.5 all"
    assert first.split()[1:] == cells.split()
    table = json.loads(ok(run("layers", "--model", "nets.py:pair", "--data", "digits", "--json")))
    assert table["schema"] == "probe-pairing/1"
    assert [(row["ann"], row["snn"]) for row in table["layers"]][-1] == ("hidden.act", "hidden.act")
    assert ok(run("layers", "--model", "nets.py:pair", "--data", "digits", "--csv")).startswith("index,name,ann,")
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".h5"] == []
    refused(run("layers", "r.h5", "--model", "zoo:digits"), "one of them")
    refused(run("layers", "--data", "digits"), "--data without --model")


def test_arguments_reach_the_callable(run: Run, tmp_path: Path) -> None:
    write(tmp_path, "def pair(tau, timesteps=8):\n    return paper_models.srp(tau, timesteps)\n")
    given = ("nets.py:pair", "--data", "digits", "--samples", 10)
    ok(run("capture", *given, "--model-arg", "tau=2", "--model-arg", "timesteps=4"))
    with probe.open(tmp_path / "recording.h5") as recording:
        assert recording.timesteps == 4
        assert recording.layers[0].traits["presteps"] == 2
        assert recording.attributes["model"] == "nets.py:pair"
    refused(run("capture", *given, "--overwrite"), "tau")
    refused(run("capture", *given, "--overwrite", "--model-arg", "tau=2", "-T", 5), "made for 8 timesteps", "-T 8")
    refused(run("capture", *given, "--overwrite", "--model-arg", "tau"), "--model-arg")


def test_a_checkpoint_is_fitted_and_remembered(run: Run, tmp_path: Path) -> None:
    import hashlib

    write(tmp_path, "def merged():\n    return paper_models.MergedNetwork(paper_models.swapped(\n"
          "        lambda q: paper_models.MergedIF(8, 99.0))).eval()\n")  # fmt: skip
    state = {f"module.{key}": value for key, value in paper_models.merged().state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "a.pth")
    ok(run("capture", "nets.py:merged", "--data", "digits", "--checkpoint", "a.pth", "--samples", 20))
    with probe.open(tmp_path / "recording.h5") as recording:
        assert (
            recording.attributes["checkpoint_sha256"] == hashlib.sha256((tmp_path / "a.pth").read_bytes()).hexdigest()
        )
        assert float(recording.layers[0].threshold) == pytest.approx(1.329507)
        assert probe.accuracy(recording)["ann"] > 0.9
    del state["module.body.output.weight"]
    torch.save(state, tmp_path / "b.pth")
    refused(run("capture", "nets.py:merged", "--data", "digits", "--checkpoint", "b.pth", "--overwrite"),
            "body.output.weight")  # fmt: skip
    torch.save(paper_models.merged(), tmp_path / "whole.pth")
    refused(run("capture", "nets.py:merged", "--data", "digits", "--checkpoint", "whole.pth", "--overwrite"),
            "--trust-checkpoint")  # fmt: skip


MISTAKES = {
    "no spiking layer, and what was seen": (
        "def make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Tanh())",
        ["no spiking layer and no activation found among Flatten, Linear, Tanh"],
    ),
    "no spiking layer in the SNN": (
        "def make():\n    n = relu_models.architecture()\n    return n, copy.deepcopy(n)",
        ["no spiking layer found in the SNN, among AvgPool2d, BatchNorm2d"],
    ),
    "both the same object": (
        "def make():\n    n = relu_models.architecture()\n    return n, n",
        ["ANN and SNN are the same object, and it has no mode switch", "set_T"],
    ),
    "other classes in the two networks": (
        "def make():\n    ann, snn = paper_models.stepwise()\n    ann.output = nn.Linear(64, 7)\n    return ann, snn",
        ["ANN (1, 7) and SNN (1, 10)", "alike in both"],
    ),
    "other classes in the data": (
        "def make():\n    n = paper_models.merged()\n    n.body.output = nn.Linear(64, 7)\n    return n",
        ["7 classes apart and digits has 10"],
    ),
    "a wrong shape, and which is wanted": (
        "def make():\n    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))",
        ["cannot run a sample of shape 1x8x8", "samples of 3 x HxW"],
    ),
    "a callable that raises": (
        "def helper():\n    raise KeyError('weights')\n\ndef make():\n    return helper()",
        ["nets.py:make raised KeyError", "weights"],
    ),
    "a callable that returns nothing": ("def make():\n    pass", ["nets.py:make returned None"]),
    "an activation without a partner": (
        "def make():\n    ann, snn = paper_models.stepwise()\n    ann.block1.act = nn.ReLU6()\n    return ann, snn",
        ["ways to pair", "block2.act (16x8x8)", "--pair ANN.NAME=SNN.NAME"],
    ),
    "a threshold below 0": (
        "def make():\n    n = paper_models.merged()\n    n.body.block3.act.thresh.data[:] = -0.5\n    return n",
        ["layer body.block3.act has threshold -0.5"],
    ),
    "outputs that are no spikes": (
        "class Smooth(paper_models.ScaledNeuron):\n    def forward(self, x):\n"
        "        return torch.sigmoid(10 * (x - self.scale))\n"
        "def make():\n"
        "    return paper_models.stepwise_ann(), paper_models.swapped(lambda q: Smooth(q.threshold.item()))",
        ["away from whole numbers of spikes of height 1.3"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_one_line(mistake: str, run: Run, tmp_path: Path) -> None:
    body, parts = MISTAKES[mistake]
    write(tmp_path, body + "\n")
    for command in (("capture", "nets.py:make"), ("layers", "--model", "nets.py:make")):
        result = run(*command, "--data", "digits", "--samples", 10)
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        assert isinstance(result.exception, SystemExit)
        last = result.stderr.splitlines()[-1]
        assert last.startswith("probe: ")
        for part in parts:
            assert part in last
        if "Traceback" in result.stderr:
            # Only the user's own frames.
            frames = [line for line in result.stderr.splitlines() if line.startswith("  File ")]
            assert frames
            assert all("nets.py" in frame for frame in frames)
        assert "Traceback" in result.stderr or mistake != "a callable that raises"
    assert not (tmp_path / "recording.h5").exists()


def test_own_neurons_and_options_for_others_are_refused() -> None:
    pair = paper_models.stepwise()
    for options, flag in (({"neuron": "snm"}, "--neuron snm"), ({"levels": 4}, "--levels 4")):
        with pytest.raises(ProbeError, match=f"{flag} with neurons of the family qcfs-stepwise"):
            probe.capture(pair, data="digits", samples=10, output="never.h5", **options)
    with pytest.raises(ProbeError, match="unknown option sample; expected samples"):
        probe.capture(pair, data="digits", sample=10)
    with pytest.raises(ProbeError, match="a model of type int"):
        probe.capture(3, data="digits")
    with pytest.raises(ProbeError, match="checkpoint with a model that is no name"):
        probe.capture(pair[0], data="digits", checkpoint="x.pth")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["merged", "stepwise", "srp"])
def test_a_gpu_gives_the_same_recording_up_to_rounding(name: str, tmp_path: Path) -> None:
    counts = []
    for device in ("cpu", "cuda"):
        path = probe.capture(
            getattr(paper_models, name)(), data="digits", device=device, samples=50, output=tmp_path / f"{device}.h5"
        )
        with probe.open(path) as recording:
            counts.append([layer.spike_count for layer in recording.layers])
    for one, other in zip(*counts, strict=True):
        assert (one != other).mean() < 1e-4


def test_activations_that_the_forward_does_not_call_stay(tmp_path: Path) -> None:
    """As the auxiliary heads of torchvision's networks in evaluation."""

    class WithHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.aux = network(nn.ReLU()), network(nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.body(x)
            return out + self.aux(x) if self.training else out

    path = probe.capture(WithHead(), data="digits", samples=10, timesteps=3, output=tmp_path / "r.h5")
    with probe.open(path) as recording:
        assert [layer.name for layer in recording.layers] == ["body.2"]
        assert recording.facts["unpaired"] == ["ANN aux.2"]


def test_options_that_do_not_fit_are_refused() -> None:
    for model, options, told in (
        (network(nn.ReLU()), {"pairs": {"a": "b"}}, "--pair with a single network"),
        (paper_models.merged(), {"average_pool": True}, "--average-pool with neurons of the family qcfs-merged"),
        (paper_models.merged(), {"initial_potential": 0.0}, "--initial-potential 0.0 with neurons of the family"),
        (paper_models.stepwise(), {"initial_potential": 0.25}, "--initial-potential 0.25 with neurons"),
        (paper_models.stepwise(), {"average_pool": True}, "--average-pool  ?with neurons of the family"),
        (network(nn.ReLU()), {"levels": 4}, "--levels with a ReLU network"),
        (network(nn.ReLU()), {"calibrate": "most"}, "calibration 'most'"),
    ):
        with pytest.raises(ProbeError, match=told):
            probe.capture(model, data="digits", samples=10, output="never.h5", **options)


def test_a_pair_of_networks_with_modes(tmp_path: Path) -> None:
    """Also where the ANN was left at some T: it is switched, and left as it was found."""
    ann, snn = paper_models.merged(), paper_models.merged()
    ann.set_T(3)
    paths = [
        probe.capture(model, data="digits", samples=20, timesteps=4, output=tmp_path / f"{i}.h5", strict=True)
        for i, model in enumerate(((ann, snn), paper_models.merged()))
    ]
    assert (ann.T, snn.T) == (3, 0)
    with probe.open(paths[0]) as one, probe.open(paths[1]) as other:
        for first, second in zip(one.layers, other.layers, strict=True):
            assert first.levels == 8
            assert (first.spike_count == second.spike_count).all()
            assert (first.ann_output == second.ann_output).all()


def test_a_refused_pair_is_left_as_found() -> None:
    """The pairing is ambiguous: the ANN is at its T again, though it was run at T = 0."""
    ann, snn = paper_models.merged(), paper_models.merged()
    ann.body.block1.act = nn.Identity()
    ann.set_T(3)
    with pytest.raises(ProbeError, match="ways to pair"):
        probe.capture((ann, snn), data="digits", samples=10, timesteps=4, output="never.h5")
    assert (ann.T, snn.T) == (3, 0)


def test_a_stray_relu_of_a_network_with_modes_stays(tmp_path: Path) -> None:
    model = paper_models.merged()
    model.body.block2.act = nn.ReLU()
    path = probe.capture(model, data="digits", neuron="if", samples=10, timesteps=3, output=tmp_path / "r.h5")
    with probe.open(path) as recording:
        assert [layer.name for layer in recording.layers] == [f"body.{name}" for name in
                ("block1.act", "block3.act", "block4.act", "block5.act", "hidden.act")]  # fmt: skip
        assert recording.facts["unpaired"] == ["ANN body.block2.act"]


def test_logits_of_other_samples_are_refused(tmp_path: Path) -> None:
    ann = network(nn.ReLU())
    neuron = IF(0.8, NeuronSpec())
    snn = copy.deepcopy(ann)
    snn[2] = neuron

    def some(x: Tensor, timesteps: int) -> Any:
        for _ in range(timesteps):
            yield snn(x)[: max(1, len(x) - 1)]

    def fewer(x: Tensor, timesteps: int) -> Any:
        for t in range(timesteps):
            out = snn(x)
            if t:
                yield out

    layer = probe.LayerPair("2", snn=neuron, ann=ann[2], threshold=0.8)
    for forward, told in ((some, r"logits of shape \(9, 10\) and \(10, 10\)"), (fewer, "4 in all")):
        subject = probe.Subject(ann=ann, snn=snn, layers=[layer], reset=neuron.reset, forward_snn=forward)
        with pytest.raises(ProbeError, match=told):
            probe.capture(subject, data="digits", samples=10, timesteps=4, output=tmp_path / "r.h5")


def test_cos_of_ours_is_that_of_the_papers_code(tmp_path: Path) -> None:
    """The same weights, two implementations: every spike of every neuron is equal."""
    paths = [
        probe.capture(model, data="digits", samples=50, timesteps=6, output=tmp_path / f"{i}.h5", **options)
        for i, (model, options) in enumerate(
            (("zoo:digits", {"neuron": "cos"}), (paper_models.cos(presim_len=6, sim_len=6), {}))
        )
    ]
    with probe.open(paths[0]) as ours, probe.open(paths[1]) as theirs:
        for one, other in zip(ours.layers, theirs.layers, strict=True):
            assert (one.snn_spikes == other.snn_spikes).all()
        assert not ours.layers[0].traits["causal"]


def test_the_initial_potential_of_a_conversion(tmp_path: Path) -> None:
    path = probe.capture("zoo:digits", initial_potential=0.0, samples=50, output=tmp_path / "r.h5", strict=True)
    with probe.open(path) as recording:
        assert [layer.initial_fraction for layer in recording.layers] == [0.0] * 6
        # v(0) = 0 loses half a spike on average in the first layer, and nothing else.
        pieces = probe.unevenness(recording, 0)["layers"][0]["attribution"]
        assert pieces["initial_potential"]["share"] == pytest.approx(1)
        assert pieces["initial_potential"]["mean"] < 0
    with pytest.raises(ProbeError, match=r"v\(0\) = 1 θ; expected 0 up to, but not, 1"):
        probe.capture("zoo:digits", initial_potential=1.0, output=tmp_path / "s.h5")


# ---------------------------------------------------------------------------------- wrapped, mixed, other types


def test_wrappers_are_looked_through(tmp_path: Path) -> None:
    """In DataParallel the network's own neurons are run, here with v(0) = 0, and not probe's in their place."""

    class Zero(paper_models.MergedIF):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if self.T == 0 else super().forward(x - 0.5 * self.thresh / self.T)

    def made() -> nn.Module:
        return paper_models.MergedNetwork(paper_models.swapped(lambda q: Zero(q.levels, q.threshold.item()))).eval()

    recorded = []
    for i, model in enumerate((made(), nn.DataParallel(made()), torch.compile(made()))):
        path = probe.capture(model, data="digits", samples=20, timesteps=4, output=tmp_path / f"{i}.h5")
        with probe.open(path) as recording:
            assert recording.attributes["family"] == "qcfs-merged"
            recorded.append([layer.spike_count for layer in recording.layers])
    for other in recorded[1:]:
        assert all((one == two).all() for one, two in zip(recorded[0], other, strict=True))


def test_a_layer_without_a_partner_leaves_the_others_their_tables(tmp_path: Path) -> None:
    ann, (first, second) = network(nn.ReLU(), nn.Linear(12, 12)), (IF(0.8), IF(0.5))
    snn = copy.deepcopy(ann)
    snn[2], snn[3] = first, nn.Sequential(snn[3], second)
    layers = [
        probe.LayerPair("2", snn=first, ann=ann[2], threshold=0.8),
        probe.LayerPair("extra", snn=second, threshold=0.5),
    ]

    def reset() -> None:
        first.reset()
        second.reset()

    subject = probe.Subject(ann=ann, snn=snn, layers=layers, reset=reset)
    path = probe.capture(subject, data="digits", samples=10, timesteps=3, output=tmp_path / "r.h5")
    with probe.open(path) as recording:
        assert [row["name"] for row in probe.unevenness(recording)["layers"]] == ["2"]
        with pytest.raises(ProbeError, match=r"layer 1 \(extra\) has no ANN partner"):
            probe.unevenness(recording, "extra")
        for kind in ("cases", "attribution", "phi", "rates"):
            assert probe.draw(recording, kind).axes


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_models_of_another_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    model = network(nn.ReLU()).to(dtype)
    path = probe.capture(model, data="digits", samples=10, timesteps=3, output=tmp_path / "r.h5")
    with probe.open(path) as recording:
        assert recording.layers[0].snn_input.dtype == np.float32
        assert (recording.digests[0] == recording.digests[1]).all()
    assert next(model.parameters()).dtype == dtype


def test_what_stays_analog_is_named(run: Run, tmp_path: Path) -> None:
    write(tmp_path, "def make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU6(),\n"
          "                         nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 10))\n")  # fmt: skip
    result = run("layers", "--model", "nets.py:make", "--data", "digits")
    ok(result)
    assert "without a partner: ANN 2 (ReLU6, left analog)" in result.stderr
    write(tmp_path, "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
          "        self.conv, self.act, self.out = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Linear(36, 10)\n"
          "    def forward(self, x):\n        x = nn.functional.max_pool2d(self.act(self.conv(x)), 2)\n"
          "        return self.out(x.flatten(1))\n")  # fmt: skip
    Path("nets.py").rename("pools.py")
    result = run("layers", "--model", "pools.py:Net", "--data", "digits")
    assert "max-pooling in the forward" in result.stderr
    refused(run("layers", "--model", "pools.py:Net", "--data", "digits", "--average-pool"),
            "--average-pool cannot replace functional max-pooling")  # fmt: skip


def test_thresholds_that_differ_between_partners() -> None:
    ann, snn = paper_models.stepwise()
    snn.block3.act.scale = 0.7
    with pytest.raises(ProbeError, match=r"ANN block3.act has θ = 1.68104 and SNN block3.act has 0.7"):
        probe.capture((ann, snn), data="digits", samples=10, output="never.h5")
