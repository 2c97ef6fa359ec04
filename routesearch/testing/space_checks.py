"""Invariants of the search space: what is drawn can be built and priced, and images can part."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from routesearch.backbones.base import Backbone
from routesearch.errors import Refusal
from routesearch.space.space import SearchSpace, Space
from routesearch.testing.cases import Case
from routesearch.testing.declarations import Declared, broken, calm, priced_as_is


class SpaceChecks(Declared):
    """Invariants of the search space: what is drawn can be built and priced, and images can part."""

    def test_every_draw_builds(self, target: tuple[Backbone, SearchSpace]) -> None:
        """Any draw from the space builds and prices, on the meta device as on a real one."""
        backbone, space = target
        rule = f"{self.method.name} on {backbone.name}: any draw from the space must build and be priced"
        tried: Counter[bool] = Counter()
        reasons: list[str] = []

        def check(config: Space, must: bool) -> None:
            try:
                priced = priced_as_is(self.method, config, backbone)
                torch.manual_seed(0)
                trunk = Case(self.method, backbone, config).trunk
                net = self.method(config, backbone, trunk)
            except Refusal as refusal:
                if must:
                    raise broken(rule, f"for the default {dict(config)}: {refusal}") from refusal
                tried[False] += 1
                reasons.append(str(refusal))
                return
            except Exception as error:
                raise broken(rule, f"{type(error).__name__}: {error} for {dict(config)}") from error
            tried[True] += 1
            if not 0 < priced.bounds.min <= priced.bounds.max:
                raise broken(f"{rule} at more than 0 MACs", f"{priced.bounds} for {dict(config)}")
            params = sum(p.numel() for p in net.parameters())
            if priced.exact and params != priced.params:
                law_meta = f"{self.method.name}: parameters on the meta device must be those of the network"
                raise broken(law_meta, f"{priced.params:,} and {params:,} for {dict(config)}")

        check(space.default(), must=True)
        for extreme in _valid(space.extremes()):
            check(extreme, must=False)

        @calm
        @given(st.randoms(use_true_random=False, note_method_calls=False))
        def draws(rng: Any) -> None:
            check(space.ask(partial(_suggest, rng)), must=False)

        draws()
        share = tried[False] / sum(tried.values())
        if share > self.refused:
            got = f"{share:.0%} refused, such as: {reasons[0]}"
            raise broken(f"{rule} (at most {self.refused:.0%} refused)", got)

    def test_configs_survive_json(self, target: tuple[Backbone, SearchSpace]) -> None:
        """A config written as JSON and read again is the same config."""
        backbone, space = target
        rule = f"{self.method.name} on {backbone.name}: a config must survive JSON"

        @calm
        @given(st.randoms(use_true_random=False, note_method_calls=False))
        def check(rng: Any) -> None:
            config = space.ask(partial(_suggest, rng))
            text = json.dumps(config.model_dump(mode="json"), allow_nan=False)
            again = space.parse(json.loads(text))
            if again != config:
                raise broken(rule, f"{again!r} of {config!r}")
            params = space.encode(config)
            if space.ask(lambda name, _: params[name]) != config:
                raise broken(f"{rule} and the sampler's parameters", f"{config!r}, encoded {params}")

        check()

    def test_it_routes(self) -> None:
        """Images can go different ways: some config has several routes or prices, and images take them."""
        if not self.routes:
            pytest.skip("declared: routes = False")
        rule = f"{self.method.name}: a method must route (routes = False declares a static one)"
        plans = [priced_as_is(self.method, case.config, case.backbone) for case in self.cases()]
        if all(len(p.routes) == 1 and p.bounds.min == p.bounds.max for p in plans):
            raise broken(rule, f"one route at one price at every config, such as {plans[0].bounds}")
        seen = 0
        for case in self.cases():
            seen = max(seen, len(case.driven.signatures))
            if seen > 1:
                return
        raise broken(
            rule, f"one way for all images at all knobs in {len(self.cases())} networks of drawn weights"
        )


def _valid(configs: Iterator[Space]) -> Iterator[Space]:
    """Those until one violates a constraint of the model: ends of several fields need not go together."""
    while True:
        try:
            yield next(configs)
        except (StopIteration, ValidationError):
            return


def _suggest(rng: Any, name: str, distribution: Any) -> Any:
    from routesearch.space.domains import draw

    return draw(distribution, rng)
