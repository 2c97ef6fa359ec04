"""Conditional execution: what runs for whom, what it costs, and the static interval of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchinfo import summary

from routesearch.results.points import Interval
from routesearch.routing.cost import map_tensors, mult_adds, tensors
from routesearch.routing.meter import Meter, Plan, Routed
from routesearch.routing.shapes import shapes_only

COSTS = st.integers(0, 10**12)
INTERVALS = st.tuples(COSTS, COSTS).map(lambda ends: Interval(min(ends), max(ends)))


def conv(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())


class Forget(nn.Module):
    """A step that needs a list (a state and a memory) and gives one back."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(size, size)

    def forward(self, x: Tensor, memory: list[Tensor]) -> list[Tensor]:
        return list(self.cell(x, tuple(memory)))


class Tree(nn.Module):
    """All the meter offers at once: a skipped block, an exit, and a three-way split with nested state.

    The choices are read off the images, so that a test can send every image where it likes: entry
    [0, 0, 0] above 0 runs the skippable block, [0, 0, 1] above 0 leaves early, [0, 0, 2] is the branch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.skippable = conv(2, 4), conv(4, 4)
        self.early = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        self.step = Forget(4)
        self.branches = nn.ModuleList(
            [nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)), nn.Linear(4, 3, bias=False)]
        )
        self.eval()

    def route(self, meter: Meter, images: Tensor) -> None:
        choices = images[:, 0, 0]
        x = meter.run(self.stem, images)
        x = meter.patch(choices[:, 0] > 0, self.skippable, x, into=x)
        for leaves, some, x_of, picked in meter.split(choices[:, 1] > 0, 2, x, choices[:, 2]):
            if leaves:
                some.finish(some.run(self.early, x_of), route=0)
                continue
            y = x_of.mean((2, 3))
            memory = some.run(self.step, y, [y, 2 * y])
            for way, few, state in some.split(picked.long().clamp(0, 2), 3, (memory, [y])):
                (hidden, _), (plain,) = state
                few.finish(few.run(self.branches[way], hidden + plain), route=1 + way)

    def bill(self, images: Tensor) -> Routed:
        meter = Meter(images)
        with torch.inference_mode():
            self.route(meter, images)
        return meter.bill()

    def price(self, images: Tensor) -> int:
        """What one image costs, counted module by module with torchinfo, from the rules above."""
        run, leave, branch = (float(v) for v in images[0, 0, 0, :3])
        total = macs(self.stem, (2, 4, 4)) + (macs(self.skippable, (4, 4, 4)) if run > 0 else 0)
        if leave > 0:
            return total + macs(self.early, (4, 4, 4))
        zero = torch.zeros(1, 4)
        cell = summary(self.step.cell, input_data=[zero, (zero, zero)], verbose=0).total_mult_adds
        return total + int(cell) + macs(self.branches[min(2, max(0, int(branch)))], (4,))


def macs(block: nn.Module, shape: tuple[int, ...]) -> int:
    return int(summary(block, input_size=(1, *shape), verbose=0).total_mult_adds)


@pytest.fixture(scope="module")
def tree() -> Tree:
    torch.manual_seed(0)
    return Tree()


def images_of(choices: list[tuple[bool, bool, int]], seed: int = 0) -> Tensor:
    images = torch.randn(len(choices), 2, 4, 4, generator=torch.Generator().manual_seed(seed))
    for image, (run, leave, branch) in zip(images, choices, strict=True):
        image[0, 0, :3] = torch.tensor([run - 0.5, leave - 0.5, float(branch)])
    return images


CHOICES = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 2)), max_size=9)


@given(CHOICES, st.integers(0, 99))
@settings(max_examples=60)
def test_a_batch_equals_its_images_one_at_a_time(
    tree: Tree, choices: list[tuple[bool, bool, int]], seed: int
) -> None:
    images = images_of(choices, seed)
    whole = tree.bill(images)
    assert len(whole.macs) == len(whole.route) == len(whole.logits) == len(whole.ran) == len(images)
    for i, (run, leave, branch) in enumerate(choices):
        single = tree.bill(images[i : i + 1])
        torch.testing.assert_close(whole.logits[i], single.logits[0], rtol=1e-4, atol=1e-5)
        assert int(whole.macs[i]) == int(single.macs[0]) == tree.price(images[i : i + 1])
        assert int(whole.route[i]) == int(single.route[0]) == (0 if leave else 1 + branch)
        assert whole.ran[i].tolist() == single.ran[0].tolist() == [run]


@given(CHOICES.filter(len))
@settings(max_examples=25)
def test_no_image_costs_less_or_more_than_the_plan_says(
    tree: Tree, choices: list[tuple[bool, bool, int]]
) -> None:
    plan = priced(tree)
    billed = tree.bill(images_of(choices))
    for cost, route in zip(billed.macs.tolist(), billed.route.tolist(), strict=True):
        assert cost in plan.routes[route]
        assert cost in plan.bounds


def priced(tree: Tree) -> Plan:
    meta = Tree().to("meta")
    plan = Plan()
    with torch.no_grad():
        meta.route(plan, torch.empty(1, 2, 4, 4, device="meta"))
    return plan


def test_the_plan_is_tight_at_both_ends(tree: Tree) -> None:
    plan = priced(tree)
    every = [
        tree.price(images_of([(run, leave, branch)]))
        for run in (False, True)
        for leave in (False, True)
        for branch in (0, 1, 2)
    ]
    assert (plan.bounds.min, plan.bounds.max) == (min(every), max(every))
    assert sorted(plan.routes) == [0, 1, 2, 3]
    assert plan.routes[0].max - plan.routes[0].min == macs(tree.skippable, (4, 4, 4))
    assert plan.sites == 1


def test_a_plan_without_a_finish_has_no_bounds() -> None:
    with pytest.raises(ValueError, match="at least once"):
        _ = Plan().bounds


# ---- charges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "shape"),
    [
        (nn.Conv2d(3, 5, 3, bias=False), (3, 9, 7)),
        (nn.Conv2d(3, 5, 3, stride=2, padding=1), (3, 9, 7)),
        (nn.Sequential(nn.Flatten(), nn.Linear(63, 4)), (1, 9, 7)),
        (nn.BatchNorm2d(3), (3, 9, 7)),
        (nn.Sequential(conv(3, 4), nn.Dropout(0.5), nn.MaxPool2d(2)), (3, 8, 8)),
        (nn.ReLU(), (3, 8, 8)),
    ],
)
@pytest.mark.parametrize("count", [0, 1, 5])
def test_charges_are_what_torchinfo_sees(block: nn.Module, shape: tuple[int, ...], count: int) -> None:
    expected = macs(block, shape)
    images = torch.zeros(count, *shape)
    assert mult_adds(block, images) == expected
    meter = Meter(images)
    block.eval()
    meter.finish(meter.run(block, images).flatten(1))
    assert meter.bill().macs.tolist() == [expected] * count


def test_figures_by_hand() -> None:
    """3x3 convolution 2 -> 4 with bias on 4x4: (2*9 + 1)*4*16 = 1,216; its norm: 2*4 = 8."""
    assert mult_adds(conv(2, 4), torch.zeros(1, 2, 4, 4)) == 1216 + 8
    assert mult_adds(nn.Linear(64, 3), torch.zeros(7, 64)) == 65 * 3


def test_a_block_that_runs_twice_costs_twice() -> None:
    block, x = nn.Linear(4, 4), torch.ones(3, 4)
    meter = Meter(x)
    meter.finish(meter.run(block, meter.run(block, x)))
    assert meter.bill().macs.tolist() == [2 * 20] * 3


def test_pricing_remembers_each_shape_apart() -> None:
    block = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    assert [mult_adds(block, torch.zeros(1, 1, s, s)) for s in (4, 8, 4)] == [9 * 16, 9 * 64, 9 * 16]


def test_pricing_leaves_modes_buffers_and_generators_alone() -> None:
    block = nn.Sequential(conv(1, 3), nn.Dropout(0.5), conv(3, 3)).train()
    block[2].eval()
    modes = [m.training for m in block.modules()]
    before = {name: value.clone() for name, value in block.state_dict().items()}
    state = torch.get_rng_state()
    mult_adds(block, torch.ones(4, 1, 4, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in block.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())


def test_pricing_looks_into_any_depth() -> None:
    deep = conv(2, 4)
    for _ in range(8):
        deep = nn.Sequential(deep)
    assert mult_adds(deep, torch.zeros(1, 2, 4, 4)) == 1216 + 8


def test_nested_state_is_priced_for_one_image() -> None:
    step = Forget(4)
    y = torch.zeros(3, 4)
    assert mult_adds(step, y, [y, y]) == mult_adds(step, y[:1], [y[:1], y[:1]]) > 0


# ---- splits ----------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_split_gathers_the_right_rows_in_order(choice: list[int]) -> None:
    x = torch.arange(len(choice) * 2.0).view(-1, 2)
    meter = Meter(x)
    seen: dict[int, list[int]] = {}
    for way, group, rows, (nested, [deep]) in meter.split(torch.tensor(choice), 4, x, (x + 1, [x + 2])):
        assert torch.equal(nested, rows + 1)
        assert torch.equal(deep, rows + 2)
        assert len(group) == len(rows) > 0
        seen[way] = (rows[:, 0] / 2).long().tolist()
    assert seen == {way: [i for i, c in enumerate(choice) if c == way] for way in sorted(set(choice))}


def test_groups_of_groups_keep_the_rows_of_the_batch() -> None:
    x = torch.arange(8.0).view(8, 1)
    meter = Meter(x)
    for odd, half, of_half in meter.split(x[:, 0].long() % 2, 2, x):
        for big, quarter, of_quarter in half.split(of_half[:, 0] >= 4, 2, of_half):
            quarter.finish(of_quarter * 10, route=2 * odd + big)
    bill = meter.bill()
    assert bill.logits[:, 0].tolist() == [10.0 * i for i in range(8)]
    assert bill.route.tolist() == [0, 2, 0, 2, 1, 3, 1, 3]


def test_what_differed_before_a_split_stays_apart_after_it() -> None:
    costly, cheap, x = nn.Linear(4, 4), nn.Linear(4, 4, bias=False), torch.ones(4, 4)
    meter = Meter(x)
    y = meter.patch(torch.tensor([True, False, True, False]), costly, x, into=x)
    for way, group, some in meter.split(torch.tensor([0, 0, 1, 1]), 2, y):
        group.finish(group.run(cheap, some) if way else some)
    assert meter.bill().macs.tolist() == [20, 0, 36, 16]


@pytest.mark.parametrize("way", [0, 2])
def test_when_nobody_parts_nothing_is_gathered(way: int) -> None:
    x = torch.rand(3, 2)
    ways = list(Meter(x).split(torch.full((3,), way), 3, x))
    assert [w for w, *_ in ways] == [way]
    assert ways[0][2] is x


def test_a_choice_beyond_the_ways_is_an_error() -> None:
    x = torch.zeros(2, 1)
    for choice, got in (([0, 2], "0 to 2"), ([-1, 1], "-1 to 1")):
        with pytest.raises(ValueError, match=rf"0 <= choice < ways must hold, got {got}, ways=2"):
            list(Meter(x).split(torch.tensor(choice), 2, x))
    with pytest.raises(ValueError, match=r"0 <= choice < ways must hold, got 5 to 5, ways=2"):
        list(Meter(x[:1]).split(torch.tensor([5]), 2, x[:1]))


# ---- patches ---------------------------------------------------------------------------------------


def test_patch_changes_masked_rows_only() -> None:
    x, mask = torch.ones(4, 2), torch.tensor([True, False, False, True])
    block = nn.Linear(2, 2)
    seen: list[int] = []
    block.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    into = torch.zeros(4, 2)
    meter = Meter(x)
    with torch.no_grad():
        mult_adds(block, x)
        seen.clear()
        y = meter.patch(mask, block, x, into=into)
        expected = torch.where(mask[:, None], block(x), 0.0)
    assert seen[0] == 2, "the block must run for the masked images and for no other"
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("view", ["itself", "a view"])
def test_patch_leaves_the_callers_images_alone(layout: torch.memory_format, view: str) -> None:
    images = torch.rand(4, 3, 5, 5).contiguous(memory_format=layout)
    before, block = images.clone(), nn.Conv2d(3, 3, 3, padding=1)
    into = images if view == "itself" else images[:]
    with torch.inference_mode():
        y = Meter(images).patch(torch.tensor([True, False, True, False]), block, images, into=into)
        expected = before.clone()
        expected[::2] = block(before[::2])
    torch.testing.assert_close(y, expected)
    assert images.equal(before)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_groups_and_patches_keep_the_memory_layout(layout: torch.memory_format) -> None:
    x = torch.rand(4, 3, 5, 5).contiguous(memory_format=layout)
    mask = torch.tensor([True, False, True, False])
    parts = [part for _, _, part in Meter(x).split(mask, 2, x)]
    patched = Meter(x).patch(mask, nn.Identity(), x, into=x + 1)
    assert all(t.is_contiguous(memory_format=layout) for t in [*parts, patched])


def test_a_tensor_in_the_state_twice_is_gathered_once() -> None:
    x = torch.rand(4, 3)
    for _, _, (one, [other]), third in Meter(x).split(torch.tensor([0, 1, 1, 0]), 2, (x, [x]), x):
        assert one is other
        assert one is third


@pytest.mark.parametrize("everyone", [True, False])
def test_patch_of_all_or_none(everyone: bool) -> None:
    x = torch.ones(3, 2)
    block = nn.Linear(2, 2)
    meter = Meter(x)
    with torch.no_grad():
        y = meter.patch(torch.full((3,), everyone), block, x, into=x)
        assert torch.equal(y, block(x) if everyone else x)
    meter.finish(y)
    bill = meter.bill()
    assert bill.macs.tolist() == [6 * everyone] * 3
    assert bill.ran.tolist() == [[everyone]] * 3


def test_ran_counts_blocks_along_each_way() -> None:
    x = torch.ones(4, 2)
    block = nn.Linear(2, 2)
    meter = Meter(x)
    x = meter.patch(torch.tensor([True, True, False, False]), block, x, into=x)
    for way, group, some in meter.split(torch.tensor([0, 1, 0, 1]), 2, x):
        some = group.patch(torch.full((2,), bool(way)), block, some, into=some)
        if way:
            some = group.patch(torch.tensor([True, False]), block, some, into=some)
        group.finish(some)
    rows = [[True, False, False], [True, True, True], [False, False, False], [False, True, False]]
    assert meter.bill().ran.tolist() == rows


# ---- the bill --------------------------------------------------------------------------------------


def test_finishing_twice_is_an_error() -> None:
    meter = Meter(torch.zeros(2, 1))
    meter.finish(torch.zeros(2, 3))
    meter.finish(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="exactly once, got 4 finishes for 2"):
        meter.bill()


def test_one_twice_and_another_never_is_an_error() -> None:
    x = torch.zeros(4, 1)
    meter = Meter(x)
    for _ in range(2):
        for way, group, some in meter.split(torch.tensor([0, 0, 1, 1]), 2, x):
            if way:
                group.finish(some)
    with pytest.raises(ValueError, match="exactly once"):
        meter.bill()


def test_not_finishing_is_an_error() -> None:
    meter = Meter(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="exactly once, got 0 finishes for 3"):
        meter.bill()


def test_logits_must_be_one_row_per_image() -> None:
    with pytest.raises(ValueError, match="one row of logits per image must hold, got 1 for 2 images"):
        Meter(torch.zeros(2, 1)).finish(torch.zeros(1, 3))


@pytest.mark.parametrize("count", [0, 1])
def test_small_batches(tree: Tree, count: int) -> None:
    bill = tree.bill(images_of([(True, False, 1)] * count))
    assert bill.logits.shape == (count, 3)
    assert bill.macs.shape == bill.route.shape == (count,)
    assert bill.ran.shape == (count, 1)


# ---- intervals -------------------------------------------------------------------------------------


@given(INTERVALS, INTERVALS, INTERVALS)
def test_interval_laws(a: Interval, b: Interval, c: Interval) -> None:
    assert a + b == b + a
    assert a | b == b | a
    assert (a + b) + c == a + (b + c)
    assert (a | b) | c == a | (b | c)
    assert a | a == a
    assert a + (b | c) == (a + b) | (a + c)
    assert a + Interval(0, 0) == a
    assert a.min in (a | b)
    assert b.max in (a | b)
    assert (a | b).max + 1 not in (a | b)


@given(INTERVALS, INTERVALS, st.data())
def test_what_lies_in_both_parts_lies_in_the_sum(a: Interval, b: Interval, draw: Any) -> None:
    x, y = (draw.draw(st.integers(i.min, i.max)) for i in (a, b))
    assert x + y in a + b
    assert x in (a | b)


# ---- nested state ----------------------------------------------------------------------------------

TENSORS = st.recursive(
    st.integers(0, 9).map(lambda v: torch.full((2, 1), float(v))) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)


@given(TENSORS)
def test_map_keeps_the_form_of_a_state(state: Any) -> None:
    doubled = map_tensors(state, lambda t: 2 * t)
    assert [t.tolist() for t in tensors(doubled)] == [(2 * t).tolist() for t in tensors(state)]
    assert form(doubled) == form(state)


def form(state: Any) -> Any:
    return [type(state), *map(form, state)] if isinstance(state, list | tuple) else type(state)


# ---- shapes without values ---------------------------------------------------------------------------

SIZES = st.integers(1, 7)


@given(st.data())
@settings(max_examples=150)
def test_shapes_only_are_the_real_shapes_and_the_real_refusals(draw: Any) -> None:
    """Convolutions of any form on images of any size, also where they do not fit together."""

    def pick(values: Any) -> Any:
        return draw.draw(values)

    before, groups = pick(st.integers(1, 4)), pick(st.sampled_from([1, 1, 2]))
    form: dict[str, Any] = {
        "stride": pick(st.integers(1, 3) | st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "padding": pick(
            st.integers(0, 2) | st.tuples(st.integers(0, 2), st.integers(0, 2)) | st.just("valid")
        ),
        "dilation": pick(st.integers(1, 2)),
        "groups": groups,
        "bias": pick(st.booleans()),
        "padding_mode": pick(st.sampled_from(["zeros", "zeros", "reflect"])),
    }
    kernel = pick(SIZES | st.tuples(SIZES, SIZES))
    seen = before * groups if pick(st.integers(0, 4)) else before * groups + 1

    def shape(device: str) -> Any:
        try:
            conv = nn.Conv2d(before * groups, 2 * groups, kernel, **form, device=device)
            with torch.no_grad():
                y = conv(torch.zeros(2, seen, height, width, device=device))
        except RuntimeError:
            return "refused"
        return tuple(y.shape)

    height, width = pick(SIZES), pick(SIZES)
    real = shape("cpu")
    with shapes_only():
        assert shape("meta") == real


@pytest.mark.parametrize(
    ("block", "shape"),
    [
        (lambda: nn.Linear(6, 4), (2, 6)),
        (lambda: nn.Linear(6, 4), (2, 5)),
        (lambda: nn.Linear(6, 4, bias=False), (2, 3, 6)),
        (lambda: nn.BatchNorm2d(3), (2, 3, 4, 4)),
        (lambda: nn.BatchNorm2d(3), (2, 4, 4, 4)),
        (lambda: nn.AdaptiveAvgPool2d(1), (2, 3, 4, 5)),
        (lambda: nn.AdaptiveAvgPool2d((2, None)), (2, 3, 4, 5)),
        (lambda: nn.Conv2d(3, 4, 3, padding="same"), (2, 3, 5, 5)),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 2)), (1, 3, 5, 5)),
        (lambda: nn.ConvTranspose2d(3, 4, 2, 2), (1, 3, 5, 5)),
        (lambda: nn.Conv1d(3, 4, 3), (1, 3, 9)),
        (lambda: nn.LSTMCell(4, 5), (2, 4)),
    ],
)
def test_other_layers_keep_their_shapes_too(block: Any, shape: tuple[int, ...]) -> None:
    def result(device: str) -> Any:
        with torch.device(device), torch.no_grad():
            try:
                found = block().eval()(torch.empty(*shape).zero_())
            except RuntimeError:
                return "refused"
        return [tuple(t.shape) for t in tensors(found)]

    real = result("cpu")
    with shapes_only():
        assert result("meta") == real


def test_comparisons_of_shapes_in_any_form() -> None:
    with shapes_only():
        x = torch.empty(3, 2)
        found = [x > 0.5, x >= 1, x < x, torch.lt(x, 0.5), torch.ge(x, other=0.5), x.amax(1) <= 2]
    assert [(tuple(f.shape), f.dtype) for f in found] == [((3, 2), torch.bool)] * 5 + [((3,), torch.bool)]


def test_functions_called_by_keyword() -> None:
    with shapes_only():
        x, w = torch.empty(1, 3, 5, 5), torch.empty(4, 3, 3, 3)
        assert F.conv2d(x, weight=w, padding=1, bias=None).shape == (1, 4, 5, 5)
        assert F.linear(x, weight=torch.empty(2, 5), bias=None).shape == (1, 3, 5, 2)
        assert F.adaptive_avg_pool2d(x, output_size=2).shape == (1, 3, 2, 2)
        assert F.batch_norm(x, running_mean=torch.empty(3), running_var=torch.empty(3)).shape == x.shape


def test_real_tensors_are_left_alone() -> None:
    with shapes_only():
        x = torch.ones(2, 2, device="cpu")
        assert (x > 0.5).all()
        assert F.linear(x, x).eq(2).all()
        assert x.fill_(3).eq(3).all()


def test_a_plan_refuses_a_patch_that_would_not_fit() -> None:
    x = torch.empty(1, 3, 8, 8, device="meta")
    with torch.device("meta"):
        narrow = nn.Conv2d(3, 3, 3)
    with pytest.raises(ValueError, match=r"patched into, got \(3, 6, 6\) and \(3, 8, 8\)"):
        Plan().patch(torch.empty(1, dtype=torch.bool, device="meta"), narrow, x, into=x)
