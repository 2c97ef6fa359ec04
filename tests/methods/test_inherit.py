"""Weights of a trained network for one of the same layers that may be narrower."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from routesearch import Refusal, inherit
from routesearch.backbones import NiN, ResNet38
from routesearch.testing.toys import differing_states


def test_the_same_shapes_take_everything() -> None:
    torch.manual_seed(0)
    backbone = ResNet38((1, 8, 8), 3, 0.25)
    net, trained = backbone.plain(), backbone.plain()
    with torch.no_grad():
        for buffer in trained.buffers():
            buffer.add_(2)
    inherit(net, trained)
    assert not differing_states(net, trained)


def test_a_narrower_network_takes_leading_channels_of_every_layer() -> None:
    torch.manual_seed(0)
    backbone = NiN((1, 16, 16), 3, 0.25)
    net, trained = backbone.plain(0.5), backbone.plain()
    inherit(net, trained)
    first, whole = net.units[0][0], trained.units[0][0]
    assert torch.equal(first.weight, whole.weight[:24])  # the image's channels are all there
    assert torch.equal(first.bias, whole.bias[:24])
    second, whole = net.units[1][0], trained.units[1][0]
    assert torch.allclose(second.weight, whole.weight[:20, :24] * 48 / 24)


def test_means_stay_where_inputs_are_alike() -> None:
    net, trained = nn.Linear(3, 2), nn.Linear(6, 4)
    inherit(net, trained)
    with torch.no_grad():
        trained.weight.copy_(trained.weight[:, :1].expand(4, 6))
    inherit(net, trained)
    assert torch.allclose(net(torch.ones(1, 3)), trained(torch.ones(1, 6))[:, :2], atol=1e-6)


def test_what_the_trained_network_lacks_stays_as_it_was_drawn() -> None:
    """A projection where a residual unit is narrower than the one before."""
    backbone = ResNet38((1, 8, 8), 3, 0.25)
    net, trained = backbone.unit(2, 0.5, 1.0), backbone.plain().units[1]
    drawn = net.shortcut[0].weight.clone()
    inherit(net, trained)
    assert torch.equal(net.shortcut[0].weight, drawn)
    assert torch.equal(net.conv1.weight, trained.conv1.weight[:2])


def test_gradients_still_reach_it() -> None:
    net = nn.Linear(2, 2)
    inherit(net, nn.Linear(4, 3))
    net(torch.ones(1, 2)).sum().backward()
    assert net.weight.grad is not None


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        (nn.Linear(1, 2), r"no wider than the one it starts from, got \(2, 1\) of weight for \(2, 3\)$"),
        (nn.Conv1d(3, 2, 1), r"got \(2, 3, 1\) of weight for \(2, 3\)$"),
    ],
)
def test_what_does_not_fit_is_refused(trained: nn.Module, message: str) -> None:
    with pytest.raises(Refusal, match=message):
        inherit(nn.Linear(3, 2), trained)
