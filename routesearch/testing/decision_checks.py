"""Invariants of what is decided: by the image alone, and as the scores say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from routesearch.methods.base import Scores
from routesearch.methods.running import price, run
from routesearch.routing.billing import Routed
from routesearch.testing.cases import Case, observed
from routesearch.testing.declarations import Declared, broken
from routesearch.testing.prescribed_routes import (
    at_random,
    follow,
    forced,
)

CLOSE = 1e-4
"""How close logits of the same image are in float32."""


class DecisionChecks(Declared):
    """Invariants of what is decided: by the image alone, and as the scores say."""

    def test_a_route_does_not_depend_on_batch_mates(self, case: Case) -> None:
        """An image goes the same way alone, among others and in another order."""
        rule = f"{case}: a route must not depend on batch mates"
        driven = case.driven
        count = len(driven.images)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        with driven.precision():
            for knob, alone in zip(driven.knobs, driven.alone, strict=True):
                for rows, among in (
                    (torch.arange(count), "all others"),
                    (order, "all others, permuted"),
                    (order[: count // 3], "some others"),
                    (torch.zeros(5, dtype=torch.int64), "copies of itself"),
                ):
                    routed = run(driven.net, driven.images[rows], knob)
                    _check_same(
                        rule, routed, alone, rows, f"among {among} at knob {dict(knob)}", driven.exact
                    )
            for seed in range(3):  # also on ways that these weights do not take
                pick = at_random(seed)
                whole = follow(driven.net, driven.images, driven.knobs[0], forced(driven.images, pick, pick))
                for i in range(0, count, 5):
                    one = driven.images[i : i + 1]
                    mine = partial(_shifted, pick, i)
                    single = follow(driven.net, one, driven.knobs[0], forced(one, mine, mine))
                    among = f"among others on ways drawn with seed {seed}"
                    _check_same(rule, single, whole, torch.tensor([i]), among, driven.exact)

    def test_stored_decisions_are_the_routes(self, case: Case) -> None:
        """``decide(observe(x))`` names the routes that ``route(x)`` takes, and their labels."""
        driven = case.driven
        with driven.precision():
            scores = observed(driven.net, driven.images)
            if scores is None or not scores.predictions.shape[1]:
                pytest.skip("no stored decisions: every knob is run")
            rule = f"{case}: decide(observe(x)) must be the route that route(x) takes"
            self._check_scores(case, scores)
            for knob, alone in zip(driven.knobs, driven.alone, strict=True):
                said = driven.net.decide(scores.scores, knob)
                differ = int(said.ne(alone.route).sum())
                if differ > _excused(driven.exact, len(said)):
                    raise broken(rule, f"{differ} of {len(said)} images otherwise at knob {dict(knob)}")
                labels = scores.predictions.gather(1, alone.route[:, None]).squeeze(1)
                top = alone.logits.topk(2, dim=1).values
                wrong = labels.ne(alone.logits.argmax(1)) & (top[:, 0] - top[:, 1] > 1e-5)
                if bool(wrong.any()):
                    got = f"{int(wrong.sum())} of {len(said)} labels otherwise at knob {dict(knob)}"
                    raise broken(f"{case}: predictions must be the labels of the routes", got)

    def _check_scores(self, case: Case, scores: Scores) -> None:
        rule = f"{case}: a route that can be looked up must have one price"
        priced = price(case.method, case.config, case.backbone, case.trunk)
        for route in range(scores.predictions.shape[1]):
            one = priced.routes.get(route)
            if one is None or one.min != one.max:
                raise broken(rule, f"{one} for route {route}")


def _shifted(
    pick: Callable[[Tensor, int, int], Tensor], by: int, rows: Tensor, number: int, ways: int
) -> Tensor:
    return pick(rows + by, number, ways)


def _check_same(rule: str, routed: Routed, alone: Routed, rows: Tensor, among: str, exact: bool) -> None:
    """Compare the results of images in a batch with those of each by itself."""
    for name in ("route", "macs"):
        mine, theirs = getattr(routed, name), getattr(alone, name)[rows]
        differ = int(mine.ne(theirs).sum())
        if differ > _excused(exact, len(mine)):
            raise broken(rule, f"another {name} for {differ} of {len(mine)} images {among}")
    same = routed.route.eq(alone.route[rows]) & routed.macs.eq(alone.macs[rows])
    close = 1e-9 if exact else CLOSE
    if not torch.allclose(routed.logits[same], alone.logits[rows][same], rtol=10 * close, atol=close):
        far = float((routed.logits[same] - alone.logits[rows][same]).abs().max())
        raise broken(f"{rule}, nor logits", f"{far:.3g} of difference {among}")


def _excused(exact: bool, count: int) -> int:
    """Images whose decision may round differently; none in float64."""
    return 0 if exact else max(1, count // 50)
