"""What runs is counted twice, layer by layer and operator by operator, and the counts agree."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from routesearch.routing.cost import Price, image_macs, mult_adds, price_of
from routesearch.routing.counter import CountError, check, counted
from routesearch.routing.operators import _FORMULAS, needs_formula
from routesearch.routing.shapes import shapes_only


class Function(nn.Module):
    """A function of the input, and of weights of the given shapes."""

    def __init__(self, run: Callable[..., Any], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.run = run
        self.weights = nn.ParameterList([torch.randn(shape) for shape in shapes])

    def forward(self, *inputs: Tensor) -> Any:
        return self.run(*inputs, *self.weights)


class Subclass(nn.Conv2d):
    """A convolution of another name."""


def maps(*shape: int) -> Tensor:
    return torch.zeros(3, *shape)


CONV = 16 * 16 * 9 * 64
"""A 3x3 convolution of 16 channels on maps of 8 x 8, without biases."""

ATTENTION = 4 * 64 * 64 * 16 + 2 * 16 * 16 * 64
"""Self-attention of 16 tokens of 64 entries: four projections and two products."""

BY_HAND: dict[str, tuple[nn.Module, Tensor, int, int]] = {
    # a block, its input, its multiply-adds for one image without and with biases and norms
    "convolution": (nn.Conv2d(16, 16, 3, padding=1), maps(16, 8, 8), CONV, CONV + 16 * 64),
    "subclass": (Subclass(16, 16, 3, padding=1), maps(16, 8, 8), CONV, CONV + 16 * 64),
    "grouped": (nn.Conv2d(16, 16, 3, groups=4, bias=False), maps(16, 8, 8), 16 * 4 * 9 * 36, 16 * 4 * 9 * 36),
    "function": (
        Function(lambda x, w: F.conv2d(x, w, padding=1), (16, 16, 3, 3)),
        maps(16, 8, 8),
        CONV,
        CONV,
    ),
    "transposed": (
        nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False),
        maps(16, 8, 8),
        16 * 8 * 16 * 64,
        16 * 8 * 16 * 64,
    ),
    "weight norm": (
        nn.utils.parametrizations.weight_norm(nn.Conv2d(16, 16, 3, padding=1)),
        maps(16, 8, 8),
        CONV,
        CONV + 16 * 64,
    ),
    "spectral norm": (
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(16, 16, 3, padding=1)),
        maps(16, 8, 8),
        CONV,
        CONV + 16 * 64,
    ),
    "linear": (nn.Linear(64, 3), maps(64), 64 * 3, 65 * 3),
    "linear on entries alone": (Function(lambda x, w: F.linear(x[0], w)[None], (3, 8)), maps(8), 24, 24),
    "linear on tokens": (nn.Linear(64, 32), maps(16, 64), 16 * 64 * 32, 16 * 65 * 32),
    "linear on maps": (nn.Linear(8, 4, bias=False), maps(5, 6, 8), 30 * 32, 30 * 32),
    "product": (Function(lambda x: x @ x.mT), maps(5, 7), 5 * 5 * 7, 5 * 5 * 7),
    "einsum": (Function(lambda x: torch.einsum("nij,nkj->nik", x, x)), maps(5, 7), 175, 175),
    "bilinear": (Function(lambda x, w: F.bilinear(x, x, w), (5, 7, 7)), maps(7), 5 * 49, 5 * 49),
    "attention": (
        Function(lambda x: F.scaled_dot_product_attention(x, x, x)),
        maps(4, 10, 8),
        2 * 4 * 100 * 8,
        2 * 4 * 100 * 8,
    ),
    "encoder without biases": (
        nn.TransformerEncoderLayer(64, 4, 1, bias=False, batch_first=True),
        maps(16, 64),
        ATTENTION + 2 * 64 * 16,
        ATTENTION + 2 * 64 * 16 + 2 * 64,
    ),
    "encoder": (
        nn.TransformerEncoderLayer(64, 4, 128, batch_first=True),
        maps(16, 64),
        ATTENTION + 2 * 64 * 128 * 16,
        ATTENTION + 2 * 64 * 128 * 16 + 16 * (128 + 64) + 4 * 64,
    ),
    "lstm": (nn.LSTM(8, 16, batch_first=True), maps(5, 8), 5 * 64 * 24, 5 * 64 * 26),
    "gru": (
        nn.GRU(8, 16, 2, bidirectional=True, batch_first=True),
        maps(5, 8),
        5 * 2 * 48 * (24 + 48),
        5 * 2 * 48 * (26 + 50),
    ),
    "lstm cell": (nn.LSTMCell(10, 10), maps(10), 800, 880),
    "norms": (nn.Sequential(nn.BatchNorm2d(6), nn.GroupNorm(2, 6), nn.ReLU()), maps(6, 4, 4), 0, 24),
    "layer norm": (nn.LayerNorm(7), maps(5, 7), 0, 14),
    "layer norm of two axes": (nn.LayerNorm([5, 7]), maps(5, 7), 0, 70),
    "gru cell": (nn.GRUCell(4, 6), maps(4), 3 * 6 * 10, 3 * 6 * 12),
    "free": (
        nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.PReLU(), nn.Flatten()),
        maps(6, 4, 4),
        0,
        0,
    ),
    "embedding": (nn.Embedding(9, 5), torch.zeros(3, 4, dtype=torch.int64), 0, 0),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_figures_by_hand(name: str) -> None:
    block, x, without, whole = BY_HAND[name]
    assert (price_of(block, x).products, mult_adds(block, x)) == (without, whole)


@pytest.mark.parametrize("name", BY_HAND)
def test_the_meta_device_gives_the_same(name: str) -> None:
    block, x, without, whole = BY_HAND[name]
    with shapes_only():
        price = price_of(block.to("meta"), x.to("meta"))
    assert (price.products, price.macs) == (without, whole)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("grad", [False, True])
def test_attention_costs_the_same_in_every_form(batch: int, grad: bool) -> None:
    """Fused for inference, and taken apart where gradients flow."""
    layer, x = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True).eval(), torch.randn(batch, 16, 64)
    with torch.set_grad_enabled(grad), counted(layer) as count:
        layer(x)
    check(count, "layer")
    assert count.images.check == batch * (ATTENTION + 2 * 64 * 128 * 16)


def test_inference_mode_hides_nothing() -> None:
    block = nn.Sequential(Subclass(16, 16, 3, padding=1), nn.Flatten(), nn.Linear(1024, 10))
    x = torch.zeros(2, 16, 8, 8)
    with torch.inference_mode(), counted(block) as count:
        block(x)
    assert count.images.check == count.images.products == 2 * (CONV + 10240)


# ---- whose work it is --------------------------------------------------------------------------------


def test_products_of_weights_alone_are_done_once_a_batch() -> None:
    """A table of positions, made by a small network from what the layer knows."""

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places: Tensor
            self.register_buffer("places", torch.rand(16, 2))
            self.table = nn.Linear(2, 16)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.table(self.places)

    block = Table()
    assert price_of(block, maps(16, 16)) == Price(16 * 3 * 16, 16 * 2 * 16, 16 * 3 * 16)
    assert image_macs(block, maps(16, 16)) == 0
    x = torch.rand(8, 16, 16)
    with counted(block) as count:
        block(x)
    assert (count.images.check, count.shared.check, count.macs) == (0, 512, 768)


def test_only_what_runs_within_the_network_is_its_work() -> None:
    inner, outer = nn.Linear(4, 4), nn.Linear(4, 4)
    x = torch.zeros(2, 4)
    with counted(inner, inside=True) as count:
        outer(inner(x) @ torch.zeros(4, 4))
    assert count.images.check == 2 * 16
    with counted(inner) as everything:
        outer(inner(x) @ torch.zeros(4, 4))
    assert everything.images.check == 3 * 2 * 16


def test_other_threads_are_not_counted() -> None:
    net, x = nn.Linear(4, 4), torch.zeros(2, 4)
    with counted(net) as count:
        thread = threading.Thread(target=lambda: net(x))
        thread.start()
        thread.join()
    assert count.macs == 0


def test_a_layer_that_raises_is_left_behind() -> None:
    """What runs after an error that somebody caught is counted as ever."""
    net = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 2)])
    x = torch.zeros(2, 4)
    with counted(net, inside=True) as count:
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            net[0](x[:, :3])
        net[1](x)
        x @ x.T
    assert count.images.check == 2 * 8


def test_where_gradients_flow_the_weight_is_asked() -> None:
    def weight(touched: Any) -> int:
        return 3 if torch.is_grad_enabled() and any(t.requires_grad for t in touched) else 1

    net = nn.Sequential(nn.Linear(4, 4), Function(lambda x, w: x @ w, (4, 4)))
    x = torch.zeros(2, 4)
    with counted(net, inside=True, weight=weight) as trained:
        net(x)
    assert trained.macs == 3 * (2 * 20 + 2 * 16)
    net.requires_grad_(requires_grad=False)
    with counted(net, inside=True, weight=weight) as frozen:
        net(x)
    assert frozen.macs == 2 * 20 + 2 * 16


def test_a_table_that_is_made_anew_is_no_images_either() -> None:
    linear = nn.Linear(4, 3)
    block = Function(lambda x: x + linear(torch.arange(4.0)[None]).sum())
    block.linear = linear
    assert image_macs(block, maps(3)) == 0
    assert mult_adds(block, maps(3)) == 15


def test_a_buffer_that_images_are_written_to_is_theirs() -> None:
    class Scratch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place: Tensor
            self.register_buffer("place", torch.zeros(9, 4))
            self.linear = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.place[: len(x)] = x
            return self.linear(self.place[: len(x)])  # type: ignore[no-any-return]

    assert image_macs(Scratch(), maps(4)) == 10


def test_inputs_of_another_type_are_other_calls() -> None:
    class Width(nn.Module):
        """An integer is channels, a float a share of them."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(16, 8))

        def forward(self, x: Tensor, width: float) -> Tensor:
            return x @ self.weight[: width if isinstance(width, int) else int(16 * width)].T

    block = Width()
    assert [mult_adds(block, maps(8), width) for width in (1, 1.0, 0.5, 2)] == [8, 128, 64, 16]


def test_dicts_and_named_tuples_travel() -> None:
    class Pair(NamedTuple):
        left: Tensor
        right: Tensor

    block = Function(lambda state: {"sum": state["pair"].left @ state["pair"].right})
    state = {"pair": Pair(maps(2, 5), maps(5, 3))}
    assert mult_adds(block, state) == 30


def test_a_block_keeps_its_mode_whatever_happens() -> None:
    class Fixed(list[Tensor]):
        """A list that cannot be made from its parts."""

        def __init__(self) -> None:
            super().__init__([maps(8)])

    for block, state, error in ((Opaque(), maps(8), CountError), (nn.Linear(8, 2), Fixed(), TypeError)):
        with pytest.raises(error):
            mult_adds(block.train(), state)
        assert block.training


# ---- what is not known -------------------------------------------------------------------------------


@torch.library.custom_op("routesearch_tests::product", mutates_args=())
def opaque(x: Tensor, weight: Tensor) -> Tensor:
    """A kernel whose inside nobody sees."""
    return x @ weight


@opaque.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])


class Opaque(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return opaque(x, self.weight)  # type: ignore[no-any-return]


class Stated(Opaque):
    def __init__(self, macs: Any) -> None:
        super().__init__()
        self.stated = macs

    def macs(self, x: Tensor) -> Any:
        return self.stated


def test_an_operator_that_nobody_knows_is_named() -> None:
    told = r"^the multiply-adds of every operator must be known, got routesearch_tests::product"
    with pytest.raises(CountError, match=rf"{told} in Sequential; give its module a method macs\(\*inputs\)"):
        mult_adds(nn.Sequential(Opaque()), maps(8))


def test_a_module_states_what_operators_do_not_show() -> None:
    assert mult_adds(nn.Sequential(Stated(32), nn.Linear(4, 2)), maps(8)) == 32 + 10
    block, x = Stated(32), torch.zeros(5, 8)
    with counted(block) as count:
        block(x)
    assert count.macs == 5 * 32


@pytest.mark.parametrize("macs", [-1, 1.5, True, None])
def test_a_statement_is_an_integer(macs: Any) -> None:
    with pytest.raises(CountError, match=r"^Stated.macs must give the multiply-adds of one image"):
        mult_adds(Stated(macs), maps(8))


def test_an_operator_without_weights_is_no_silent_nothing_either() -> None:
    with pytest.raises(CountError, match="must be known, got routesearch_tests::product in Function"):
        mult_adds(Function(lambda x: opaque(x, x.mT.contiguous())), torch.zeros(3, 3))


def test_a_statement_is_of_a_row() -> None:
    """Of an image, or of a token where images were folded into tokens."""
    folded = Function(lambda x: inner(x.flatten(0, 1)))
    folded.inner = inner = Stated(7)
    assert mult_adds(folded, maps(5, 8)) == 35


def test_nobody_states_less_than_is_seen() -> None:
    class Modest(nn.Linear):
        def macs(self, x: Tensor) -> int:
            return 7

    with pytest.raises(CountError, match=r"^Modest.macs must .* no less than its operators show, got 7 of 8"):
        mult_adds(Modest(4, 2), maps(4))


def test_two_counts_that_differ_name_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routesearch.routing.layers._torchinfo", lambda layer, shape: 2)
    told = r"got Linear, of which torchinfo counts \d products and torch's operators 8$"
    with pytest.raises(CountError, match=told):
        mult_adds(nn.Linear(4, 2), maps(4))


def test_no_product_of_torch_is_a_silent_nothing() -> None:
    """What torch's own counter prices is priced here, and a product by name without a formula is refused."""
    priced = {str(packet).replace(".", "::") for packet in flop_registry if "backward" not in str(packet)}
    assert {name for name in priced if name.startswith("aten::")} <= _FORMULAS.keys()
    for name in ("conv_depthwise3d", "quantized_lstm", "_cdist_forward", "_grouped_mm", "mkldnn_linear"):
        packet = getattr(torch.ops.aten, name)
        assert needs_formula(getattr(packet, packet.overloads()[0])), name
    for name in ("upsample_bilinear2d", "native_layer_norm", "cat", "add", "_thnn_fused_lstm_cell"):
        packet = getattr(torch.ops.aten, name)
        assert not needs_formula(getattr(packet, packet.overloads()[0])), name


# ---- any module --------------------------------------------------------------------------------------


MAPS = ("conv", "subclass", "function", "transposed", "depthwise", "norm", "act")
TOKENS = ("encoder", "lstm", "gru", "product", "norm", "sdpa")


@st.composite
def networks(draw: Any) -> tuple[nn.Module, Tensor]:
    """A few layers on maps, then perhaps on tokens, then on vectors."""
    channels, side = draw(st.integers(1, 4)), draw(st.sampled_from([4, 6, 8]))
    x = torch.zeros(2, channels, side, side)
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 4))):
        after = 2 * draw(st.integers(1, 4))
        kind = draw(
            st.sampled_from(["conv", "subclass", "function", "transposed", "depthwise", "norm", "act"])
        )
        bias = draw(st.booleans())
        size = draw(st.sampled_from([1, 3]))
        layer: nn.Module
        if kind in ("conv", "subclass"):
            make = nn.Conv2d if kind == "conv" else Subclass
            layer = make(channels, after, size, draw(st.integers(1, 2)), size // 2, bias=bias)
            if draw(st.booleans()):
                layer = nn.utils.parametrizations.weight_norm(layer)
        elif kind == "function":
            layer = Function(
                lambda x, w, p=size // 2: F.conv2d(x, w, padding=p), (after, channels, size, size)
            )
        elif kind == "transposed":
            layer = nn.ConvTranspose2d(channels, after, 2, 2, bias=bias)
        elif kind == "depthwise":
            layer, after = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=bias), channels
        elif kind == "norm":
            layer, after = nn.BatchNorm2d(channels), channels
        else:
            layer, after = draw(st.sampled_from([nn.ReLU(), nn.GELU(), nn.Hardswish(), nn.PReLU()])), channels
        layers.append(layer)
        channels = after
    if draw(st.booleans()):
        width = 2 * draw(st.integers(1, 4))
        layers += [Function(lambda x: x.flatten(2).transpose(1, 2)), nn.Linear(channels, width)]
        for _ in range(draw(st.integers(1, 2))):
            kind = draw(st.sampled_from(TOKENS))
            if kind == "encoder":
                layers.append(
                    nn.TransformerEncoderLayer(width, 2, 3, batch_first=True, bias=draw(st.booleans()))
                )
            elif kind in ("lstm", "gru"):
                make = nn.LSTM if kind == "lstm" else nn.GRU
                layers += [make(width, width, batch_first=True), Function(lambda x: x[0])]
            elif kind == "product":
                layers.append(Function(lambda x: x @ x.transpose(1, 2) @ x))
            elif kind == "sdpa":
                layers.append(Function(lambda x: F.scaled_dot_product_attention(x, x, x)))
            else:
                layers.append(nn.LayerNorm(width))
        layers.append(Function(lambda x: x.mean(1)))
        channels = width
    else:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    layers.append(nn.Linear(channels, 3, bias=draw(st.booleans())))
    return nn.Sequential(*layers), x


def counted_by_torch(net: nn.Module, x: Tensor) -> int:
    """Half of torch's FLOPs of a forward pass in which gradients flow, so that little is fused.

    An LSTM stays one kernel, of which torch counts nothing: each entry of its matrices, once a token.
    """
    lacking: list[int] = []
    for layer in net.modules():
        if isinstance(layer, nn.LSTM):
            matrices = sum(w.numel() for w in layer.parameters() if w.dim() > 1)
            layer.register_forward_hook(lambda m, i, out, n=matrices: lacking.append(n * out[0].shape[1]))
    with FlopCounterMode(display=False) as flops, sdpa_kernel(SDPBackend.MATH):
        net.eval()(x[:1])
    return int(flops.get_total_flops()) // 2 + sum(lacking)


def agree(net: nn.Module, x: Tensor) -> None:
    """The price is torch's count, on the CPU and on the meta device, but for biases and norms."""
    price = price_of(net, x)
    assert price.products == counted_by_torch(net, x)
    with shapes_only():
        assert price_of(copy.deepcopy(net).to("meta"), x.to("meta")) == price
    terms = sum(p.numel() for p in net.parameters() if p.dim() == 1) * 128 * 128  # positions at most
    assert price.products <= price.macs <= price.products + terms


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(networks())
def test_any_network_is_counted_as_torch_counts_it(made: tuple[nn.Module, Tensor]) -> None:
    agree(*made)


@pytest.mark.slow
@settings(max_examples=10_000, suppress_health_check=list(HealthCheck))
@given(networks())
def test_ten_thousand_networks_are_counted_as_torch_counts_them(made: tuple[nn.Module, Tensor]) -> None:
    agree(*made)


@settings(max_examples=50, suppress_health_check=list(HealthCheck))
@given(networks(), st.integers(1, 5))
def test_a_batch_costs_its_images(made: tuple[nn.Module, Tensor], images: int) -> None:
    net, x = made
    image_macs(net, x)
    batch = torch.rand(images, *x.shape[1:])
    with torch.inference_mode(), counted(net.eval()) as count:
        net(batch)
    check(count, "net")
    assert count.images.macs == images * image_macs(net, x)
