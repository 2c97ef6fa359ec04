"""Invariants of training: gradients, seeds, precision, and weights that are kept."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import safetensors.numpy
import torch
from torch import Tensor, nn

from routesearch.methods.base import RoutedNet, Stage
from routesearch.methods.running import run
from routesearch.testing.cases import Case, observed, spread
from routesearch.testing.declarations import Declared, broken
from routesearch.testing.toys import differing_states
from routesearch.training.state_arrays import states

ONE_BY_ONE: dict[str, Any] = {
    "batch_size": 1,
    "epochs": 1,
    "optimizer": "sgd",
    "momentum": 0.9,
    "learning_rate": 1e-4,
}
"""A recipe under which blocks are idle in first steps, with momentum that meets them later."""


class TrainingChecks(Declared):
    """Invariants of training: gradients, seeds, precision, and weights that are kept."""

    def test_the_loss_reaches_every_parameter(self, case: Case) -> None:
        """Each parameter gets a gradient within a few steps, or comes from the trunk as it is."""
        declared = self.without_gradient
        excused = declared(case.config, case.backbone) if callable(declared) else declared
        missing: set[str] = set()
        for seed in range(2):  # a drawn route may leave a part out by chance
            net = case.build(seed)
            reached = _reached(case, net, seed)
            kept = _from_trunk(net, case)
            names = {name for name, _ in net.named_parameters()} - reached - kept
            missing = names if not seed else missing & names
            missing = {n for n in missing if not any(re.fullmatch(pattern, n) for pattern in excused)}
            if not missing:
                return
        rule = f"{case}: the loss must reach every parameter (or without_gradient must say why not)"
        raise broken(rule, f"no gradient at {', '.join(sorted(missing))}")

    def test_same_seed_same_weights(self, case: Case) -> None:
        """Built and trained with one seed twice, the weights are the same to the last bit."""
        again = case.train(case.build())
        if differ := differing_states(case.trained, again):
            rule = f"{case}: the same seed must give the same weights"
            raise broken(rule, f"other values at {', '.join(differ[:5])}")

    def test_the_loss_is_finite_in_bfloat16(self, case: Case) -> None:
        """Training in mixed precision keeps the loss and all weights finite."""
        net = case.train(case.build(), precision="bfloat16")
        bad = [n for n, p in net.named_parameters() if not bool(torch.isfinite(p).all())]
        if bad:
            raise broken(
                f"{case}: weights must stay finite in bfloat16", f"NaN or infinity at {', '.join(bad)}"
            )

    def test_one_image_at_a_time_trains(self, case: Case) -> None:
        """Trained image by image: blocks that it does not meet get no gradient, norms see one value."""
        net = case.train(case.build(), **ONE_BY_ONE)
        bad = [n for n, p in net.named_parameters() if not bool(torch.isfinite(p).all())]
        if bad:
            rule = f"{case}: weights must stay finite where images come one by one"
            raise broken(rule, f"NaN or infinity at {', '.join(bad)}")

    def test_state_round_trips(self, case: Case) -> None:
        """A state dict, through safetensors, into a new build: the same logits, costs and routes."""
        net = case.trained
        saved = safetensors.numpy.save({n: t.numpy() for n, t in states(net).items()})
        again = case.build(seed=1)
        rule = f"{case}: a state must restore the network"
        try:
            again.load_state_dict({n: torch.from_numpy(a) for n, a in safetensors.numpy.load(saved).items()})
        except RuntimeError as error:
            raise broken(rule, " ".join(str(error).split())) from error
        if net.knobs() != again.knobs():
            raise broken(f"{rule}, its knobs too", f"{again.knobs()[0]} and not {net.knobs()[0]}")
        knobs = net.knobs(observed(net, case.images), case.data.validation.labels)
        for knob in spread(knobs, 4):
            one, two = run(net, case.images, knob), run(again, case.images, knob)
            for name in ("logits", "macs", "route"):
                a, b = getattr(one, name), getattr(two, name)
                if not torch.equal(a, b):
                    raise broken(rule, f"other {name} for {_rows(a, b)} of {len(a)} images at {dict(knob)}")


def _reached(case: Case, net: RoutedNet, seed: int) -> set[str]:
    """Names of parameters that got a gradient at some step of a short training."""
    seen = {name: torch.zeros((), dtype=torch.bool) for name, _ in net.named_parameters()}

    def watched(stage: Stage) -> Stage:
        def after() -> None:
            for name, parameter in net.named_parameters():
                if parameter.requires_grad and parameter.grad is not None:
                    seen[name] |= parameter.grad.ne(0).any()
            stage.after_backward()

        return replace(stage, after_backward=after)

    case.train(net, seed, [watched(stage) for stage in net.stages()])
    return {name for name, got in seen.items() if bool(got)}


def _from_trunk(net: nn.Module, case: Case) -> set[str]:
    """Names of parameters that are, after training, still one of the trunk's tensors."""
    known = [] if case.trunk is None else list(case.trunk.state.values())
    return {
        n for n, p in net.named_parameters() if any(p.shape == t.shape and torch.equal(p, t) for t in known)
    }


def _rows(a: Tensor, b: Tensor) -> int:
    return int(a.ne(b).reshape(len(a), -1).any(1).sum())
