"""The neurons against exact fractions, their edges, and stepwise against merged time in whole networks."""

from __future__ import annotations

import copy
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from probe.neurons import (
    IF,
    NEGATIVE,
    NEURONS,
    QCFS,
    Negative,
    NeuronSpec,
    floor_straight_through,
    if_step,
    qcfs,
    replace_modules,
    signed_if_step,
    silenced_by_srp,
)
from tests.reference import Neuron, exact, qcfs_level, simulate

pytestmark = pytest.mark.usefixtures("one_thread")


UNGUARDED = {f"{name}, unguarded": edge._replace(guarded=False) for name, edge in NEGATIVE.items()}
KINDS = (*NEURONS, *UNGUARDED)
PRESTEPS = 3


def spec_of(kind: str, initial: float = 0.5) -> NeuronSpec:
    if kind in UNGUARDED:
        return NeuronSpec(negative=UNGUARDED[kind], initial_potential=initial)
    return NeuronSpec.named(kind, presteps=PRESTEPS, initial_potential=initial)


def reference_of(kind: str, threshold: float, initial: float = 0.5) -> Neuron:
    return Neuron(
        Fraction(threshold),
        Fraction(initial).limit_denominator(1000),
        kind.removesuffix(", unguarded"),
        guarded=kind not in UNGUARDED,
        presteps=PRESTEPS if "srp" in kind else 0,
    )


def run_stepwise(module: IF, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and potentials after each step, both (timestep, sample, *neuron); inputs likewise."""
    outputs, potentials = [], []
    for x in inputs:
        outputs.append(module(x))
        potentials.append(torch.zeros_like(x) if module.potential is None else module.potential.clone())
    return torch.stack(outputs), torch.stack(potentials)


def dyadic(rng: np.random.Generator, shape: tuple[int, ...], low: int, high: int, unit: float) -> Tensor:
    """Whole multiples of a power of two: sums of them are exact in float32, whatever their order."""
    return torch.from_numpy(rng.integers(low, high, shape).astype(np.float32)) * unit


# ---------------------------------------------------------------------------------------------------- QCFS


def test_qcfs_by_hand() -> None:
    # θ = 2, L = 4: steps of 0.5, and the edges between them at 0.25, 0.75, ...
    x = torch.tensor([-5.0, 0.0, 0.24, 0.25, 0.74, 0.75, 1.0, 1.74, 1.75, 2.0, 9.0])
    assert qcfs(x, 2.0, 4).tolist() == [0, 0, 0, 0.5, 0.5, 1, 1, 1.5, 2, 2, 2]


@pytest.mark.parametrize("threshold", [1.0, 0.25, 8.0, 0.21432, 3.3])
@pytest.mark.parametrize("levels", [1, 2, 4, 8, 255])
def test_clip_then_floor_is_floor_then_clip(levels: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(levels)
    x = threshold * (3 * torch.rand(20_000, generator=generator) - 1)
    floor_first = ((x / threshold) * levels + 0.5).floor().clamp(0, levels)
    assert torch.equal(qcfs(x, threshold, levels), threshold * floor_first / levels)
    assert set(floor_first.tolist()) == set(range(levels + 1))


@pytest.mark.parametrize("threshold", [1.0, 0.25, 8.0])
@pytest.mark.parametrize("levels", [1, 2, 4, 8])
def test_clip_then_floor_exactly_at_the_edges(levels: int, threshold: float) -> None:
    # θ·(k - ½)/L belongs to level k, and what lies θ/65536 below it to k - 1; powers of two, so nothing rounds.
    edges = threshold * (torch.arange(-2, levels + 4) - 0.5) / levels
    x = torch.cat([edges, edges - threshold / 65_536, torch.tensor([0.0, threshold])])
    floor_first = (x / threshold * levels + 0.5).floor().clamp(0, levels)
    expected = [qcfs_level(one, Fraction(threshold), levels) for one in exact(x)]
    assert floor_first.tolist() == expected
    assert torch.equal(qcfs(x, threshold, levels), threshold * floor_first / levels)


def test_straight_through_floor_is_the_floor_bit_by_bit() -> None:
    x = torch.cat([torch.linspace(0.5, 255.5, 99_991), torch.arange(256.0)])
    x = torch.cat([x, torch.nextafter(x, torch.tensor(0.0))])
    x.requires_grad_()
    floored = floor_straight_through(x)
    assert torch.equal(floored, x.floor())
    floored.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("levels", [1, 4, 8])
def test_gradients_of_input_and_threshold(levels: int) -> None:
    """With the floor passed straight through, ∂a/∂x = [0 < x < θ] and ∂a/∂θ = (a - x)/θ inside, 1 above, 0 below."""
    activation = QCFS(levels, threshold=1.5)
    x = torch.linspace(-1, 3, 401)[torch.randperm(401, generator=torch.Generator().manual_seed(0))]
    x = x[(x != 0) & (x != 1.5)].requires_grad_()
    a = activation(x)
    weight = torch.rand(len(x), generator=torch.Generator().manual_seed(1))
    (weight * a).sum().backward()
    inside = ((x > 0) & (x < 1.5)).float()
    assert x.grad is not None
    assert activation.threshold.grad is not None
    torch.testing.assert_close(x.grad, weight * inside)
    of_threshold = torch.where(inside.bool(), (a - x) / 1.5, (x > 1.5).float()).detach()
    torch.testing.assert_close(activation.threshold.grad, (weight * of_threshold).sum())
    assert activation.threshold.grad.shape == ()
    assert 0.0 < inside.mean() < 1.0


# ------------------------------------------------------------------------------------------ one neuron


@pytest.mark.parametrize("initial", [0.0, 0.25, 0.5, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_neuron_against_fractions(kind: str, initial: float) -> None:
    rng = np.random.default_rng(KINDS.index(kind))
    seen: set[int] = set()
    for threshold in (1.0, 0.25, 2.0):
        # Multiples of θ/16 from -1.25 θ to 1.5 θ: every edge is hit exactly now and then, unless v(0) = 0.3 θ.
        inputs = dyadic(rng, (PRESTEPS + 12, 6, 5), -20, 25, threshold / 16)
        spec = spec_of(kind, initial)
        inputs = inputs if spec.presteps else inputs[PRESTEPS:]
        module = IF(threshold, spec)
        outputs, potentials = run_stepwise(module, inputs)
        for at in np.ndindex(6, 5):
            trace = simulate(exact(inputs[(slice(None), *at)]), reference_of(kind, threshold, initial))
            kept = slice(spec.presteps, None)
            spikes = (outputs[(kept, *at)] / threshold).tolist()
            assert spikes == list(trace.spikes)
            seen.update(trace.spikes)
            if spec.presteps:
                assert module.silenced is not None
                assert bool(module.silenced[at]) == trace.silenced
            if not trace.silenced:
                expected = [float(v) for v in trace.potentials]
                tolerance = 0.0 if initial != 0.3 else 1e-5
                assert potentials[(kept, *at)].tolist() == pytest.approx(expected, rel=0, abs=tolerance)
    assert seen == ({0, 1} if kind in ("if", "srp") else {-1, 0, 1})


def test_initial_potential_is_half_a_threshold_and_can_be_set() -> None:
    assert NeuronSpec().initial_potential == 0.5
    assert all(NeuronSpec.named(name).initial_potential == 0.5 for name in NEURONS)
    assert IF(3.0).initial_potential.item() == 1.5
    assert IF(3.0, NeuronSpec(initial_potential=0.25)).initial_potential.item() == 0.75
    # x = θ/2 reaches θ at once from v(0) = θ/2, and at t = 2 from v(0) = 0.
    x = torch.full((3, 1), 1.5)
    assert [IF(3.0)(x[:1]).item(), IF(3.0, NeuronSpec(initial_potential=0.0))(x[:1]).item()] == [3.0, 0.0]
    outputs, _ = run_stepwise(IF(3.0, NeuronSpec(initial_potential=0.0)), x[:, None])
    assert outputs.flatten().tolist() == [0, 3, 0]


def test_fires_at_the_threshold_exactly() -> None:
    just_below = torch.nextafter(torch.tensor(2.0), torch.tensor(0.0)).item()
    step = if_step(torch.zeros(3), torch.tensor([2.0, just_below, 5.0]), 2.0)
    assert step.spike.tolist() == [1, 0, 1]
    # One spike a step, and what is above the threshold stays.
    assert step.potential.tolist() == [0, just_below, 3]


def test_negative_thresholds_and_guard() -> None:
    below_zero = -torch.finfo(torch.float32).smallest_normal
    charged = torch.tensor([2.0, 0.0, below_zero, -1.99, -2.0, -7.0])
    counts = torch.ones(6)
    zero = torch.zeros(6)

    def spikes(negative: Negative, count: Tensor) -> list[float]:
        return signed_if_step(zero, charged, count, 2.0, negative).spike.tolist()

    # θ = 2. snm: at or below -θ. negspike: strictly below 0. Both only with a net count above 0.
    assert spikes(NEGATIVE["snm"], counts) == [1, 0, 0, 0, -1, -1]
    assert spikes(NEGATIVE["negspike"], counts) == [1, 0, -1, -1, -1, -1]
    assert spikes(NEGATIVE["snm"], zero) == spikes(NEGATIVE["negspike"], zero) == [1, 0, 0, 0, 0, 0]
    assert spikes(UNGUARDED["snm, unguarded"], zero) == [1, 0, 0, 0, -1, -1]
    assert spikes(UNGUARDED["negspike, unguarded"], -counts) == [1, 0, -1, -1, -1, -1]
    # A threshold of one's own: at or below -θ/2 = -1.
    assert spikes(Negative(0.5, inclusive=True), counts) == [1, 0, 0, -1, -1, -1]
    # A negative spike gives θ back.
    step = signed_if_step(zero, charged, counts, 2.0, NEGATIVE["snm"])
    assert step.potential.tolist() == pytest.approx([0, 0, below_zero, -1.99, 0, -5])


def test_guard_keeps_every_net_count_at_or_above_zero() -> None:
    rng = np.random.default_rng(5)
    inputs = dyadic(rng, (20, 50, 4), -24, 17, 1 / 16)
    for kind in KINDS:
        outputs, _ = run_stepwise(IF(1.0, spec_of(kind)), inputs)
        lowest = int(outputs[PRESTEPS if "srp" in kind else 0 :].cumsum(0).min())
        assert (lowest < 0) == (kind in UNGUARDED)


def test_srp_mask_and_restart() -> None:
    assert silenced_by_srp(torch.tensor([-1.0, 0.0, 0.002, 0.0021, 1.0]), 2.0).tolist() == [True] * 3 + [False] * 2
    # θ = 1, v(0) = ½, τ = 2. Neuron 0 gets -½, 0: v(2) = 0, silenced. Neuron 1 gets ½, ¼: it fires, v(2) = ¼.
    module = IF(1.0, NeuronSpec.named("srp", presteps=2))
    inputs = torch.tensor([[-0.5, 0.5], [0.0, 0.25], [1.0, 0.5], [1.0, 0.0], [1.0, 0.5]])[:, None]
    outputs, _ = run_stepwise(module, inputs)
    assert module.silenced is not None
    assert module.silenced.tolist() == [[True, False]]
    # The pre-simulation is heard by the next layer. Then neuron 1 starts from ½ again: ½ + ½ = 1 fires, 0, ½ does not.
    assert outputs[:, 0].tolist() == [[0, 1], [0, 0], [0, 1], [0, 0], [0, 0]]
    assert module.potential is not None
    assert module.potential[0, 1].item() == 0.5


def test_reset_forgets_everything() -> None:
    rng = np.random.default_rng(8)
    for kind in KINDS:
        module = IF(1.0, spec_of(kind))
        inputs = dyadic(rng, (PRESTEPS + 5, 4, 6), -16, 20, 1 / 16)
        first, _ = run_stepwise(module, inputs)
        carried, _ = run_stepwise(module, inputs)
        module.reset()
        assert (module.potential, module.silenced, module.count) == (None, None, None)
        again, _ = run_stepwise(module, inputs)
        assert torch.equal(first, again)
        assert not torch.equal(first, carried)


@pytest.mark.parametrize("timesteps", [None, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_threshold_per_channel(kind: str, timesteps: int | None) -> None:
    """One layer with three thresholds is three layers with one each."""
    rng = np.random.default_rng(3)
    thresholds = torch.tensor([0.5, 1.0, 4.0])
    spec = spec_of(kind)
    steps = 6 + spec.presteps
    inputs = dyadic(rng, (steps, 2, 3, 4, 4), -20, 26, 1 / 16) * thresholds.view(3, 1, 1)

    def run(threshold: Tensor, x: Tensor) -> Tensor:
        module = IF(threshold, spec, timesteps=timesteps)
        return module(x.flatten(0, 1)).unflatten(0, (steps, -1)) if timesteps else run_stepwise(module, x)[0]

    for shape in ((3, 1, 1), (1, 3, 1, 1)):
        together = run(thresholds.view(shape), inputs)
        for channel, threshold in enumerate(thresholds):
            assert torch.equal(together[:, :, channel], run(threshold, inputs[:, :, channel]))
            assert set((together[:, :, channel] / threshold).unique().tolist()) >= {0, 1}


@pytest.mark.parametrize("kind", KINDS)
def test_conservation_law(kind: str) -> None:
    """v(t) = v(0) + Σx - θ·n at every t, from τ + 1 on for SRP: exactly on a dyadic grid, within rounding elsewhere."""
    rng = np.random.default_rng(21)
    spec = spec_of(kind, 0.25)
    for threshold, tolerance in ((2.0, 0.0), (0.21432, 1e-5)):
        steps = spec.presteps + 16
        inputs = dyadic(rng, (steps, 10, 7), -16, 24, 1 / 16)
        inputs *= threshold if tolerance == 0 else float(np.float32(threshold * 1.0371))
        module = IF(threshold, spec)
        outputs, potentials = run_stepwise(module, inputs)
        kept = slice(spec.presteps, None)
        law = 0.25 * module.threshold + inputs[kept].cumsum(0) - outputs[kept].cumsum(0)
        difference = (law - potentials[kept]).abs()
        if module.silenced is not None:
            assert 0 < int(module.silenced.sum()) < module.silenced.numel()
            difference = difference[:, ~module.silenced]
        assert float(difference.max()) <= tolerance * threshold


def test_unknown_neuron_is_refused() -> None:
    assert [NeuronSpec.named(name).presteps for name in NEURONS] == [0, 0, 0, 4, 4]
    for name in ("lif", "negspike+srp", "", "IF"):
        with pytest.raises(KeyError):
            NeuronSpec.named(name)


# ---------------------------------------------------------------------------------------- whole networks


def dyadic_network(seed: int) -> nn.Sequential:
    """Two convolutions, a pool and two linear layers whose weights make every sum exact, in whatever order."""
    rng = np.random.default_rng(seed)
    network = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        QCFS(4, threshold=1.0),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 5, 3),
        QCFS(8, threshold=0.5),
        nn.Flatten(),
        nn.Linear(20, 12),
        QCFS(8, threshold=2.0),
        nn.Linear(12, 4),
    )
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim:
                parameter.copy_(dyadic(rng, tuple(parameter.shape), -4, 6, 1 / 16))
    return network.eval()


def spiking(network: nn.Module, spec: NeuronSpec, timesteps: int | None) -> tuple[nn.Module, list[IF]]:
    copied = copy.deepcopy(network)
    found = {name: module for name, module in copied.named_modules() if isinstance(module, QCFS)}
    neurons = {name: IF(module.threshold, spec, timesteps=timesteps) for name, module in found.items()}
    replace_modules(copied, dict(neurons))
    return copied, list(neurons.values())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_merged_and_stepwise_networks_spike_alike(kind: str, seed: int) -> None:
    """All T steps in one call, (T·B, ...) with time outermost, and T calls of (B, ...): bit by bit the same network."""
    spec = spec_of(kind)
    timesteps, samples = 7, 3
    steps = spec.presteps + timesteps
    images = dyadic(np.random.default_rng(100 + seed), (steps, samples, 2, 8, 8), -6, 12, 1 / 8)
    network = dyadic_network(seed)
    seen: dict[str, list[list[Tensor]]] = {"stepwise": [[], [], []], "merged": [[], [], []]}
    logits: dict[str, Tensor] = {}
    with torch.no_grad():
        for way, merged in (("stepwise", None), ("merged", timesteps)):
            snn, neurons = spiking(network, spec, merged)
            for kept, neuron in zip(seen[way], neurons, strict=True):
                neuron.register_forward_hook(lambda _m, _x, output, kept=kept: kept.append(output.clone()))
            if merged:
                logits[way] = snn(images.flatten(0, 1)).unflatten(0, (steps, samples))
                assert all(neuron.potential is None and neuron.calls == 0 for neuron in neurons)
            else:
                logits[way] = torch.stack([snn(image) for image in images])
    assert torch.equal(logits["stepwise"], logits["merged"])
    for of_stepwise, of_merged, threshold in zip(*seen.values(), (1.0, 0.5, 2.0), strict=True):
        assert (len(of_stepwise), len(of_merged)) == (steps, 1)
        together = of_merged[0].unflatten(0, (steps, samples))
        assert torch.equal(torch.stack(of_stepwise), together)
        assert {0.0, 1.0} <= set((together / threshold).unique().tolist()) <= {-1.0, 0.0, 1.0}


def test_merged_time_is_outermost() -> None:
    # Two samples, three steps: sample 0 gets θ at every t, sample 1 nothing. T-major: a, b, a, b, a, b.
    x = torch.tensor([1.0, 0.0] * 3)[:, None]
    module = IF(1.0, timesteps=3)
    assert module(x).flatten().tolist() == [1, 0, 1, 0, 1, 0]
    # No state outlives the call.
    assert torch.equal(module(x), module(x))


def test_replace_modules_leaves_the_rest() -> None:
    network: Any = nn.Sequential(nn.Sequential(nn.Linear(2, 2), QCFS()), QCFS())
    first, second = IF(1.0), IF(2.0)
    linear = network[0][0]
    replace_modules(network, {"0.1": first, "1": second})
    assert network[0][1] is first
    assert network[1] is second
    assert network[0][0] is linear
