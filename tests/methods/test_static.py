"""The unrouted reference: where its weights come from."""

from __future__ import annotations

import pytest
import torch

from routesearch import Refusal, Trunk, run
from routesearch.backbones import NiN, ResNet38
from routesearch.backbones.base import Backbone
from routesearch.methods.running import price
from routesearch.methods.static import Static
from routesearch.testing.toys import differing_states

BACKBONES: list[Backbone] = [ResNet38((1, 8, 8), 3, 0.25), NiN((1, 16, 16), 3, 0.125)]


def trunk_of(backbone: Backbone) -> Trunk:
    torch.manual_seed(1)
    return Trunk(backbone.plain().state_dict(), 0.5)


def built(backbone: Backbone, trunk: Trunk | None, **fields: float | str) -> Static:
    torch.manual_seed(0)
    return Static(Static.Config.model_validate(fields), backbone, trunk)


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda b: b.name)
def test_at_full_width_and_depth_it_is_the_trunk(backbone: Backbone) -> None:
    trunk = trunk_of(backbone)
    net, plain = built(backbone, trunk), backbone.plain()
    plain.load_state_dict(dict(trunk.state))
    assert net.starts_trained
    assert not differing_states(net.plain, plain)
    images = torch.randn(4, *backbone.image_shape)
    assert torch.allclose(run(net, images).logits, plain.eval()(images), atol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda b: b.name)
def test_cut_short_its_units_are_the_trunks_and_its_exit_is_new(backbone: Backbone) -> None:
    trunk = trunk_of(backbone)
    net, drawn = built(backbone, trunk, depth=0.5), built(backbone, None, depth=0.5)
    plain = backbone.plain()
    plain.load_state_dict(dict(trunk.state))
    for unit, source in zip(net.plain.units, plain.units, strict=False):
        assert not differing_states(unit, source)
    assert not differing_states(net.plain.head, drawn.plain.head)


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda b: b.name)
@pytest.mark.parametrize("trunk", [True, False])
def test_from_scratch_or_without_a_trunk_it_is_what_was_drawn(backbone: Backbone, trunk: bool) -> None:
    scratch = built(backbone, trunk_of(backbone), start="scratch", width_fraction=0.5)
    other = built(backbone, None, start="trunk" if trunk else "scratch", width_fraction=0.5)
    assert not scratch.starts_trained
    assert not differing_states(scratch, other)


def test_any_width_is_built_and_priced_without_a_trunk() -> None:
    for width in (0.2, 0.55, 1.0):
        config = Static.Config(width_fraction=width)
        assert (
            price(Static, config, BACKBONES[0]).bounds
            == built(BACKBONES[0], None, width_fraction=width).bounds()
        )
        net = built(BACKBONES[0], trunk_of(BACKBONES[0]), width_fraction=width)
        assert run(net, torch.randn(2, 1, 8, 8)).logits.shape == (2, 3)


def test_a_network_wider_than_the_trunk_is_refused_in_one_line() -> None:
    with pytest.raises(
        Refusal, match=r"^a network must be no wider than the one it starts from, got [^\n]*$"
    ):
        built(BACKBONES[0], trunk_of(BACKBONES[0]), width_fraction=2.0)


def test_a_config_says_whether_it_needs_the_trunk() -> None:
    space = Static.space(BACKBONES[0])
    assert Static.uses_trunk(Static.Config())
    assert not Static.uses_trunk(Static.Config(start="scratch"))
    assert Static.uses_weights(space)
    assert not Static.uses_weights(space.narrow({"start": "scratch"}))
    assert Static.uses_weights(space.narrow({"start": {"choices": ["scratch", "trunk"]}}))
