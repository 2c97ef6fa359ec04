"""Invariants of running: nothing is left changed, knobs, and small batches."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import chain

import torch

from routesearch.methods.running import run
from routesearch.testing.cases import KNOBS, Case, observed, spread
from routesearch.testing.declarations import Declared, broken
from routesearch.testing.prescribed_routes import (
    at_random,
    follow,
    forced,
)


class RunningChecks(Declared):
    """Invariants of running: nothing is left changed, knobs, and small batches."""

    def test_running_leaves_no_trace(self, case: Case) -> None:
        """Neither routing nor observing changes the state or the mode of the network, or the images."""
        net = case.train(case.build()).eval()
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        images = case.images[:9].clone()
        uses: dict[str, Callable[[], object]] = {
            f"route at {dict(knob)}": partial(run, net, images, knob) for knob in spread(net.knobs(), KNOBS)
        }
        for seed in range(2):
            meter = forced(images, at_random(seed), at_random(seed))
            uses[f"route on ways drawn with seed {seed}"] = partial(
                follow, net, images, net.knobs()[0], meter
            )
        uses["observe"] = partial(observed, net, images)
        for name, use in uses.items():
            rng = torch.get_rng_state()
            use()
            changed = [n for n, t in net.state_dict().items() if not torch.equal(t, before[n])]
            if changed:
                raise broken(f"{case}: {name} must leave the state", f"changes at {', '.join(changed[:5])}")
            if awake := [n or "the network" for n, m in net.named_modules() if m.training]:
                raise broken(
                    f"{case}: {name} must stay in eval mode", f"training mode at {', '.join(awake[:5])}"
                )
            if not torch.equal(images, case.images[:9]):
                raise broken(f"{case}: {name} must leave the images", "other values")
            if not torch.equal(rng, torch.get_rng_state()):
                raise broken(f"{case}: {name} must not draw", "another state of torch's random generator")

    def test_knobs_are_json_and_the_default_first(self, case: Case) -> None:
        """Knobs need no data, are JSON values, differ, and the default is the first with scores too."""
        net = case.trained
        plain = list(net.knobs())
        scores = observed(net, case.images)
        informed = list(net.knobs(scores, case.data.validation.labels))
        for knobs, where in ((plain, "without data"), (informed, "with scores")):
            if not knobs:
                raise broken(f"{case}: knobs() must give one setting or more", f"none {where}")
            texts = []
            for knob in knobs:
                try:
                    texts.append(json.dumps(dict(knob), allow_nan=False, sort_keys=True))
                except (TypeError, ValueError) as error:
                    raise broken(f"{case}: a knob must hold JSON values", f"{knob!r}: {error}") from error
            twice = [text for text, count in Counter(texts).items() if count > 1]
            if twice:
                raise broken(f"{case}: no knob may come twice", f"{twice[0]} {where}")
        if dict(informed[0]) != dict(plain[0]):
            rule = f"{case}: the default knob must come first, with and without scores"
            raise broken(rule, f"{dict(plain[0])} and {dict(informed[0])}")
        for knob in chain(spread(plain, KNOBS), spread(informed, KNOBS)):
            read = json.loads(json.dumps(dict(knob)))
            one, two = run(net, case.images[:8], knob), run(net, case.images[:8], read)
            if not torch.equal(one.logits, two.logits):
                raise broken(f"{case}: a knob must do the same after JSON", f"other logits at {read}")
            if not bool(torch.isfinite(one.logits).all()):
                raise broken(f"{case}: logits must be finite", f"NaN or infinity at knob {read}")

    def test_batches_of_none_and_of_one(self, case: Case) -> None:
        """An empty batch gives an empty result, one image gives one row of logits."""
        net = case.trained
        for count in (0, 1):
            rule = f"{case}: a batch of {count} must give {count} rows"
            for knob in spread(net.knobs(), KNOBS):
                try:
                    routed = run(net, case.images[:count], knob)
                except Exception as error:
                    raise broken(rule, f"{type(error).__name__}: {error}") from error
                rows = {len(getattr(routed, name)) for name in ("logits", "macs", "route", "ran")}
                if rows != {count} or (count and routed.logits.shape[1] != case.backbone.classes):
                    raise broken(rule, f"rows {sorted(rows)}, logits of shape {tuple(routed.logits.shape)}")
