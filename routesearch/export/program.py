"""The graph of all ways cut into pieces: straight lines of operations between splits and patches.

A piece is one graph for one group of images. What stands between the pieces, who goes where, is a list of
steps that ``runner.py`` follows: JSON, with values called by the names they have in the traced graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import add, mul
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from routesearch.errors import Refusal
from routesearch.export.trace import ENTER, MERGE, Finish, Patch, Segment, Split, traced
from routesearch.methods.base import Knob, RoutedNet

SIZES = (3, 4)
"""Images in the two passes; what grows with them in the recorded numbers is the batch's size."""


@dataclass(frozen=True)
class Affine:
    """A number that depends on the images of a group: slope x N + start."""

    slope: int
    start: int


@dataclass(frozen=True)
class Piece:
    """A graph whose inputs and outputs have the group's images as their first dimension.

    Attributes:
        module: the inputs to a tuple of the outputs, for any number of images.
        inputs, outputs: names of values.
        examples: a tensor for each input, of the right shape and type, of ``SIZES[0]`` images.
    """

    module: fx.GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    examples: tuple[Tensor, ...]


@dataclass(frozen=True)
class Program:
    """An exported network.

    Attributes:
        pieces: the graphs, in the order of the steps.
        images: the name of the value that the first way starts with.
        results: names of :attr:`TraceState.outputs`: the choices and logits of all ways.
        way: the first way's steps, as ``program.json`` has them.
    """

    pieces: list[Piece]
    images: str
    results: list[str]
    way: dict[str, Any]


def programmed(net: RoutedNet, knob: Knob) -> Program:
    """Record ``route`` at a knob and cut it into pieces.

    Args:
        net: in eval mode, on the CPU, in plain contiguous memory.

    Raises:
        Refusal: where a way reads more than a split gave it, or what is recorded is not made for any batch.
    """
    graphs: list[fx.GraphModule] = []
    for size in SIZES:
        images = torch.rand(size, *net.backbone.image_shape)
        way, graph = traced(net, images, knob)
        graphs.append(graph)
    return _Cutter(way, graphs[0], _arguments(*graphs)).program()


@dataclass
class _Place:
    """Where a node belongs: its region, and behind how many of the region's patches."""

    region: int
    stage: int


class _Cutter:
    """Places every node of the graph, then collects pieces way by way."""

    def __init__(self, way: Segment, graph: fx.GraphModule, arguments: dict[fx.Node, Any]) -> None:
        self.way, self.graph, self.arguments = way, graph, arguments
        self.owner: dict[int, tuple[int, int]] = {}  # a patch's region -> the way's, and the patch's number
        self._own(way)
        self.place: dict[fx.Node, _Place | None] = {}
        self.entered: dict[int, list[fx.Node]] = {}  # region -> its marks
        self.merged: dict[int, fx.Node] = {}  # a patch's region -> its result
        for node in graph.graph.nodes:
            self._put(node)
        [output] = graph.graph.find_nodes(op="output")
        results: Any = output.args[0]
        self.results: Sequence[fx.Node] = list(results[0])
        self.pieces: list[Piece] = []

    def program(self) -> Program:
        [images] = self.graph.graph.find_nodes(op="placeholder")
        way = self._way(self.way, images)
        return Program(self.pieces, images.name, [node.name for node in self.results], way)

    # ---- placing ----

    def _own(self, way: Segment) -> None:
        for number, patch in enumerate(way.patches):
            self.owner[patch.region] = (way.region, number)
        if isinstance(way.end, Split):
            for one in way.end.ways:
                self._own(one)

    def _put(self, node: fx.Node) -> None:
        if node.op == "output":
            return
        if node.op == "placeholder":
            self.place[node] = _Place(0, 0)
        elif node.target is ENTER:
            region = _number(node.args[1])
            self.place[node] = _Place(region, 0)
            self.entered.setdefault(region, []).append(node)
        elif node.target is MERGE:
            within = _number(node.args[3])
            region, number = self.owner[within]
            self._check(node.args[:2], region)
            self._check(node.args[2:3], within)
            self.place[node] = _Place(region, number + 1)
            self.merged[within] = node
        else:
            places = [p for each in node.all_input_nodes if (p := self.place[each]) is not None]
            if not places:
                self.place[node] = None
                return
            region = max(p.region for p in places)
            self._check(node.all_input_nodes, region)
            self.place[node] = _Place(region, max(p.stage for p in places))

    def _check(self, nodes: Iterable[Any], region: int) -> None:
        for node in nodes:
            place = self.place[node]
            if place is not None and place.region != region:
                rule = "a way must read what its split or patch gives it, and nothing from before"
                raise Refusal(f"{rule}, got {node.target} of another group of images")

    # ---- collecting ----

    def _way(self, way: Segment, root: fx.Node | None = None) -> dict[str, Any]:
        """A way's steps; its pieces are collected on the way."""
        given = [root] if root is not None else self.entered.get(way.region, [])
        asked = self._asked(way)
        steps: list[dict[str, Any]] = []
        for number, patch in enumerate(way.patches):
            steps += self._run(way.region, number, asked, given)
            steps.append(self._patch(patch))
        steps += self._run(way.region, len(way.patches), asked, given)
        if isinstance(way.end, Split):
            ways = [{"state": self._state(one.region), **self._way(one)} for one in way.end.ways]
            steps.append({"do": "split", "choice": self.results[way.end.choice].name, "ways": ways})
        else:
            assert isinstance(way.end, Finish)
            logits = self.results[way.end.logits]
            steps.append({"do": "finish", "logits": logits.name, "route": way.end.route})
        return {"macs": way.macs, "steps": steps}

    def _asked(self, way: Segment) -> list[fx.Node]:
        """What a way's steps name beside what its pieces read."""
        asked: list[fx.Node] = []
        inside = [patch.region for patch in way.patches]
        for region in inside:
            merge = self.merged[region]
            asked += [_node(each) for each in merge.args[:2]]
        if isinstance(way.end, Split):
            asked.append(self.results[way.end.choice])
            inside += [one.region for one in way.end.ways]
        else:
            assert isinstance(way.end, Finish)
            asked.append(self.results[way.end.logits])
        asked += [_source(mark) for region in inside for mark in self.entered.get(region, [])]
        self._check(asked, way.region)
        return asked

    def _state(self, region: int) -> list[list[str]]:
        return [[_source(mark).name, mark.name] for mark in self.entered.get(region, [])]

    def _patch(self, patch: Patch) -> dict[str, Any]:
        merge, inner = self.merged[patch.region], self.entered.get(patch.region, [])
        into, mask, out = (_node(each) for each in merge.args[:3])
        return {
            "do": "patch",
            "mask": mask.name,
            "into": into.name,
            "state": self._state(patch.region),
            "steps": self._run(patch.region, 0, [out], inner),
            "out": out.name,
            "value": merge.name,
            "macs": patch.macs,
        }

    def _run(
        self, region: int, stage: int, asked: Sequence[fx.Node], given: Sequence[fx.Node]
    ) -> list[dict[str, Any]]:
        """The step that computes a stage of a region: of what is asked for, and of what later stages read."""

        def here(node: fx.Node) -> bool:
            return self.place.get(node) == _Place(region, stage) and not _is_given(node)

        kept = [n for n in self.graph.graph.nodes if here(n) and any(self._later(u, n) for u in n.users)]
        asked = [n for n in asked if here(n) or (stage == 0 and self.place[n] is None)]
        outputs = list(dict.fromkeys([*kept, *asked]))
        if not outputs:
            return []
        self.pieces.append(self._piece(region, stage, outputs, given))
        return [{"do": "run", "piece": len(self.pieces) - 1}]

    def _later(self, user: fx.Node, node: fx.Node) -> bool:
        mine, theirs = self.place[node], self.place.get(user)
        same = mine is not None and theirs is not None and mine.region == theirs.region
        return same and mine != theirs and user.target is not MERGE

    def _piece(self, region: int, stage: int, outputs: Sequence[fx.Node], given: Sequence[fx.Node]) -> Piece:
        nodes, inputs = set[fx.Node](), set[fx.Node]()
        ahead = list(outputs)
        while ahead:
            node = ahead.pop()
            if node in nodes:
                continue
            place = self.place[node]
            if place is None or (place == _Place(region, stage) and not _is_given(node)):
                nodes.add(node)
                ahead += node.all_input_nodes
            else:
                inputs.add(node)
        order = list(self.graph.graph.nodes)
        reads = [n for n in order if n in inputs]
        if not reads:
            if not given:
                raise Refusal("a block must read what the meter gives it, got one that gives constants")
            reads = [given[0]]  # says how many images there are
        for node in (*reads, *outputs):
            self._check_rows(node)
        graph = fx.Graph()
        at = {node: graph.placeholder(node.name) for node in reads}
        size: list[fx.Node] = []

        def images() -> fx.Node:
            if not size:
                size.append(graph.call_function(torch.ops.aten.sym_size.int, (at[reads[0]], 0)))
            return size[0]

        def known(leaf: Any) -> Any:
            if isinstance(leaf, fx.Node):
                return at[leaf]
            if isinstance(leaf, Affine):
                scaled = images() if leaf.slope == 1 else graph.call_function(mul, (images(), leaf.slope))
                return scaled if leaf.start == 0 else graph.call_function(add, (scaled, leaf.start))
            return leaf

        for node in order:
            if node not in nodes:
                continue
            args, kwargs = pytree.tree_map(known, self.arguments[node])
            if node.op == "get_attr":
                at[node] = graph.get_attr(str(node.target))
            else:
                at[node] = graph.call_function(_functional(node.target), args, kwargs)
        graph.output(tuple(at[node] for node in outputs))
        return Piece(
            fx.GraphModule(self.graph, graph),
            tuple(n.name for n in reads),
            tuple(n.name for n in outputs),
            tuple(_example(n) for n in reads),
        )

    def _check_rows(self, node: fx.Node) -> None:
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or value.dim() < 1 or value.shape[0] != SIZES[0]:
            got = tuple(value.shape) if isinstance(value, Tensor) else value
            rule = "what passes between blocks must have one row per image"
            raise Refusal(f"{rule}, got shape {got} for {SIZES[0]} images from {node.target}")


def _arguments(first: fx.GraphModule, second: fx.GraphModule) -> dict[fx.Node, Any]:
    """Arguments of the first graph's nodes, where numbers that grow with the batch have become Affine."""
    pairs = list(zip(first.graph.nodes, second.graph.nodes, strict=False))
    if len(first.graph.nodes) != len(second.graph.nodes) or any(a.target != b.target for a, b in pairs):
        raise Refusal("the operations of a route must be the same for any number of images")
    found: dict[fx.Node, Any] = {}
    for a, b in pairs:
        mine, spec = pytree.tree_flatten((tuple(a.args), dict(a.kwargs)))
        theirs = pytree.tree_leaves((tuple(b.args), dict(b.kwargs)))
        if len(mine) != len(theirs):
            raise Refusal("the operations of a route must be the same for any number of images")
        leaves = [_fitted(x, y, a) for x, y in zip(mine, theirs, strict=True)]
        found[a] = pytree.tree_unflatten(leaves, spec)
    return found


def _fitted(first: Any, second: Any, node: fx.Node) -> Any:
    if isinstance(first, fx.Node) or first == second or first is second:
        return first
    if type(first) is int and type(second) is int:
        slope = second - first  # for one image more
        return Affine(slope, first - slope * SIZES[0])
    rule = "the numbers of a route must not depend on how many images there are"
    raise Refusal(f"{rule}, got {first} and {second} in {node.target}")


def _functional(target: Any) -> Any:
    """An operator's form that changes none of its inputs and takes them in any memory layout.

    A few of torch's own functions (``lstm_cell``) change tensors that they just made, unseen by what makes
    the graph functional; nothing else reads those, so the form without side effects gives the same.
    """
    if target is torch.ops.aten.view.default:  # recorded where the layout allowed it; another batch's may not
        return torch.ops.aten.reshape.default
    if not (isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable):
        return target
    name = target._schema.name.split("::")[-1]
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
    if target.namespace != "aten" or not name.endswith("_") or packet is None:
        raise Refusal(f"an exported route must not change tensors in place, got {target}")
    return getattr(packet, target._overloadname)


def _example(node: fx.Node) -> Tensor:
    value: Tensor = node.meta["val"]
    shape = tuple(value.shape)
    return (
        torch.randn(shape).to(value.dtype)
        if value.is_floating_point()
        else torch.zeros(shape, dtype=value.dtype)
    )


def _is_given(node: fx.Node) -> bool:
    """Whether a node stands for what the runner puts there."""
    return node.op == "placeholder" or node.target in (ENTER, MERGE)


def _source(mark: fx.Node) -> fx.Node:
    return _node(mark.args[0])


def _node(argument: Any) -> fx.Node:
    assert isinstance(argument, fx.Node)
    return argument


def _number(argument: Any) -> int:
    assert isinstance(argument, int)
    return argument
