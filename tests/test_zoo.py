"""The bundled networks are as good as they are said to be, and the recipe that made them gives the same again."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from probe.data import open_data
from probe.errors import ProbeError
from probe.families import convert
from probe.neurons import QCFS, NeuronSpec
from probe.zoo import ZOO, load, load_weights
from probe.zoo.networks import digits_vgg, resnet20
from probe.zoo.train import RECIPES, Phase, augment, cut_out, evaluate, save_weights, train


@pytest.fixture
def as_found() -> Iterator[None]:
    """`train` sets two things of the whole process: the seed, and that subnormal numbers become 0."""
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)
    torch.set_flush_denormal(False)


def layer_names(network: nn.Module) -> list[str]:
    return [pair.name for pair in convert.adapt(network, "if", NeuronSpec()).layers]


def test_digits_network() -> None:
    network = load("digits")
    assert not any(module.training for module in network.modules())
    assert layer_names(network) == [*(f"block{i}.act" for i in range(1, 6)), "hidden.act"]
    data = open_data("digits", "test")
    assert len(data) == 599
    assert evaluate(network, data) >= 0.98
    thresholds = [module.threshold.item() for module in network.modules() if isinstance(module, QCFS)]
    # Trained: no longer the 2.0 they start from, and none at or below 0.
    assert all(0 < threshold != 2.0 for threshold in thresholds)
    assert {module.levels for module in network.modules() if isinstance(module, QCFS)} == {8}


def test_names() -> None:
    with pytest.raises(ProbeError, match="unknown model zoo:vgg; expected zoo:digits or zoo:resnet20-cifar10"):
        load("vgg")
    assert set(RECIPES) == set(ZOO)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    save_weights(digits_vgg(), tmp_path / "digits.npz")
    with pytest.raises(ProbeError, match="expected the weights of this architecture"):
        load_weights(resnet20(), tmp_path / "digits.npz")


def test_resnet_layers_before_training() -> None:
    """19 layers: the stem's, and two in each of nine blocks; what they are called and how they connect."""
    network = resnet20().eval()
    blocks = [f"stage{stage}.{block}.act{i}" for stage in (1, 2, 3) for block in (0, 1, 2) for i in (1, 2)]
    assert layer_names(network) == ["stem_act", *blocks]
    assert 0.26e6 < sum(parameter.numel() for parameter in network.parameters()) < 0.28e6
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.usefixtures("as_found")
def test_one_epoch_twice_gives_the_same_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = open_data("digits", "train")
    few = dataclasses.replace(data, labels=data.labels[:640])
    recipe, phase = RECIPES["digits"], Phase(epochs=1, rate=0.05)
    first, second, other = (train(recipe, few, (phase,), seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not torch.equal(first["output.weight"], other["output.weight"])
    # Ten steps learn something: less than ln 10, the loss of a guess; and what is saved comes back.
    losses = re.findall(r"epoch 1/1  loss (\d+\.\d+)", capsys.readouterr().err)
    assert losses[0] == losses[1] != losses[2]
    assert max(map(float, losses)) < np.log(10)
    network = load_weights(digits_vgg(), _saved(first, tmp_path / "digits.npz"))
    assert network.block1.act.threshold.item() == first["block1.act.threshold"].item() != 2.0
    torch.testing.assert_close(network.state_dict()["output.weight"], first["output.weight"], rtol=1e-3, atol=1e-6)


def _saved(state: dict[str, Tensor], file: Path) -> Path:
    network = digits_vgg()
    network.load_state_dict(state)
    save_weights(network, file)
    return file


@pytest.mark.parametrize("mirror", [False, True])
def test_augmented_images_are_shifted_ones(mirror: bool) -> None:
    """Each image is one of its (2·shift + 1)² shifts, mirrored or not, and all of them occur."""
    images = torch.rand(400, 2, 3, 4, generator=torch.Generator().manual_seed(0)) + 0.1
    moved = augment(images, 1, mirror, torch.Generator().manual_seed(1))
    assert moved.shape == images.shape
    outside = 0.0 if mirror else float(images.min())
    seen = set()
    for image, result in zip(images, moved, strict=True):
        padded = np.pad(image.numpy(), ((0, 0), (1, 1), (1, 1)), constant_values=outside)
        found = [
            (down, right, flipped)
            for down in range(3)
            for right in range(3)
            for flipped in ((False, True) if mirror else (False,))
            if np.array_equal(
                padded[:, down : down + 3, right : right + 4][..., :: -1 if flipped else 1], result.numpy()
            )
        ]
        assert len(found) == 1
        seen.update(found)
    assert len(seen) == (18 if mirror else 9)


def test_a_square_is_cut_out_of_each_image() -> None:
    """4x4 pixels at most, less at a border, never none; all channels alike, and nothing else changes."""
    images = torch.rand(300, 2, 8, 10, generator=torch.Generator().manual_seed(0)) + 0.1
    cut = cut_out(images.clone(), 4, torch.Generator().manual_seed(1))
    sizes = set()
    for image, result in zip(images, cut, strict=True):
        gone = result[0] == 0
        rows, columns = gone.any(1), gone.any(0)
        assert torch.equal(gone, rows[:, None] & columns[None])
        assert torch.equal(result, image.masked_fill(gone, 0))
        for kept in (rows, columns):
            place = kept.nonzero().flatten().tolist()
            assert place == list(range(place[0], place[-1] + 1))
            assert len(place) == 4 or place[0] == 0 or place[-1] == len(kept) - 1
        sizes.add((int(rows.sum()), int(columns.sum())))
    assert sizes == {(height, width) for height in range(1, 5) for width in range(1, 5)}


@pytest.mark.slow
def test_resnet_on_cifar10(shared_data: Path) -> None:
    data = open_data(f"cifar10-jpeg:{shared_data / 'cifar10-jpeg.npz'}", "test")
    assert len(data) == 10_000
    assert evaluate(load("resnet20-cifar10"), data) >= 0.87


def test_resnet_thresholds() -> None:
    thresholds = [module.threshold.item() for module in load("resnet20-cifar10").modules() if isinstance(module, QCFS)]
    assert len(thresholds) == 19
    assert min(thresholds) > 0
