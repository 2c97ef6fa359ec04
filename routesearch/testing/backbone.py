"""The invariants of a backbone, as tests that a plugin's test file inherits."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from routesearch.backbones.base import Backbone
from routesearch.data.base import Shape
from routesearch.errors import Refusal
from routesearch.routing.cost import mult_adds
from routesearch.routing.nested import Tensors, map_tensors, tensors
from routesearch.routing.shapes import shapes_only
from routesearch.testing.declarations import broken, declare
from routesearch.utils.machine import torch_threads

CLASSES = 4
DECLARATIONS = ("shapes", "width", "narrows", "narrows_at", "without_gradient")


class BackboneContract:
    """What every backbone promises. A test file inherits it and names the backbone.

        class TestMine(BackboneContract):
            backbone = MyBackbone

    Declarations that the backbone itself makes (``Backbone.contract``) are taken over, so that
    ``routesearch check`` knows them too; those of the test class go first.

    Attributes:
        backbone: the class.
        shapes: images to try it on, C, H, W.
        width: of the backbone that is tried; small ones are quick.
        narrows: whether its units build at any width.
        narrows_at: the units that build at another width than the one before them, where others refuse to;
            None: all.
        without_gradient: regular expression -> reason, for names of parameters of the plain network that
            its loss need not reach.
    """

    backbone: ClassVar[type[Backbone]]
    shapes: ClassVar[Sequence[Shape]] = ((1, 16, 16), (3, 20, 16))
    width: ClassVar[float] = 0.25
    narrows: ClassVar[bool] = True
    narrows_at: ClassVar[Sequence[int] | None] = None
    without_gradient: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        declare(cls, vars(cls).get("backbone"), DECLARATIONS)

    @classmethod
    def arguments(cls, rule: Callable[..., None]) -> list[tuple[Any, ...]]:
        """What an invariant is to be called with, one tuple a call."""
        wanted = "net" in inspect.signature(rule).parameters
        return [(cls.make(shape),) for shape in cls.shapes] if wanted else [()]

    @classmethod
    def make(cls, shape: Shape, width: float | None = None) -> Backbone:
        return cls.backbone(shape, CLASSES, cls.width if width is None else width)

    @pytest.fixture(autouse=True)
    def _one_thread(self) -> Iterator[None]:
        """The networks are tiny: threads would wait for each other."""
        with torch_threads(1):
            yield

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test for each invariant and each shape of images."""
        if "net" in metafunc.fixturenames:
            ids = ["x".join(map(str, shape)) for shape in self.shapes]
            metafunc.parametrize("net", [self.make(shape) for shape in self.shapes], ids=ids)

    @classmethod
    def _widths(cls) -> tuple[float, ...]:
        return (1.0, 0.5) if cls.narrows else (1.0,)

    def test_units_fit_and_are_as_told(self, net: Backbone) -> None:
        """Each unit fits the one before at any width; shapes and channels are as declared."""
        for width in self._widths():
            x: Tensors = torch.rand(2, *net.image_shape)
            for k in range(1, len(net) + 1):
                where = f"{net.name}: unit {k} at width {width}"
                x = net.unit(k, width).eval()(x)
                if isinstance(x, Tensor) and tuple(x.shape[1:]) != net.shape(k, width):
                    rule = f"{where} must give the declared shape"
                    raise broken(rule, f"{tuple(x.shape[1:])} and {net.shape(k, width)} declared")
                if any(len(t) != 2 for t in tensors(x)):
                    raise broken(f"{where} must keep images in the first dimension", _sizes(x))
                entries, declared = tuple(net.neck(k)(x).shape), (2, net.channels(k, width))
                if entries != declared:
                    raise broken(f"{where}: the neck must give N x channels", f"{entries} and {declared}")
                logits = tuple(net.exit(k, width).eval()(x).shape)
                if logits != (2, net.classes):
                    raise broken(f"{where}: an exit must give N x {net.classes} logits", str(logits))
                if tuple(net.exit(k, width, out=7).eval()(x).shape) != (2, 7):
                    raise broken(f"{where}: an exit must give as many outputs as asked", "others than 7")

    def test_a_branch_reads_a_wider_trunk(self, net: Backbone) -> None:
        """A unit of half the width takes what the whole width gives, at any cut, or at those declared."""
        if not self.narrows:
            pytest.skip("declared: narrows = False")
        x: Tensors = torch.rand(2, *net.image_shape)
        for k in range(1, len(net) + 1):
            if k > 1 and (self.narrows_at is None or k in self.narrows_at):
                rule = f"{net.name}: unit {k} must build at width 0.5 after a unit of width 1"
                try:
                    y = net.unit(k, 0.5, width_in=1.0).eval()(x)
                except Refusal as refusal:
                    raise broken(rule, f"a Refusal: {refusal}") from refusal
                if net.neck(k)(y).shape[1] != net.channels(k, 0.5):
                    raise broken(rule, f"{_sizes(y)}")
            elif k > 1:
                try:
                    net.unit(k, 0.5, width_in=1.0)
                except Refusal:
                    pass
                else:
                    rule = f"{net.name}: units outside of narrows_at must refuse a change of width"
                    raise broken(rule, f"no Refusal at unit {k}")
            x = net.unit(k).eval()(x)

    def test_the_plain_network_is_its_units_and_head(self, net: Backbone) -> None:
        """``plain()`` is the units one after the other and the exit; cut anywhere, costs add up."""
        for depth in sorted({1, len(net) // 2, len(net)} - {0}):
            plain = net.plain(depth=depth).eval()
            images = torch.rand(3, *net.image_shape)
            x: Tensors = images
            parts = 0
            for unit in plain.units:
                parts += mult_adds(unit, x)
                x = unit(x)
            parts += mult_adds(plain.head, x)
            if len(plain.units) != depth or not torch.equal(plain.head(x), plain(images)):
                raise broken(f"{net.name}: plain() must be {depth} units and an exit", f"{len(plain.units)}")
            if parts != mult_adds(plain, images):
                rule = f"{net.name}: the cost of the whole must be the sum of its parts"
                raise broken(rule, f"{mult_adds(plain, images):,} and {parts:,}")

    def test_the_meta_device_prices_what_runs(self, net: Backbone) -> None:
        """Shapes, parameters and costs on the meta device are those of a real network."""
        with shapes_only():
            meta = net.plain().eval()
            priced = mult_adds(meta, torch.empty(1, *net.image_shape))
        real = net.plain().eval()
        if wrong := [n for n, p in meta.named_parameters() if not p.is_meta]:
            raise broken(
                f"{net.name}: modules must be made on torch's default device", f"{wrong[0]} elsewhere"
            )
        cost = mult_adds(real, torch.zeros(1, *net.image_shape))
        if priced != cost:
            raise broken(f"{net.name}: the meta device must price what runs", f"{priced:,} and {cost:,}")
        if [(n, p.shape) for n, p in meta.named_parameters()] != [
            (n, p.shape) for n, p in real.named_parameters()
        ]:
            raise broken(f"{net.name}: parameters must be the same on the meta device", "others")

    def test_modules_are_fresh(self, net: Backbone) -> None:
        """Each call builds new modules with weights of their own, drawn by torch's generator."""
        for k in range(1, len(net) + 1):
            one, two = net.unit(k), net.unit(k)
            if {id(p) for p in one.parameters()} & {id(p) for p in two.parameters()}:
                raise broken(
                    f"{net.name}: unit({k}) must be fresh in every call", "the same parameters twice"
                )
        torch.manual_seed(0)
        first = net.plain()
        torch.manual_seed(0)
        again = net.plain()
        torch.manual_seed(1)
        other = net.plain()
        if not _equal(first, again):
            raise broken(f"{net.name}: the same seed must draw the same weights", "others")
        if _equal(first, other):
            raise broken(f"{net.name}: another seed must draw other weights", "the same")

    def test_every_parameter_learns(self, net: Backbone) -> None:
        """A gradient of the plain network's loss reaches every parameter, but for those declared."""
        torch.manual_seed(0)
        plain = net.plain().train()
        labels = torch.arange(16) % net.classes
        nn.functional.cross_entropy(plain(torch.randn(16, *net.image_shape)), labels).backward()
        dead = [n for n, p in plain.named_parameters() if p.grad is None or not bool(p.grad.any())]
        dead = [n for n in dead if not any(re.fullmatch(pattern, n) for pattern in self.without_gradient)]
        if dead:
            raise broken(f"{net.name}: the loss must reach every parameter", f"none at {', '.join(dead[:5])}")

    def test_inputs_stay_as_they_are(self, net: Backbone) -> None:
        """No unit changes what it is given: groups share a state until they part."""
        x: Tensors = torch.randn(2, *net.image_shape)
        for k in range(1, len(net) + 1):
            before = map_tensors(x, torch.clone)
            y = net.unit(k).eval()(x)
            net.exit(k).eval()(map_tensors(y, torch.clone))
            if not all(torch.equal(a, b) for a, b in zip(tensors(before), tensors(x), strict=True)):
                raise broken(f"{net.name}: unit {k} must leave its input", "other values")
            x = y

    def test_images_are_independent(self, net: Backbone) -> None:
        """An image's logits do not depend on the others of its batch in eval mode."""
        plain = net.plain().double().eval()
        images = torch.randn(5, *net.image_shape, dtype=torch.float64)
        together = plain(images)
        alone = torch.cat([plain(image[None]) for image in images])
        if not torch.allclose(together, alone, rtol=1e-8, atol=1e-8):
            far = float((together - alone).detach().abs().max())
            raise broken(f"{net.name}: logits must not depend on batch mates", f"{far:.3g} of difference")

    def test_positions_and_widths_out_of_range_are_refused(self, net: Backbone) -> None:
        """A unit that is not there and a width of 0 are refused, naming the constraint."""
        for position in (0, -1, len(net) + 1):
            for use in (net.unit, net.exit):
                try:
                    use(position)
                except Refusal:
                    continue
                raise broken(
                    f"{net.name}: 1 <= position <= {len(net)} must hold", f"no Refusal of {position}"
                )
        if self.narrows:
            try:
                net.unit(1, 0.0)
            except Refusal:
                return
            raise broken(f"{net.name}: 0 < width must hold", "no Refusal of 0")


def _sizes(state: Tensors) -> str:
    return ", ".join(str(tuple(t.shape)) for t in tensors(state))


def _equal(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
