"""Gives every use of ReLU a module of its own, and max-pooling another name: what a conversion needs, in a copy.

A module that is called several times in a forward (torchvision's ResNet) and functional `relu` are found by running the
network, and replaced in its torch.fx graph.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from probe.errors import ProbeError
from probe.families.activations import activations_of

FUNCTIONS = (functional.relu, torch.relu, torch.relu_, functional.relu_)
METHODS = ("relu", "relu_")


class _Uses(TorchFunctionMode):
    """Counts calls of functional relu."""

    def __init__(self) -> None:
        self.found = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in METHODS:
            self.found += 1
        return func(*args, **(kwargs or {}))


def separated(network: nn.Module, run: Callable[[], object]) -> nn.Module:
    """A network in which every use of ReLU is a module of its own: `network` itself if it is so already.

    Args:
        network: the ANN.
        run: one forward of it.

    Raises:
        ProbeError: it has to be rewritten, and cannot be traced.
    """
    calls: dict[int, int] = {}
    with ExitStack() as stack:
        rectifiers = [module for module in network.modules() if type(module) is nn.ReLU]
        for module in rectifiers:
            stack.callback(module.register_forward_hook(lambda module, *_: _count(calls, module)).remove)
        uses = stack.enter_context(_Uses())
        stack.enter_context(torch.no_grad())
        run()
    functional_uses = uses.found - sum(calls.values())
    repeated = sum(1 for number in calls.values() if number > 1)
    if not functional_uses and not repeated:
        return network
    return _rewritten(network, f"{functional_uses} functional relu and {repeated} shared nn.ReLU")


def _count(calls: dict[int, int], module: nn.Module) -> None:
    calls[id(module)] = calls.get(id(module), 0) + 1


class _Tracer(fx.Tracer):
    """Looks into everything but torch's own modules and activations."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # Found beforehand: while a network is traced, its parameters have no values.
        self._leaves = {id(found.module) for found in activations_of(network).values()}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return id(m) in self._leaves or super().is_leaf_module(m, module_qualified_name)


def _rewritten(network: nn.Module, why: str) -> nn.Module:
    try:
        graph = _Tracer(network).trace(network)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ProbeError(
            f"the network has {why} and cannot be rewritten, for torch.fx cannot trace it ({reason})",
            expected="an nn.ReLU of its own for each use",
            next_step="write them as modules in the model",
        ) from None
    rewritten = fx.GraphModule(network, graph, type(network).__name__)
    rewritten.train(network.training)
    names = {name for name, _ in rewritten.named_modules()}
    used: set[str] = set()
    for node in list(graph.nodes):
        if node.op == "call_module" and type(rewritten.get_submodule(str(node.target))) is nn.ReLU:
            target = str(node.target)
            if target in used:
                node.target = _add(rewritten, target, names, rewritten.get_submodule(target))
            used.add(target)
        elif (node.op == "call_function" and node.target in FUNCTIONS) or (
            node.op == "call_method" and node.target in METHODS
        ):
            stack = node.meta.get("nn_module_stack") or {}
            parent = list(stack.values())[-1][0] if stack else ""
            inplace = bool(node.kwargs.get("inplace", str(getattr(node.target, "__name__", node.target)).endswith("_")))
            target = _add(rewritten, f"{parent}.relu".lstrip("."), names, nn.ReLU(inplace=inplace))
            with graph.inserting_after(node):
                made = graph.call_module(target, (node.args[0] if node.args else node.kwargs["input"],))
            node.replace_all_uses_with(made)
            graph.erase_node(node)
    rewritten.recompile()
    return rewritten


def _add(network: fx.GraphModule, wish: str, names: set[str], like: nn.Module) -> str:
    """Put a copy of `like` into the network under the first free name that begins with `wish`."""
    number, name = 1, wish
    while name in names:
        name = f"{wish}_{number}"
        number += 1
    names.add(name)
    network.add_submodule(name, copy.deepcopy(like))
    return name


def with_average_pooling(network: nn.Module) -> nn.Module:
    """A copy whose max-pooling modules average instead, which commutes with averaging over time.

    Raises:
        ProbeError: one cannot be replaced.
    """
    changed = copy.deepcopy(network)
    kinds: dict[type, Any] = {nn.MaxPool1d: nn.AvgPool1d, nn.MaxPool2d: nn.AvgPool2d, nn.MaxPool3d: nn.AvgPool3d}
    adaptive: dict[type, Any] = {nn.AdaptiveMaxPool1d: nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool2d: nn.AdaptiveAvgPool2d}
    for name, module in list(changed.named_modules()):
        pooling: Any = module
        if type(module) in kinds:
            if pooling.dilation not in (1, (1, 1), (1, 1, 1)):
                raise ProbeError(f"max-pooling {name} is dilated", expected="no dilation for --average-pool")
            made = kinds[type(module)](pooling.kernel_size, pooling.stride, pooling.padding, pooling.ceil_mode)
        elif type(module) in adaptive:
            made = adaptive[type(module)](pooling.output_size)
        else:
            continue
        parent, _, child = name.rpartition(".")
        setattr(changed.get_submodule(parent), child, made)
    return changed
