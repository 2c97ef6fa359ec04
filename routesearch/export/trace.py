"""A routed network as one graph of tensor operations in which every way is taken, and marks where ways part.

``route`` is Python that may branch only through its meter. A :class:`TracingMeter` hands the
whole batch to every way, so that one pass under ``make_fx`` records every operation: blocks, and the
arithmetic between them that makes decisions. Two operators of our own stand in the graph where a group is
cut (``enter``) and where a patch comes back (``merge``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, fx, nn

from routesearch.methods.base import Knob, RoutedNet
from routesearch.routing.cost import mult_adds
from routesearch.routing.meter import Meter, check_experts
from routesearch.routing.nested import Tensors, map_tensors

_MARKS = torch.library.Library("routesearch_export", "FRAGMENT")
_MARKS.define("enter(Tensor x, int region) -> Tensor")
_MARKS.define("merge(Tensor into, Tensor mask, Tensor out, int region) -> Tensor")
_MARKS.impl("enter", lambda x, region: x.clone(), "CompositeExplicitAutograd")
_MARKS.impl("merge", lambda into, mask, out, region: out.clone(), "CompositeExplicitAutograd")

ENTER = torch.ops.routesearch_export.enter.default
"""A tensor as a region sees it: the rows of its own images."""
MERGE = torch.ops.routesearch_export.merge.default
"""``into`` with the rows of the masked images replaced by what the region gave for them."""


@dataclass
class Patch:
    """A block that runs for some images of a way.

    Attributes:
        region: the number of the block's own region.
        macs: for each image that it runs for.
    """

    region: int
    macs: int


@dataclass
class Split:
    """Where a way ends because its images part.

    Attributes:
        choice: position of the choice in the graph's outputs.
        ways: by the choice's values.
    """

    choice: int
    ways: list[Segment]


@dataclass
class Finish:
    """Where a way ends with logits.

    Attributes:
        logits: position in the graph's outputs.
        route: the exit or leaf.
    """

    logits: int
    route: int


@dataclass
class Segment:
    """What a group of images does between two splits.

    Attributes:
        region: its number; 0 is where all images start.
        macs: that every image pays.
        patches: in their order.
        end: None while it is traced.
    """

    region: int
    macs: int = 0
    patches: list[Patch] = field(default_factory=list)
    end: Split | Finish | None = None


@dataclass
class TraceState:
    """What the ways of one pass share.

    Attributes:
        regions: how many there are.
        outputs: choices and logits.
        kept: what stays in the graph even where nobody reads it: a patch is charged all the same.
    """

    regions: int = 1
    outputs: list[Tensor] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)

    def region(self) -> int:
        self.regions += 1
        return self.regions - 1

    def output(self, value: Tensor) -> int:
        self.outputs.append(value)
        return len(self.outputs) - 1


@final
class TracingMeter(Meter):
    """A meter that hands all images to every way and writes down where ways part.

    What images have spent, and which they are, is known at run time only.

    Args:
        size: images.
        state: shared by all ways of a pass.
        way: of this group.
    """

    def __init__(self, size: int, state: TraceState, way: Segment) -> None:
        self._size, self._state, self._way = size, state, way

    def __len__(self) -> int:
        return self._size

    def run(self, block: nn.Module, *inputs: Tensors) -> Any:
        self._open().macs += mult_adds(block, *inputs)
        return block(*inputs)

    def split(self, choice: Tensor, ways: int, *state: Tensors) -> Iterator[tuple[Any, ...]]:
        end = Split(self._state.output(choice), [])
        self._open().end = end
        for number in range(ways):
            way = Segment(self._state.region())
            end.ways.append(way)
            yield (number, TracingMeter(len(self), self._state, way), *_entered(state, way.region))

    def patch(self, mask: Tensor, block: nn.Module, *inputs: Tensors, into: Tensor) -> Tensor:
        return self._merged(mask, mult_adds(block, *inputs), lambda x: block(*x), inputs, into)

    def choose(
        self,
        mask: Tensor,
        blocks: Sequence[nn.Module],
        *inputs: Tensors,
        weights: Tensor,
        into: Tensor,
        exactly: int | None = None,
    ) -> Tensor:
        check_experts(mask, weights, len(self), len(blocks), exactly, values=False)
        for expert, block in enumerate(blocks):

            def added(values: Any, block: nn.Module = block) -> Tensor:
                before, share, *own = values
                return before + share.view(-1, *[1] * (before.dim() - 1)) * block(*own)  # type: ignore[no-any-return]

            macs = mult_adds(block, *inputs)
            into = self._merged(mask[:, expert], macs, added, (into, weights[:, expert], *inputs), into)
        return into

    def _merged(
        self, mask: Tensor, macs: int, compute: Callable[[Any], Tensor], inputs: Tensors, into: Tensor
    ) -> Tensor:
        """``into`` with the rows of the masked images replaced by what is computed for them."""
        patch = Patch(self._state.region(), macs)
        self._open().patches.append(patch)
        merged: Tensor = MERGE(into, mask, compute(_entered(inputs, patch.region)), patch.region)
        self._state.kept.append(merged)
        return merged

    def finish(self, logits: Tensor, route: int = 0) -> None:
        self._open().end = Finish(self._state.output(logits), route)

    def _open(self) -> Segment:
        if self._way.end is not None:
            raise ValueError("a group that was split or finished must not be used afterwards")
        return self._way


def _entered(state: Tensors, region: int) -> Tensors:
    return map_tensors(state, lambda tensor: ENTER(tensor, region))


def walk(net: RoutedNet, images: Tensor, knob: Knob) -> tuple[Segment, TraceState]:
    """Take every way with all images; the first way, and the choices and logits that the ways' ends name."""
    state, root = TraceState(), Segment(0)
    net.route(TracingMeter(len(images), state, root), images, knob)
    _check_ends(root)
    return root, state


def traced(net: RoutedNet, images: Tensor, knob: Knob) -> tuple[Segment, fx.GraphModule]:
    """Every way as one graph without mutations, from the images to the choices and logits.

    Args:
        images: fix the shapes; of the batch too, which stands in the graph as a number.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    walk(net, images, knob)  # has each block priced: pricing runs blocks, which must not be recorded
    roots: list[Segment] = []

    def outputs(images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        root, state = walk(net, images, knob)
        roots.append(root)
        return state.outputs, state.kept

    graph = make_fx(torch.func.functionalize(outputs, remove="mutations"))(images)
    graph.graph.eliminate_dead_code()
    return roots[-1], graph


def _check_ends(way: Segment) -> None:
    if way.end is None:
        raise ValueError("every image must finish exactly once, got a way that neither splits nor finishes")
    if isinstance(way.end, Split):
        if not way.end.ways:
            raise ValueError("every way of a split must be taken, got a split that was left")
        for one in way.end.ways:
            _check_ends(one)
