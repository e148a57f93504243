"""Every way of naming layers, and what is said where none fits."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from probe.errors import ProbeError
from probe.layers import select_layers


@dataclass(frozen=True)
class Layer:
    index: int
    name: str


NAMES = (
    "stem_act", "stage1.0.act1", "stage1.0.act2", "stage1.1.act1", "stage1.1.act2", "stage2.0.act1", "stage2.0.act2",
    "head.act", "head.act.last", "7",
)  # fmt: skip
LAYERS = [Layer(index, name) for index, name in enumerate(NAMES)]


def chosen(*specs: str | int, layers: list[Layer] = LAYERS) -> list[int]:
    return [layer.index for layer in select_layers(layers, specs)]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("0", [0]),
        (0, [0]),
        ("9", [9]),
        (-1, [9]),
        ("-1", [9]),
        ("-10", [0]),
        (" 3 ", [3]),
        ("0:3", [0, 1, 2]),
        ("7:", [7, 8, 9]),
        (":2", [0, 1]),
        (":", list(range(10))),
        ("-2:", [8, 9]),
        ("0:10:4", [0, 4, 8]),
        ("5:0:-2", [1, 3, 5]),
        ("8:99", [8, 9]),
        ("stem_act", [0]),
        ("head.act", [7]),
        ("stage1.*", [1, 2, 3, 4]),
        ("stage?.0.act1", [1, 5]),
        ("*.act[2-9]", [2, 4, 6]),
        ("*", list(range(10))),
        ("re:act1$", [1, 3, 5]),
        ("re:^head", [7, 8]),
        ("re:1\\.1", [3, 4]),
        ("re:STEM|(?i:Stem)", [0]),
    ],
)
def test_one_spec(spec: str | int, expected: list[int]) -> None:
    assert chosen(spec) == expected


def test_several_specs_are_joined_in_execution_order() -> None:
    assert chosen() == list(range(10))
    assert chosen(-1, "stage1.0.*", 0, "stem_act", "1:3") == [0, 1, 2, 9]
    assert select_layers(LAYERS, ["2"])[0] is LAYERS[2]


def test_a_number_is_an_index_before_it_is_a_name() -> None:
    assert chosen("7") == [7]
    assert chosen("re:^7$") == [9]


def test_a_name_that_is_a_number_is_told_from_an_index() -> None:
    short = [Layer(0, "7"), Layer(1, "2.act")]
    with pytest.raises(ProbeError, match=r"no layer 7; .*the layer that is called 7 has index 0, and is re:\^7\$"):
        chosen("7", layers=short)
    assert chosen("re:^7$", layers=short) == [0]


def test_a_name_is_itself_before_it_is_a_glob() -> None:
    lists = [Layer(0, "acts[0]"), Layer(1, "acts0"), Layer(2, "acts*"), Layer(3, "acts1")]
    assert chosen("acts[0]", layers=lists) == [0]
    assert chosen("acts*", layers=lists) == [2]
    assert chosen("acts?", layers=lists) == [1, 2, 3]


def test_a_recording_of_some_layers_keeps_their_index() -> None:
    some = [LAYERS[2], LAYERS[5], LAYERS[7]]
    assert chosen("5", layers=some) == [5]
    assert chosen("-1", layers=some) == [7]
    assert chosen("-3", layers=some) == [2]
    with pytest.raises(ProbeError, match=re.escape("no layer 0; expected one of 2 (stage1.0.act2), 5 (stage2.0.act1)")):
        chosen("0", layers=some)


def test_a_slice_means_the_same_indices_as_its_numbers() -> None:
    some = [LAYERS[2], LAYERS[5], LAYERS[7]]
    assert chosen("5:8", layers=some) == [5, 7] == chosen("5", "7", layers=some)
    assert chosen(":5", layers=some) == [2]
    assert chosen("2:8:5", layers=some) == [2, 7]


@pytest.mark.parametrize("spec", ["10", "-11", "5:5", "0:5:0", "20:", "stage3.*", "re:act9", "[", ""])
def test_a_spec_that_matches_none(spec: str) -> None:
    with pytest.raises(ProbeError) as refused:
        chosen("0", spec)
    assert str(refused.value).startswith(f"no layer {spec}".rstrip())
    assert refused.value.next_step == "see `probe layers`"


@pytest.mark.parametrize("spec", ["-:3", "1:-", "-:-"])
def test_half_a_number(spec: str) -> None:
    with pytest.raises(ProbeError, match="no layer"):
        chosen(spec)


def test_near_names_are_offered() -> None:
    with pytest.raises(ProbeError, match="no layer stem_acts; expected perhaps stem_act; see `probe layers`"):
        chosen("stem_acts")
    with pytest.raises(ProbeError) as refused:
        chosen("stage1.0.act3")
    assert refused.value.expected.startswith("perhaps stage1.0.act")
    assert set(refused.value.expected.removeprefix("perhaps ").split(" or ")) <= set(NAMES)


def test_far_names_list_what_there_is() -> None:
    with pytest.raises(ProbeError) as refused:
        chosen("zzz")
    assert refused.value.expected.startswith("one of 0 (stem_act), 1 (stage1.0.act1)")
    assert refused.value.expected.endswith("7 (head.act) ... 9 (7)")
    with pytest.raises(ProbeError) as refused:
        chosen("zzz", layers=LAYERS[:2])
    assert refused.value.expected == "one of 0 (stem_act), 1 (stage1.0.act1)"


def test_a_broken_regular_expression_says_so() -> None:
    with pytest.raises(ProbeError, match=r"layer 're:\(act' is no regular expression"):
        chosen("re:(act")


def test_names_count_upper_and_lower_case() -> None:
    for spec in ("STEM_ACT", "Stage1.*"):
        with pytest.raises(ProbeError):
            chosen(spec)
