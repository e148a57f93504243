"""Pairing: the longest order-preserving way, told apart from several; by hand, by name, by order and shape."""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import probe
from probe.errors import ProbeError
from probe.pairing import LISTED, Seen, alignment, order_of, pair
from probe.session import plan
from tests import paper_models

pytestmark = pytest.mark.usefixtures("one_thread")

# ---------------------------------------------------------------------------------------------- alignment


def all_ways(left: Sequence[Any], right: Sequence[Any]) -> list[frozenset[tuple[int, int]]]:
    """Every set of pairs of equal items in which neither index repeats and both grow together."""
    equal = [(i, j) for i in range(len(left)) for j in range(len(right)) if left[i] == right[j]]
    found = []
    for size in range(min(len(left), len(right)) + 1):
        for chosen in itertools.combinations(equal, size):
            if all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(chosen)):
                found.append(frozenset(chosen))
    return found


def test_all_ways_by_hand() -> None:
    """For ab and aab: nothing; three single pairs; a with either a, and b."""
    ways = all_ways("ab", "aab")
    assert len(ways) == 1 + 3 + 2
    assert [sorted(way) for way in ways if len(way) == 2] == [[(0, 0), (1, 2)], [(0, 1), (1, 2)]]


SHORT = st.lists(st.sampled_from("abc"), max_size=5)


@settings(max_examples=400, deadline=None)
@given(SHORT, SHORT)
def test_alignment_is_the_longest_of_all_ways_and_counts_them(left: list[str], right: list[str]) -> None:
    ways = all_ways(left, right)
    longest = max(map(len, ways))
    best = [way for way in ways if len(way) == longest]
    found, number = alignment(left, right)
    assert len(found) == longest
    assert frozenset(found) in best
    assert found == sorted(found)
    assert number == len(set(best)) == len(best)


@pytest.mark.parametrize(
    ("left", "right", "found", "ways"),
    [
        ("", "", [], 1),
        ("a", "b", [], 1),
        ("abc", "abc", [(0, 0), (1, 1), (2, 2)], 1),
        ("abc", "ac", [(0, 0), (2, 1)], 1),
        ("ac", "abc", [(0, 0), (1, 2)], 1),
        # Any one of three a's may be left out.
        ("aaa", "aa", None, 3),
        # Swapped: either item, but not both.
        ("ab", "ba", None, 2),
        # 20 of 40 equal layers: 40!/(20!·20!), which is why the ways are counted and not listed.
        ("a" * 40, "a" * 20, None, 137_846_528_820),
    ],
)
def test_alignment_by_hand(left: str, right: str, found: list[tuple[int, int]] | None, ways: int) -> None:
    way, number = alignment(left, right)
    assert number == ways
    assert found is None or way == found


# --------------------------------------------------------------------------------------------------- pair


def seen(text: str) -> list[Seen]:
    """`conv:4x4 head:10` as layers."""
    return [Seen(name, tuple(map(int, shape.split("x")))) for name, shape in (one.split(":") for one in text.split())]


@pytest.mark.parametrize(
    ("ann", "snn", "given", "found"),
    [
        # Equal names and shapes: by name, and an activation in between is left over.
        ("a:4 b:4 c:4", "a:4 c:4", {}, {"a": "a", "c": "c"}),
        # In the other order too: names say more than order.
        ("a:4 b:4", "b:4 a:4", {}, {"a": "a", "b": "b"}),
        # Other names: by order and shape.
        ("a:8x4 b:4 c:4", "x:8x4 y:4 z:4", {}, {"x": "a", "y": "b", "z": "c"}),
        ("a:8x4 b:4 c:2", "x:8x4 z:2", {}, {"x": "a", "z": "c"}),
        ("a:8x4 c:2", "w:9 x:8x4 z:2", {}, {"x": "a", "z": "c"}),
        # Equal names and other shapes: names alone are no reason.
        ("0:4 1:8", "1:4 2:8", {}, {"1": "0", "2": "1"}),
        # A name that both have by accident: all of the SNN's names must be known, else order and shape decide.
        ("1:4 2:4", "2:4 3:4", {}, {"2": "1", "3": "2"}),
        # By hand, and the rest follows.
        ("a:4 b:4 c:2", "x:4 z:2", {"b": "x"}, {"x": "b", "z": "c"}),
        ("a:4 b:4 c:4", "x:4 y:4", {"a": "x", "c": "y"}, {"x": "a", "y": "c"}),
        # By hand against the order, which only guesses.
        ("a:4 b:4", "x:4 y:4", {"a": "y", "b": "x"}, {"x": "b", "y": "a"}),
        # By hand, and the rest by name: a and b are not to be guessed again for it.
        ("a:4 b:4 c:4 d:4", "a:4 b:4 y:4", {"d": "y"}, {"a": "a", "b": "b", "y": "d"}),
        # By hand, and the rest in order on either side of it: c, not a, follows b.
        ("a:4 b:4 c:4", "x:4 y:4", {"b": "x"}, {"x": "b", "y": "c"}),
        ("a:4 b:4 c:4", "x:4 y:4", {"b": "y"}, {"x": "a", "y": "b"}),
        # Such pairs say nothing of what lies between them: c is before b, z after y, and they are paired.
        ("a:4 c:2 b:4", "x:4 y:4 z:2", {"a": "y", "b": "x"}, {"x": "b", "y": "a", "z": "c"}),
        ("a:4", "x:8", {}, {}),
        ("", "", {}, {}),
    ],
)
def test_pair(ann: str, snn: str, given: dict[str, str], found: dict[str, str]) -> None:
    assert pair(seen(ann), seen(snn), given) == found


@pytest.mark.parametrize(
    ("ann", "snn", "given", "told"),
    [
        # Three activations for two neurons: each is a candidate, and all are listed.
        (
            "a:4 b:4 c:4", "x:4 y:4", {},
            r"3 ways to pair the ANN's a \(4\), b \(4\), c \(4\) with the SNN's x \(4\), y \(4\).*pass --pair ANN",
        ),
        # What is settled is not listed again.
        ("a:8x2 b:4 c:4", "x:8x2 y:4", {"a": "x"}, r"2 ways to pair the ANN's b \(4\), c \(4\) with the SNN's y \(4\)"),
        # a before b, y after x: 2 ways are left for y.
        ("a:4 b:4 c:4", "x:4 y:4", {"a": "x"}, r"2 ways to pair the ANN's b \(4\), c \(4\) with the SNN's y"),
        ("conv1.act:4 conv2.act:4", "x:4", {"conv1.acr": "x"}, r"activation conv1\.acr.*expected conv1\.act or conv2"),
        ("a:4", "layer.lif:4 layer.if:4", {"a": "layer.fi"}, r"spiking layer layer\.fi.*expected layer\.(if|lif)"),
        # Nothing is near: the first ones there are.
        ("a:4 b:4", "x:4", {"quite other": "x"}, "activation quite other, which is not called; expected a or b"),
        ("a:8x4", "x:4", {"a": "x"}, r"joins a \(8x4\) and x \(4\); expected equal shapes"),
        ("a:4 b:4", "x:4", {"a": "x", "b": "x"}, "b=x uses a layer again; expected each layer once"),
    ],
)  # fmt: skip
def test_pairs_that_are_refused(ann: str, snn: str, given: dict[str, str], told: str) -> None:
    with pytest.raises(ProbeError, match=told):
        pair(seen(ann), seen(snn), given)


def test_a_long_list_of_candidates_is_cut() -> None:
    many = [Seen(f"act{i}", (4,)) for i in range(20)]
    with pytest.raises(ProbeError) as told:
        pair(many, [Seen(f"if{i}", (4,)) for i in range(19)])
    assert "20 ways" in str(told.value)
    assert str(told.value).count("act") == LISTED
    assert "and 14 more with" in str(told.value)


def test_layers_are_met_in_the_order_of_the_forward_not_of_the_definition() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first, self.never = nn.Flatten(0), nn.ReLU(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.first(self.first(x)))
            return out

    network = Backwards()
    found = order_of(
        dict(network.named_children()), lambda: network(torch.ones(2, 3)), lambda _name, out: out.shape[1:]
    )
    assert found == [Seen("first", (3,)), Seen("last", ())]
    assert not any(module._forward_hooks for module in network.modules())


# ------------------------------------------------------------------------------------------- real networks


def names(path: Path) -> list[tuple[str, str]]:
    """Of each layer: the ANN's and the SNN's."""
    with probe.open(path) as recording:
        assert recording.facts["pairs"] == {layer.name: layer.info.snn_name for layer in recording.layers}
        return [(layer.name, layer.info.snn_name) for layer in recording.layers]


def captured(model: Any, folder: Path, **options: Any) -> Path:
    options = {"samples": 6, "timesteps": 4, "strict": True, **options}
    return probe.capture(model, data="digits", output=folder / "r.h5", **options)


BLOCKS = ("block1.act", "block2.act", "block3.act", "block4.act", "block5.act", "hidden.act")


def renested(snn: nn.Module) -> nn.Module:
    """The same modules in order under other names: one flat list, as converters make."""
    flat: list[nn.Module] = []
    for child in snn.children():
        flat += child.children() if isinstance(child, nn.Sequential) else [child]
    return nn.Sequential(OrderedDict((f"step{i}", module) for i, module in enumerate(flat))).eval()


def test_networks_of_other_names_and_other_nesting(tmp_path: Path) -> None:
    ann, snn = paper_models.stepwise()
    ann = nn.ModuleDict({"features": ann})
    ann.forward = ann["features"].forward  # type: ignore[method-assign]
    path = captured((ann, renested(snn)), tmp_path)
    found = names(path)
    assert [one for one, _ in found] == [f"features.{name}" for name in BLOCKS]
    assert all(other.startswith("step") for _, other in found)
    with probe.open(path) as recording:
        (tmp_path / "plain").mkdir()
        with probe.open(captured(paper_models.stepwise(), tmp_path / "plain")) as other:
            for one, two in zip(recording.layers, other.layers, strict=True):
                assert (one.spike_count == two.spike_count).all()
                assert (one.ann_output == two.ann_output).all()


class Twice(nn.Module):
    """QCFS of QCFS is QCFS: an extra activation that changes nothing, of the same shape as its neighbours."""

    def __init__(self, act: paper_models.MyFloor) -> None:
        super().__init__()
        self.before, self.after = act, copy.deepcopy(act)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.after(self.before(x))
        return out


def with_one_more(place: str) -> nn.Module:
    ann = paper_models.stepwise_ann()
    ann.get_submodule(place).act = Twice(ann.get_submodule(place).act)
    return ann.eval()


def test_an_ambiguous_pair_is_settled_by_hand(tmp_path: Path) -> None:
    """Three activations of 16 x 8 x 8 for two neurons."""
    ann, (_, snn) = with_one_more("block1"), paper_models.stepwise()
    with pytest.raises(
        ProbeError, match=r"3 ways to pair the ANN's block1\.act\.before \(16x8x8\), block1\.act\.after"
    ):
        captured((ann, snn), tmp_path)
    assert not list(tmp_path.iterdir())
    # The neuron is fed what the first of the two is fed; block2.act has its namesake.
    pairs = {"block1.act.before": "block1.act"}
    planned = plan((ann, snn), data="digits", pairs=pairs, output=tmp_path / "r.h5")
    assert planned.prepared.subject.unpaired == ("ANN block1.act.after",)
    assert "without a partner: ANN block1.act.after" in planned.prepared.notes
    path = captured((ann, snn), tmp_path, pairs=pairs)
    assert names(path) == [("block1.act.before", "block1.act"), *((name, name) for name in BLOCKS[1:])]
    with probe.open(path) as recording:
        assert recording.facts["unpaired"] == ["ANN block1.act.after"]
        assert recording.facts["oracles"]["0"]["applies"]
        assert recording.facts["oracles"]["0"]["input_difference"] == 0


def test_the_wrong_pair_by_hand_is_told_by_the_oracle(tmp_path: Path) -> None:
    """The second activation's input is the first one's output: the first layer's inputs are not equal."""
    ann, (_, snn) = with_one_more("block1"), paper_models.stepwise()
    with pytest.raises(ProbeError, match=r"ORACLE BROKEN: layer 0 \(block1\.act\.after\).*inputs differ by up to"):
        captured((ann, snn), tmp_path, pairs={"block1.act.after": "block1.act"})


def test_layers_paired_crosswise_by_hand_are_told_by_their_thresholds(tmp_path: Path) -> None:
    crossed = {"block1.act": "block2.act", "block2.act": "block1.act"}
    with pytest.raises(ProbeError, match=r"ANN block1.act has θ = 1.32951 and SNN block2.act has 1.44046"):
        captured(paper_models.stepwise(), tmp_path, pairs=crossed)


def test_unknown_names_and_shapes_in_a_real_pair(tmp_path: Path) -> None:
    for pairs, told in (
        ({"block1.cat": "block1.act"}, r"activation block1\.cat.*expected block1\.act"),
        ({"block1.act": "block9.act"}, r"spiking layer block9\.act.*expected block"),
        ({"block1.act": "block3.act"}, r"joins block1\.act \(16x8x8\) and block3\.act \(32x4x4\)"),
    ):
        with pytest.raises(ProbeError, match=told):
            captured(paper_models.stepwise(), tmp_path, pairs=pairs)


def test_an_activation_of_another_shape_is_left_over_and_told(tmp_path: Path) -> None:
    """Something after the logits: 10 numbers, which no neuron has."""
    ann, snn = paper_models.stepwise()
    ann.add_module("extra", paper_models.MyFloor(50.0, 255))
    path = captured((ann.eval(), renested(snn)), tmp_path)
    assert [one for one, _ in names(path)] == list(BLOCKS)
    with probe.open(path) as recording:
        assert recording.facts["unpaired"] == ["ANN extra"]


class Encoder(nn.Module):
    """Spikes of the pixels themselves, before the first convolution; the ANN has no such thing."""

    def __init__(self, theta: float = 1.0) -> None:
        super().__init__()
        self.act = paper_models.ScaledNeuron(theta)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(x)
        return out


def test_a_spiking_layer_without_a_partner_is_recorded_without_errors(tmp_path: Path) -> None:
    ann, snn = paper_models.stepwise()
    snn = nn.Sequential(OrderedDict(encoder=Encoder(), network=snn)).eval()
    path = captured((ann, snn), tmp_path)
    with probe.open(path) as recording:
        first, *rest = recording.layers
        assert (first.name, first.paired, first.shape) == ("encoder.act", False, (1, 8, 8))
        assert first.spike_count.any()
        assert recording.facts["unpaired"] == ["SNN encoder.act"]
        assert [layer.name for layer in rest] == list(BLOCKS)
        assert all(layer.paired for layer in rest)
        with pytest.raises(ProbeError, match="no ANN partner"):
            probe.unevenness(recording, 0)
        assert probe.unevenness(recording, 1)["layers"][0]["count"] == 6 * 1024


def test_a_lone_spiking_layer_may_have_the_name_of_another_ones_partner(tmp_path: Path) -> None:
    """Lists number their modules: the SNN's 2 has 64 neurons and no partner, the ANN's 2 has 32."""
    torch.manual_seed(0)
    hidden, head = nn.Linear(64, 32), nn.Linear(32, 10)
    ann = nn.Sequential(nn.Flatten(), hidden, paper_models.MyFloor(1.0, 8), head)
    snn = nn.Sequential(
        nn.Flatten(), nn.Identity(), paper_models.ScaledNeuron(1.0), hidden, paper_models.ScaledNeuron(1.0), head
    )
    path = captured((ann.eval(), snn.eval()), tmp_path)
    with probe.open(path) as recording:
        lone, paired = recording.layers
        assert (lone.paired, lone.shape, lone.info.snn_name) == (False, (64,), "2")
        assert (paired.paired, paired.shape, paired.name, paired.info.snn_name) == (True, (32,), "2", "4")
        assert lone.name != "2"
        assert recording.facts["unpaired"] == ["SNN 2"]


class Shared(nn.Module):
    """One activation for two places."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)
        self.act = make()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.act(self.second(self.act(self.first(x.flatten(1))))))
        return out


def test_a_layer_that_is_called_twice_is_refused(tmp_path: Path) -> None:
    pair_of = (Shared(lambda: paper_models.MyFloor(1.0, 8)), Shared(lambda: paper_models.ScaledNeuron(1.0)))
    with pytest.raises(ProbeError, match=r"layer act is called 2 times by the ANN and 4 times in 2 timesteps"):
        captured(pair_of, tmp_path)


def test_networks_without_anything_in_common_are_refused(tmp_path: Path) -> None:
    ann = nn.Sequential(nn.Flatten(), nn.Linear(64, 7), paper_models.MyFloor(1.0, 8), nn.Linear(7, 10))
    snn = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), paper_models.ScaledNeuron(1.0), nn.Linear(5, 10))
    with pytest.raises(
        ProbeError, match=r"no activation of the ANN has the shape of a spiking layer: 2 \(7\) and 2 \(5\)"
    ):
        captured((ann.eval(), snn.eval()), tmp_path)
