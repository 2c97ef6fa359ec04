"""Conditional execution of a batch: what runs for whom, and its bill."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchinfo import summary

from routesearch.routing.billing import BatchMeter, Routed
from routesearch.routing.cost import mult_adds


def images_of(choices: list[tuple[bool, bool, int]], seed: int = 0) -> Tensor:
    images = torch.randn(len(choices), 2, 4, 4, generator=torch.Generator().manual_seed(seed))
    for image, (run, leave, branch) in zip(images, choices, strict=True):
        image[0, 0, :3] = torch.tensor([run - 0.5, leave - 0.5, float(branch)])
    return images


CHOICES = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 2)), max_size=9)


def conv(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())


def macs(block: nn.Module, shape: tuple[int, ...]) -> int:
    return int(summary(block, input_size=(1, *shape), verbose=0).total_mult_adds)


@given(CHOICES, st.integers(0, 99))
@settings(max_examples=60)
def test_a_batch_equals_its_images_one_at_a_time(
    tree: Any, choices: list[tuple[bool, bool, int]], seed: int
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
    meter = BatchMeter(images)
    block.eval()
    meter.finish(meter.run(block, images).flatten(1))
    assert meter.bill().macs.tolist() == [expected] * count


def test_a_block_that_runs_twice_costs_twice() -> None:
    block, x = nn.Linear(4, 4), torch.ones(3, 4)
    meter = BatchMeter(x)
    meter.finish(meter.run(block, meter.run(block, x)))
    assert meter.bill().macs.tolist() == [2 * 20] * 3


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_split_gathers_the_right_rows_in_order(choice: list[int]) -> None:
    x = torch.arange(len(choice) * 2.0).view(-1, 2)
    meter = BatchMeter(x)
    seen: dict[int, list[int]] = {}
    for way, group, rows, (nested, [deep]) in meter.split(torch.tensor(choice), 4, x, (x + 1, [x + 2])):
        assert torch.equal(nested, rows + 1)
        assert torch.equal(deep, rows + 2)
        assert len(group) == len(rows) > 0
        seen[way] = (rows[:, 0] / 2).long().tolist()
    assert seen == {way: [i for i, c in enumerate(choice) if c == way] for way in sorted(set(choice))}


def test_groups_of_groups_keep_the_rows_of_the_batch() -> None:
    x = torch.arange(8.0).view(8, 1)
    meter = BatchMeter(x)
    for odd, half, of_half in meter.split(x[:, 0].long() % 2, 2, x):
        for big, quarter, of_quarter in half.split(of_half[:, 0] >= 4, 2, of_half):
            quarter.finish(of_quarter * 10, route=2 * odd + big)
    bill = meter.bill()
    assert bill.logits[:, 0].tolist() == [10.0 * i for i in range(8)]
    assert bill.route.tolist() == [0, 2, 0, 2, 1, 3, 1, 3]


def test_what_differed_before_a_split_stays_apart_after_it() -> None:
    costly, cheap, x = nn.Linear(4, 4), nn.Linear(4, 4, bias=False), torch.ones(4, 4)
    meter = BatchMeter(x)
    y = meter.patch(torch.tensor([True, False, True, False]), costly, x, into=x)
    for way, group, some in meter.split(torch.tensor([0, 0, 1, 1]), 2, y):
        group.finish(group.run(cheap, some) if way else some)
    assert meter.bill().macs.tolist() == [20, 0, 36, 16]


@pytest.mark.parametrize("way", [0, 2])
def test_when_nobody_parts_nothing_is_gathered(way: int) -> None:
    x = torch.rand(3, 2)
    ways = list(BatchMeter(x).split(torch.full((3,), way), 3, x))
    assert [w for w, *_ in ways] == [way]
    assert ways[0][2] is x


def test_a_choice_beyond_the_ways_is_an_error() -> None:
    x = torch.zeros(2, 1)
    for choice, got in (([0, 2], "0 to 2"), ([-1, 1], "-1 to 1")):
        with pytest.raises(ValueError, match=rf"0 <= choice < ways must hold, got {got}, ways=2"):
            list(BatchMeter(x).split(torch.tensor(choice), 2, x))
    with pytest.raises(ValueError, match=r"0 <= choice < ways must hold, got 5 to 5, ways=2"):
        list(BatchMeter(x[:1]).split(torch.tensor([5]), 2, x[:1]))


def test_patch_changes_masked_rows_only() -> None:
    x, mask = torch.ones(4, 2), torch.tensor([True, False, False, True])
    block = nn.Linear(2, 2)
    seen: list[int] = []
    block.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    into = torch.zeros(4, 2)
    meter = BatchMeter(x)
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
        y = BatchMeter(images).patch(torch.tensor([True, False, True, False]), block, images, into=into)
        expected = before.clone()
        expected[::2] = block(before[::2])
    torch.testing.assert_close(y, expected)
    assert images.equal(before)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_groups_and_patches_keep_the_memory_layout(layout: torch.memory_format) -> None:
    x = torch.rand(4, 3, 5, 5).contiguous(memory_format=layout)
    mask = torch.tensor([True, False, True, False])
    parts = [part for _, _, part in BatchMeter(x).split(mask, 2, x)]
    patched = BatchMeter(x).patch(mask, nn.Identity(), x, into=x + 1)
    assert all(t.is_contiguous(memory_format=layout) for t in [*parts, patched])


def test_a_tensor_in_the_state_twice_is_gathered_once() -> None:
    x = torch.rand(4, 3)
    for _, _, (one, [other]), third in BatchMeter(x).split(torch.tensor([0, 1, 1, 0]), 2, (x, [x]), x):
        assert one is other
        assert one is third


@pytest.mark.parametrize("everyone", [True, False])
def test_patch_of_all_or_none(everyone: bool) -> None:
    x = torch.ones(3, 2)
    block = nn.Linear(2, 2)
    meter = BatchMeter(x)
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
    meter = BatchMeter(x)
    x = meter.patch(torch.tensor([True, True, False, False]), block, x, into=x)
    for way, group, some in meter.split(torch.tensor([0, 1, 0, 1]), 2, x):
        some = group.patch(torch.full((2,), bool(way)), block, some, into=some)
        if way:
            some = group.patch(torch.tensor([True, False]), block, some, into=some)
        group.finish(some)
    rows = [[True, False, False], [True, True, True], [False, False, False], [False, True, False]]
    assert meter.bill().ran.tolist() == rows


def test_finishing_twice_is_an_error() -> None:
    meter = BatchMeter(torch.zeros(2, 1))
    meter.finish(torch.zeros(2, 3))
    meter.finish(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="exactly once, got 4 finishes for 2"):
        meter.bill()


def test_one_twice_and_another_never_is_an_error() -> None:
    x = torch.zeros(4, 1)
    meter = BatchMeter(x)
    for _ in range(2):
        for way, group, some in meter.split(torch.tensor([0, 0, 1, 1]), 2, x):
            if way:
                group.finish(some)
    with pytest.raises(ValueError, match="exactly once"):
        meter.bill()


def test_not_finishing_is_an_error() -> None:
    meter = BatchMeter(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="exactly once, got 0 finishes for 3"):
        meter.bill()


def test_logits_must_be_one_row_per_image() -> None:
    with pytest.raises(ValueError, match="one row of logits per image must hold, got 1 for 2 images"):
        BatchMeter(torch.zeros(2, 1)).finish(torch.zeros(1, 3))


@pytest.mark.parametrize("count", [0, 1])
def test_small_batches(tree: Any, count: int) -> None:
    bill = tree.bill(images_of([(True, False, 1)] * count))
    assert bill.logits.shape == (count, 3)
    assert bill.macs.shape == bill.route.shape == (count,)
    assert bill.ran.shape == (count, 1)


# ---- steering --------------------------------------------------------------------------------------


class Scripted:
    """Steering by tables: images x splits of ways, images x sites of blocks that run."""

    def __init__(self, ways: Tensor, runs: Tensor) -> None:
        self.ways, self.runs = ways, runs
        self.met: list[tuple[tuple[int, ...], list[int]]] = []

    def choose(self, rows: Tensor | None, path: tuple[int, ...], choice: Tensor, ways: int) -> Tensor:
        at = torch.arange(len(choice)) if rows is None else rows
        self.met.append((path, at.tolist()))
        return self.ways[at, len(path)] % ways

    def mask(self, rows: Tensor | None, site: int, mask: Tensor) -> Tensor:
        at = torch.arange(len(mask)) if rows is None else rows
        return self.runs[at, site]

    def experts(self, rows: Tensor | None, site: int, mask: Tensor, exactly: int | None) -> Tensor:
        at = torch.arange(len(mask)) if rows is None else rows
        return self.runs[at, site : site + mask.shape[1]]


@given(CHOICES.filter(len), st.integers(0, 99))
@settings(max_examples=40)
def test_steering_decides_in_the_networks_place(
    tree: Any, choices: list[tuple[bool, bool, int]], seed: int
) -> None:
    """Whatever the images say: what is billed is what was prescribed for each."""
    count, rng = len(choices), torch.Generator().manual_seed(seed)
    images = images_of([(False, False, 0)] * count, seed)
    runs = torch.tensor([[run] for run, _, _ in choices])
    ways = torch.tensor([[int(leave), branch] for _, leave, branch in choices])
    steering = Scripted(ways, runs)
    meter = BatchMeter(images, steering)
    with torch.inference_mode():
        tree.route(meter, images)
    billed = meter.bill()
    assert billed.route.tolist() == [0 if leave else 1 + branch for _, leave, branch in choices]
    assert billed.ran.tolist() == runs.tolist()
    assert steering.met[0] == ((), list(range(count)))
    stay = [i for i, (_, leave, _) in enumerate(choices) if not leave]
    assert steering.met[1:] == ([((0,), stay)] if stay else [])
    pick = int(torch.randint(count, (1,), generator=rng))
    alone = BatchMeter(images[pick : pick + 1], Scripted(ways[pick : pick + 1], runs[pick : pick + 1]))
    with torch.inference_mode():
        tree.route(alone, images[pick : pick + 1])
    assert alone.bill().macs.tolist() == billed.macs[pick : pick + 1].tolist()


# ---- experts ---------------------------------------------------------------------------------------


class Experts(nn.Module):
    """Three experts of different sizes, weighted, on top of what goes by."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(4, k), nn.ReLU(), nn.Linear(k, 4)) for k in (1, 2, 3)
        )

    def dense(self, x: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
        outputs = torch.stack([block(x) for block in self.blocks], 1)
        return x + ((mask * weights)[:, :, None] * outputs).sum(1)

    def bill(self, x: Tensor, mask: Tensor, weights: Tensor, **options: Any) -> Routed:
        meter = BatchMeter(x, options.pop("steering", None))
        meter.finish(meter.choose(mask, list(self.blocks), x, weights=weights, into=x, **options))
        return meter.bill()


MASKS = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=9)


@given(MASKS, st.integers(0, 99))
def test_experts_run_for_those_that_chose_them(masks: list[tuple[bool, bool, bool]], seed: int) -> None:
    torch.manual_seed(seed)
    net, mask = Experts(), torch.tensor(masks)
    x, weights = torch.randn(len(masks), 4), torch.randn(len(masks), 3)
    before = x.clone()
    routed = net.bill(x, mask, weights)
    assert torch.allclose(routed.logits, net.dense(x, mask, weights), atol=1e-5)
    assert torch.equal(routed.ran, mask)
    prices = torch.tensor([mult_adds(block, x) for block in net.blocks])
    assert torch.equal(routed.macs, (mask * prices).sum(1))
    assert torch.equal(x, before), "what goes by is not overwritten"
    alone = net.bill(x[:1], mask[:1], weights[:1])
    assert torch.allclose(alone.logits, routed.logits[:1], atol=1e-5)
    assert alone.macs.tolist() == routed.macs[:1].tolist()


def test_steering_chooses_experts() -> None:
    net, x = Experts(), torch.randn(2, 4)
    chosen = torch.tensor([[True, False, False], [False, True, True]])
    steering = Scripted(torch.zeros(2, 0), chosen)
    routed = net.bill(x, torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 3), steering=steering)
    assert torch.equal(routed.ran, chosen)


@pytest.mark.parametrize(
    ("mask", "weights", "exactly", "told"),
    [
        (torch.ones(2, 3), torch.ones(2, 3), None, r"one bool per image and expert, got torch.float32"),
        (
            torch.ones(2, 2).bool(),
            torch.ones(2, 2),
            None,
            r"of shape \(2, 2\) for 2 images and 3",
        ),
        (
            torch.ones(2, 3).bool(),
            torch.ones(3),
            None,
            r"the mask's shape \(2, 3\), got \(3,\)",
        ),
        (torch.ones(2, 3).bool(), torch.ones(2, 3), 2, "every image must run exactly 2 experts, got 3 to 3"),
        (torch.ones(2, 3).bool(), torch.ones(2, 3), 4, "exactly must be 0 to 3 experts, got 4"),
    ],
)
def test_experts_that_cannot_be_chosen(mask: Tensor, weights: Tensor, exactly: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Experts().bill(torch.randn(2, 4), mask, weights, exactly=exactly)


def test_an_expert_gives_the_shape_of_what_it_is_added_to() -> None:
    x = torch.randn(2, 4)
    meter = BatchMeter(x)
    with pytest.raises(ValueError, match=r"goes into, got \(5,\) and \(4,\)"):
        meter.choose(torch.ones(2, 1).bool(), [nn.Linear(4, 5)], x, weights=torch.ones(2, 1), into=x)
