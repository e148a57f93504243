"""The thresholds of a ReLU network from its activations: the maximum, a percentile, or the least mean-square error.

Two passes over the calibration samples, the second into histograms of `BINS` bins up to the maximum, so memory does not
grow with the samples.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from probe.errors import ProbeError

BINS = 2048
CANDIDATES = 256
"""Values of θ among which the least mean-square error is sought, up to the maximum."""


def check_rule(rule: str) -> float | str:
    """What a `--calibrate` rule means: `max`, `mse`, or a share such as 0.999 for `99.9%`.

    Raises:
        ProbeError: it is none of these.
    """
    if rule in ("max", "mse"):
        return rule
    percent = re.fullmatch(r"(\d+(?:\.\d+)?)%", rule)
    if percent and 0 < float(percent[1]) <= 100:
        return float(percent[1]) / 100
    raise ProbeError(
        f"calibration {rule!r}", expected="max, mse or a percentile such as 99.9%", next_step="pass --calibrate"
    )


def thresholds(
    run: Callable[[Tensor], object],
    activations: Mapping[str, nn.Module],
    batches: Callable[[], Iterable[Tensor]],
    *,
    rule: str = "99.9%",
    per: str = "layer",
    timesteps: int = 8,
) -> dict[str, npt.NDArray[np.float32]]:
    """θ of each activation.

    Args:
        run: a forward of the ANN.
        activations: path -> module, whose outputs are looked at.
        batches: gives the calibration samples, batch by batch; called twice.
        rule: `max`, `mse` (θ that makes Σ(a - θ·clip(⌊a·T/θ + ½⌋, 0, T)/T)² least), or a percentile of all outputs,
            zeros included, as the field does.
        per: `layer`, or `channel` (axis 1).
        timesteps: T, for `mse`.

    Returns:
        path -> a number, or (1, channel, 1, ...). Where nothing fires, the layer's largest, or 1.

    Raises:
        ProbeError: the rule, or outputs that are not finite.
    """
    meaning = check_rule(rule)
    if per not in ("layer", "channel"):
        raise ProbeError(f"a threshold per {per}", expected="layer or channel", next_step="pass --per")
    largest: dict[str, Tensor] = {}
    dims: dict[str, int] = {}

    def note_largest(name: str, a: Tensor) -> None:
        if not bool(torch.isfinite(a).all()):
            raise ProbeError(
                f"layer {name} gives NaN or infinity in the ANN", expected="finite activations", fault="not-finite",
                layer=name,
            )  # fmt: skip
        dims[name] = a.ndim
        here = a.detach().movedim(1, 0).flatten(1).amax(1)
        largest[name] = torch.maximum(largest[name], here) if name in largest else here

    _observe(run, activations, batches, note_largest)
    tops = {name: (found if per == "channel" else found.max()[None]).clamp(min=0) for name, found in largest.items()}
    if meaning == "max":
        return {name: _theta(top, dims[name]) for name, top in tops.items()}
    bins = {name: torch.zeros(len(top), BINS + 1, dtype=torch.float64, device=top.device) for name, top in tops.items()}

    def note_bins(name: str, a: Tensor) -> None:
        top = tops[name]
        rows = a.detach().movedim(1, 0).flatten(1) if per == "channel" else a.detach().reshape(1, -1)
        # Bin 0 holds the zeros alone; a dead channel has nothing else.
        scale = torch.where(top > 0, BINS / top, 0.0)[:, None]
        places = (rows * scale).ceil().clamp(0, BINS).long()
        for row, place in enumerate(places):
            bins[name][row] += torch.bincount(place, minlength=BINS + 1)

    _observe(run, activations, batches, note_bins)
    found = {}
    for name, top in tops.items():
        counts, highest = bins[name].cpu().numpy(), top.cpu().numpy().astype(np.float64)
        if meaning == "mse":
            values = np.array([_least_error(c, h, timesteps) for c, h in zip(counts, highest, strict=True)])
        else:
            values = np.array([_percentile(c, h, float(meaning)) for c, h in zip(counts, highest, strict=True)])
        # A percentile of mostly zeros is 0, which is no threshold.
        values = np.where(values > 0, values, highest)
        found[name] = _theta(torch.from_numpy(values.astype(np.float32)), dims[name])
    return found


def _observe(
    run: Callable[[Tensor], object],
    activations: Mapping[str, nn.Module],
    batches: Callable[[], Iterable[Tensor]],
    note: Callable[[str, Tensor], None],
) -> None:
    with ExitStack() as stack:
        for name, module in activations.items():
            handle = module.register_forward_hook(lambda _module, _args, a, name=name: note(name, a))
            stack.callback(handle.remove)
        stack.enter_context(torch.no_grad())
        for batch in batches():
            run(batch)


def _theta(values: Tensor, dims: int) -> npt.NDArray[np.float32]:
    theta = values.detach().cpu().numpy().astype(np.float32)
    alive = theta[theta > 0]
    theta = np.where(theta > 0, theta, alive.max() if alive.size else np.float32(1))
    return theta.reshape(()) if theta.size == 1 else theta.reshape(1, -1, *[1] * (dims - 2))


def _percentile(counts: npt.NDArray[np.float64], top: float, share: float) -> float:
    """The value below which a share of the counts lies, linear inside a bin."""
    summed = np.cumsum(counts)
    wanted = share * summed[-1]
    place = int(np.searchsorted(summed, wanted))
    if place == 0 or not counts[place]:
        return place * top / BINS
    inside = (wanted - summed[place - 1]) / counts[place]
    return float((place - 1 + inside) * top / BINS)


def _least_error(counts: npt.NDArray[np.float64], top: float, timesteps: int) -> float:
    """The θ of least Σ(a - q(a))², q what evenly arriving input makes of a neuron with v(0) = θ/2 in T timesteps."""
    centres = np.concatenate([[0.0], (np.arange(BINS) + 0.5) * top / BINS])
    candidates = np.arange(1, CANDIDATES + 1) * top / CANDIDATES
    if top <= 0:
        return 0.0
    theta = candidates[:, None]
    quantized = theta * np.clip(np.floor(centres * timesteps / theta + 0.5), 0, timesteps) / timesteps
    return float(candidates[int((((centres - quantized) ** 2) @ counts).argmin())])
