"""The moving average of a network's weights."""

from __future__ import annotations

from itertools import count

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from routesearch.data.base import Data
from routesearch.methods.base import Batch, Stage
from routesearch.study.recipe import Recipe
from routesearch.training.averaging import MovingAverage
from routesearch.training.loop import fit, fit_to_rungs

CPU = torch.device("cpu")


class Net(nn.Module):
    """A layer, a norm, and buffers that count."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.BatchNorm1d(3))
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))

    def loss(self, batch: Batch) -> Tensor:
        self.seen = self.seen + 1.0  # another tensor in its place
        self.steps += 1
        logits: Tensor = self.stem(batch.inputs)
        return nn.functional.cross_entropy(logits, batch.labels)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(values=st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=40), decay=st.floats(0.05, 0.995))
def test_it_is_the_mean_by_its_definition(values: list[float], decay: float) -> None:
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(3.0)
    average, expected = MovingAverage(net, decay), 3.0
    for step, value in enumerate(values, 1):
        with torch.no_grad():
            net.weight.fill_(value)
        average.update()
        kept = min(decay, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * value
    average.apply()
    assert net.weight.item() == pytest.approx(expected, abs=1e-4)


def test_what_was_drawn_at_random_is_soon_forgotten() -> None:
    """A decay of 0.999 alone would leave 98 % of it after 20 steps."""
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(1.0)
    average = MovingAverage(net, 0.999)
    with torch.no_grad():
        net.weight.fill_(0.0)
    for _ in range(20):
        average.update()
    average.apply()
    assert 0 < net.weight.item() < 1e-3


def test_a_training_ends_as_the_mean_of_its_weights(data: Data) -> None:
    """By hand beside it: parameters, running statistics and a buffer that is replaced; counters stay."""
    torch.manual_seed(0)
    net, twin = Net(), Net()
    twin.load_state_dict(net.state_dict())
    recipe = Recipe(batch_size=16, learning_rate=0.1, weight_decay=0.0, ema=0.9)
    mean = {n: t.detach().clone() for n, t in twin.state_dict().items() if t.is_floating_point()}
    steps = count(1)

    def after() -> None:
        step = next(steps)
        kept = min(0.9, (1 + step) / (10 + step))
        for name, value in mean.items():
            value.lerp_(twin.state_dict()[name], 1 - kept)

    plain = recipe.model_copy(update={"ema": None})
    fit(twin, [Stage(twin.loss, after_step=after)], data, plain, epochs=3, seed=0, device=CPU)
    fit(net, [Stage(net.loss)], data, recipe, epochs=3, seed=0, device=CPU)
    found = net.state_dict()
    assert all(torch.allclose(found[name], value, atol=1e-6) for name, value in mean.items())
    assert found["steps"].item() == twin.state_dict()["steps"].item() == 18
    assert not torch.allclose(found["stem.1.weight"], twin.state_dict()["stem.1.weight"], atol=1e-4)
    assert not net.training


def test_at_a_rung_the_network_is_the_mean_and_the_training_goes_on_from_its_own_weights(data: Data) -> None:
    recipe = Recipe(batch_size=16, learning_rate=0.1, ema=0.9)

    def train(rungs: list[int], epochs: int) -> list[dict[str, Tensor]]:
        torch.manual_seed(0)
        net = Net()
        stages = [Stage(net.loss, schedule=lambda progress: 1.0)]  # that of a shorter training, too
        how = {"epochs": epochs, "seed": 0, "device": CPU, "rungs": rungs}
        fits = fit_to_rungs(net, stages, data, recipe, **how)  # type: ignore[arg-type]
        return [{n: t.clone() for n, t in net.state_dict().items()} for _ in fits]

    at_rung, end = train([1], 3)
    [short], [whole] = train([], 1), train([], 3)
    assert all(torch.equal(at_rung[name], short[name]) for name in short)
    assert all(torch.equal(end[name], whole[name]) for name in whole)
