"""The laws of a routing method, as tests that a plugin's test file inherits."""

from __future__ import annotations

import inspect
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, ClassVar

import pytest
import safetensors.numpy
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from routesearch.backbones.base import Backbone
from routesearch.errors import Refusal
from routesearch.methods.base import Knob, RoutedNet, Scores, Stage
from routesearch.methods.running import price, run
from routesearch.results.points import Interval
from routesearch.routing.batch import BatchMeter, Routed
from routesearch.routing.cost import executed
from routesearch.routing.pricing import RoutePrices
from routesearch.space.space import SearchSpace, Space
from routesearch.testing.cases import KNOBS, Case, configs_of, observed, spread
from routesearch.testing.toys import CHAIN, RESIDUAL, SCALES, states_equal
from routesearch.testing.walks import (
    Unseen,
    Way,
    at_random,
    every_way,
    follow,
    forced,
    seen_by_torchinfo,
)
from routesearch.training.loop import states
from routesearch.utils.validation import explain

CLOSE = 1e-4
"""How close logits of the same image are in float32."""

UNSEEN = 0.001
"""Share of the cheapest route that may run where torchinfo does not look (a difference as a product)."""

WALKED = 24
"""Ways that torchinfo is asked about, spread over all."""

DECLARATIONS = ("backbones", "fixed", "configs", "most_configs", "without_gradient", "refused", "routes")

calm = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=20,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


def broken(law: str, got: str) -> AssertionError:
    """A law and the values that break it."""
    return AssertionError(f"{law}, got {got}")


class MethodContract:
    """What every routing method promises. A test file inherits it and names the method.

        class TestMine(MethodContract):
            method = MyMethod

    Declarations that the method itself makes (``RoutedNet.contract``) are taken over, so that
    ``routesearch check`` knows them too; those of the test class go first.

    Attributes:
        method: the class.
        backbones: what to build it on, such as ``[SCALES]``; None: ``CHAIN`` and ``RESIDUAL``, as far as
            its space and its default accept them.
        fixed: fields that a study would have to fix, as it would write them.
        configs: fields of the configs to be tried in depth; None: the default, the ends of every field and
            some draws, ``most_configs`` in all, on the first backbone; the default on the others.
        without_gradient: regular expression -> reason, for names of parameters that the loss need not
            reach; or a function of config and backbone that gives these.
        refused: share of all draws that the method may refuse by a law of several fields.
        routes: whether it decides anything; not so for a static network.
    """

    method: ClassVar[type[RoutedNet]]
    backbones: ClassVar[Sequence[Backbone] | None] = None
    fixed: ClassVar[Mapping[str, Any]] = {}
    configs: ClassVar[Sequence[Mapping[str, Any]] | None] = None
    most_configs: ClassVar[int] = 6
    without_gradient: ClassVar[Any] = {}
    refused: ClassVar[float] = 0.5
    routes: ClassVar[bool] = True

    _cases: ClassVar[list[Case] | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._cases = None
        method: Any = vars(cls).get("method")
        for name, value in getattr(method, "contract", {}).items():
            if name not in DECLARATIONS:
                law = f"{method.name}: contract may declare {', '.join(DECLARATIONS)}"
                raise TypeError(f"{law}, got {name!r}")
            if name not in vars(cls):
                setattr(cls, name, staticmethod(value) if callable(value) else value)

    # ---- what is tried -----------------------------------------------------------------------------------

    @classmethod
    def suitable(cls) -> list[tuple[Backbone, SearchSpace]]:
        """The backbones to try, each with the method's space on it.

        Raises:
            Refusal: where the method accepts none of them.
        """
        if cls.backbones is not None:
            return [(backbone, cls._space(backbone)) for backbone in cls.backbones]
        found: list[tuple[Backbone, SearchSpace]] = []
        reasons: list[str] = []
        toys: tuple[Backbone, ...] = (CHAIN, RESIDUAL, SCALES)
        for backbone in toys:
            if found and backbone is SCALES:
                break  # lists of maps are for methods that ask for them
            try:
                space = cls._space(backbone)
                if reason := cls.refusal(cls.default(backbone), backbone):
                    raise reason
                found.append((backbone, space))
            except Refusal as refusal:
                reasons.append(str(refusal))
        if not found:
            raise Refusal(f"no toy backbone suits, so `backbones` must name one: {'; '.join(reasons)}")
        return found

    @classmethod
    def _space(cls, backbone: Backbone) -> SearchSpace:
        return cls.method.space(backbone).narrow(cls.fixed)

    @classmethod
    def cases(cls) -> list[Case]:
        """The configs to try in depth, kept for all laws.

        Raises:
            Refusal: where there is none: a field without a default, or a backbone that does not suit.
        """
        if cls._cases is None:
            cls._cases = list(cls._make_cases())
        return cls._cases

    @classmethod
    def _make_cases(cls) -> Iterator[Case]:
        for number, (backbone, space) in enumerate(cls.suitable()):
            if cls.configs is not None:
                configs = [_configs(cls.method, space.narrow(fields), 1)[0] for fields in cls.configs]
            else:
                configs = _configs(cls.method, space, 1 if number else cls.most_configs)
            for place, config in enumerate(configs):
                if place and cls.refusal(config, backbone):
                    continue  # test_every_draw_builds tells when there are too many
                yield Case(cls.method, backbone, config)

    @classmethod
    def default(cls, backbone: Backbone) -> Space:
        """The config that the method itself would take.

        Raises:
            Refusal: where a field has no default and nobody fixed it.
        """
        return _configs(cls.method, cls._space(backbone), 1)[0]

    @classmethod
    def refusal(cls, config: Space, backbone: Backbone) -> Refusal | None:
        """Why the method does not take a config; None where it does, or fails."""
        try:
            _priced(cls.method, config, backbone)
        except Refusal as refusal:
            return refusal
        except Exception:  # test_every_draw_builds tells
            return None
        return None

    @classmethod
    def arguments(cls, law: Callable[..., None]) -> list[tuple[Any, ...]]:
        """What a law is to be called with, one tuple a call."""
        wanted = inspect.signature(law).parameters
        if "case" in wanted:
            return [(case,) for case in cls.cases()]
        return [(site,) for site in cls.suitable()] if "site" in wanted else [()]

    @pytest.fixture(autouse=True)
    def _one_thread(self) -> Iterator[None]:
        """The networks are tiny: threads would wait for each other."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test for each law and each case, or backbone, that it is tried on."""
        if "case" in metafunc.fixturenames:
            cases = self.cases()
            metafunc.parametrize("case", cases, ids=[f"{c.backbone.name}-{i}" for i, c in enumerate(cases)])
        if "site" in metafunc.fixturenames:
            sites = self.suitable()
            metafunc.parametrize("site", sites, ids=[backbone.name for backbone, _ in sites])

    # ---- the space ---------------------------------------------------------------------------------------

    def test_every_draw_builds(self, site: tuple[Backbone, SearchSpace]) -> None:
        """Any draw from the space builds and prices, on the meta device as on a real one."""
        backbone, space = site
        law = f"{self.method.name} on {backbone.name}: any draw from the space must build and be priced"
        tried: Counter[bool] = Counter()
        reasons: list[str] = []

        def check(config: Space, must: bool) -> None:
            try:
                priced = _priced(self.method, config, backbone)
                torch.manual_seed(0)
                trunk = Case(self.method, backbone, config).trunk
                net = self.method(config, backbone, trunk)
            except Refusal as refusal:
                if must:
                    raise broken(law, f"for the default {dict(config)}: {refusal}") from refusal
                tried[False] += 1
                reasons.append(str(refusal))
                return
            except Exception as error:
                raise broken(law, f"{type(error).__name__}: {error} for {dict(config)}") from error
            tried[True] += 1
            if not 0 < priced.bounds.min <= priced.bounds.max:
                raise broken(f"{law} at more than 0 MACs", f"{priced.bounds} for {dict(config)}")
            params = sum(p.numel() for p in net.parameters())
            if priced.known and params != priced.params:
                law_meta = f"{self.method.name}: parameters on the meta device must be those of the network"
                raise broken(law_meta, f"{priced.params:,} and {params:,} for {dict(config)}")

        check(space.default(), must=True)
        for extreme in _valid(space.extremes()):
            check(extreme, must=False)

        @calm
        @given(st.randoms(use_true_random=False, note_method_calls=False))
        def draws(dice: Any) -> None:
            check(space.ask(partial(_suggest, dice)), must=False)

        draws()
        share = tried[False] / sum(tried.values())
        if share > self.refused:
            got = f"{share:.0%} refused, such as: {reasons[0]}"
            raise broken(f"{law} (at most {self.refused:.0%} refused)", got)

    def test_configs_survive_json(self, site: tuple[Backbone, SearchSpace]) -> None:
        """A config written as JSON and read again is the same config."""
        backbone, space = site
        law = f"{self.method.name} on {backbone.name}: a config must survive JSON"

        @calm
        @given(st.randoms(use_true_random=False, note_method_calls=False))
        def check(dice: Any) -> None:
            config = space.ask(partial(_suggest, dice))
            text = json.dumps(config.model_dump(mode="json"), allow_nan=False)
            again = space.parse(json.loads(text))
            if again != config:
                raise broken(law, f"{again!r} of {config!r}")
            params = space.encode(config)
            if space.ask(lambda name, _: params[name]) != config:
                raise broken(f"{law} and the sampler's parameters", f"{config!r}, encoded {params}")

        check()

    def test_it_routes(self) -> None:
        """Images can go different ways: some config has several routes or prices, and images take them."""
        if not self.routes:
            pytest.skip("declared: routes = False")
        law = f"{self.method.name}: a method must route (routes = False declares a static one)"
        plans = [_priced(self.method, case.config, case.backbone) for case in self.cases()]
        if all(len(p.routes) == 1 and p.bounds.min == p.bounds.max for p in plans):
            raise broken(law, f"one route at one price at every config, such as {plans[0].bounds}")
        seen = 0
        for case in self.cases():
            seen = max(seen, len(case.driven.signatures))
            if seen > 1:
                return
        raise broken(
            law, f"one way for all images at all knobs in {len(self.cases())} networks of drawn weights"
        )

    # ---- training ----------------------------------------------------------------------------------------

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
        law = f"{case}: the loss must reach every parameter (or without_gradient must say why not)"
        raise broken(law, f"no gradient at {', '.join(sorted(missing))}")

    def test_same_seed_same_weights(self, case: Case) -> None:
        """Built and trained with one seed twice, the weights are the same to the last bit."""
        again = case.train(case.build())
        if differ := states_equal(case.trained, again):
            law = f"{case}: the same seed must give the same weights"
            raise broken(law, f"other values at {', '.join(differ[:5])}")

    def test_the_loss_is_finite_in_bfloat16(self, case: Case) -> None:
        """Training in mixed precision keeps the loss and all weights finite."""
        net = case.train(case.build(), precision="bfloat16")
        bad = [n for n, p in net.named_parameters() if not bool(torch.isfinite(p).all())]
        if bad:
            raise broken(
                f"{case}: weights must stay finite in bfloat16", f"NaN or infinity at {', '.join(bad)}"
            )

    def test_state_round_trips(self, case: Case) -> None:
        """A state dict, through safetensors, into a new build: the same logits, costs and routes."""
        net = case.trained
        saved = safetensors.numpy.save({n: t.numpy() for n, t in states(net).items()})
        again = case.build(seed=1)
        law = f"{case}: a state must restore the network"
        try:
            again.load_state_dict({n: torch.from_numpy(a) for n, a in safetensors.numpy.load(saved).items()})
        except RuntimeError as error:
            raise broken(law, " ".join(str(error).split())) from error
        if net.knobs() != again.knobs():
            raise broken(f"{law}, its knobs too", f"{again.knobs()[0]} and not {net.knobs()[0]}")
        knobs = net.knobs(observed(net, case.images), case.data.validation.labels)
        for knob in spread(knobs, 4):
            one, two = run(net, case.images, knob), run(again, case.images, knob)
            for name in ("logits", "macs", "route"):
                a, b = getattr(one, name), getattr(two, name)
                if not torch.equal(a, b):
                    raise broken(law, f"other {name} for {_rows(a, b)} of {len(a)} images at {dict(knob)}")

    # ---- costs -------------------------------------------------------------------------------------------

    def test_claimed_macs_are_what_torchinfo_counts(self, case: Case) -> None:
        """For one image, on every way and at every knob, the bill is what torchinfo sees run."""
        law = f"{case}: claimed MACs must be what torchinfo counts for a batch of one"
        net, image = case.trained, case.images[:1]
        knobs = net.knobs()
        for way in _some(every_way(net, image, knobs[0]), WALKED):
            claimed, seen = seen_by_torchinfo(net, image, knobs[0], way.meter)
            if claimed != seen:
                raise broken(law, f"{claimed:,} claimed and {seen:,} counted ({way})")
        driven = case.driven
        with driven.precision():
            for knob, alone in zip(driven.knobs, driven.alone, strict=True):
                first = {signature: i for i, signature in enumerate(_ways_taken(alone))}
                for i in list(first.values())[:3]:
                    claimed, seen = seen_by_torchinfo(driven.net, driven.images[i : i + 1], knob)
                    if claimed != seen:
                        raise broken(law, f"{claimed:,} claimed and {seen:,} counted at knob {dict(knob)}")

    def test_whole_batches_are_charged_for_what_ran(self, case: Case) -> None:
        """The bills of a batch add up to all that ran for it, however its images part."""
        law = f"{case}: the bills of a batch must add up to all that ran"
        driven = case.driven
        with driven.precision():
            for label, make, knob in _many_ways(driven.knobs):
                follow(driven.net, driven.images, knob, make(driven.images))  # prices what it meets
                with executed(driven.net) as work:
                    billed = follow(driven.net, driven.images, knob, make(driven.images))
                if work.macs != int(billed.macs.sum()):
                    got = f"bills of {int(billed.macs.sum()):,} MACs and {work.macs:,} run ({label})"
                    raise broken(law, got)

    def test_nothing_costs_unseen(self, case: Case) -> None:
        """Products and convolutions run in layers with parameters, where torchinfo counts them."""
        law = f"{case}: what costs must be a module, which torchinfo can see"
        net, images = case.trained, case.images[:8]
        knob = net.knobs()[0]
        most = UNSEEN * net.bounds().min * len(images)
        for seed in range(3):
            meter = forced(images, at_random(seed), at_random(seed, (0.5, 1.0, 0.0)[seed]))
            follow(net, images, knob, forced(images, at_random(seed), at_random(seed)))
            with Unseen(net) as unseen:
                follow(net, images, knob, meter)
            if sum(macs for _, macs in unseen.found) > most:
                raise broken(law, ", ".join(f"{name} of {macs:,} MACs" for name, macs in unseen.found[:4]))

    def test_macs_lie_in_bounds_and_reach_both_ends(self, case: Case) -> None:
        """What images cost lies within what was told without weights, and both ends occur."""
        net, image = case.trained, case.images[:1]
        priced = price(case.method, case.config, case.backbone, case.trunk)
        law = f"{case}: measured MACs must lie in bounds()"
        seen: list[int] = []
        for way in every_way(net, image, net.knobs()[0]):
            routed = follow(net, image, net.knobs()[0], way.meter(image))
            _check_price(law, priced, int(routed.macs), int(routed.route), str(way))
            seen.append(int(routed.macs))
        for alone, knob in zip(case.driven.alone, case.driven.knobs, strict=True):
            for macs, route in set(zip(alone.macs.tolist(), alone.route.tolist(), strict=True)):
                _check_price(law, priced, macs, route, f"at knob {dict(knob)}")
        reached = Interval(min(seen), max(seen))
        if reached != priced.bounds:
            raise broken(f"{case}: both ends of bounds() must be reached", f"{reached} of {priced.bounds}")
        whole = _priced(case.method, case.config, case.backbone).bounds
        if whole.min > reached.min or whole.max < reached.max:
            raise broken(
                f"{case}: a price without a trunk must cover all cases", f"{reached} outside of {whole}"
            )

    # ---- decisions ---------------------------------------------------------------------------------------

    def test_a_route_does_not_depend_on_batch_mates(self, case: Case) -> None:
        """An image goes the same way alone, among others and in another order."""
        law = f"{case}: a route must not depend on batch mates"
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
                    _check_same(law, routed, alone, rows, f"among {among} at knob {dict(knob)}", driven.exact)
            for seed in range(3):  # also on ways that these weights do not take
                pick = at_random(seed)
                whole = follow(driven.net, driven.images, driven.knobs[0], forced(driven.images, pick, pick))
                for i in range(0, count, 5):
                    one = driven.images[i : i + 1]
                    mine = partial(_shifted, pick, i)
                    single = follow(driven.net, one, driven.knobs[0], forced(one, mine, mine))
                    among = f"among others on ways drawn with seed {seed}"
                    _check_same(law, single, whole, torch.tensor([i]), among, driven.exact)

    def test_stored_decisions_are_the_routes(self, case: Case) -> None:
        """``decide(observe(x))`` names the routes that ``route(x)`` takes, and their labels."""
        driven = case.driven
        with driven.precision():
            scores = observed(driven.net, driven.images)
            if scores is None or not scores.predictions.shape[1]:
                pytest.skip("no stored decisions: every knob is run")
            law = f"{case}: decide(observe(x)) must be the route that route(x) takes"
            self._check_scores(case, scores)
            for knob, alone in zip(driven.knobs, driven.alone, strict=True):
                said = driven.net.decide(scores.scores, knob)
                differ = int(said.ne(alone.route).sum())
                if differ > _excused(driven.exact, len(said)):
                    raise broken(law, f"{differ} of {len(said)} images otherwise at knob {dict(knob)}")
                labels = scores.predictions.gather(1, alone.route[:, None]).squeeze(1)
                top = alone.logits.topk(2, dim=1).values
                wrong = labels.ne(alone.logits.argmax(1)) & (top[:, 0] - top[:, 1] > 1e-5)
                if bool(wrong.any()):
                    got = f"{int(wrong.sum())} of {len(said)} labels otherwise at knob {dict(knob)}"
                    raise broken(f"{case}: predictions must be the labels of the routes", got)

    def _check_scores(self, case: Case, scores: Scores) -> None:
        law = f"{case}: a route that can be looked up must have one price"
        priced = price(case.method, case.config, case.backbone, case.trunk)
        for route in range(scores.predictions.shape[1]):
            one = priced.routes.get(route)
            if one is None or one.min != one.max:
                raise broken(law, f"{one} for route {route}")

    # ---- running -----------------------------------------------------------------------------------------

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
            dice = torch.get_rng_state()
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
            if not torch.equal(dice, torch.get_rng_state()):
                raise broken(f"{case}: {name} must not draw", "another state of torch's random generator")

    def test_knobs_are_json_and_the_default_first(self, case: Case) -> None:
        """Knobs need no data, are JSON values, differ, and the default is the first with scores too."""
        net = case.trained
        plain = list(net.knobs())
        scores = observed(net, case.images)
        told = list(net.knobs(scores, case.data.validation.labels))
        for knobs, where in ((plain, "without data"), (told, "with scores")):
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
        if dict(told[0]) != dict(plain[0]):
            law = f"{case}: the default knob must come first, with and without scores"
            raise broken(law, f"{dict(plain[0])} and {dict(told[0])}")
        for knob in chain(spread(plain, KNOBS), spread(told, KNOBS)):
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
            law = f"{case}: a batch of {count} must give {count} rows"
            for knob in spread(net.knobs(), KNOBS):
                try:
                    routed = run(net, case.images[:count], knob)
                except Exception as error:
                    raise broken(law, f"{type(error).__name__}: {error}") from error
                rows = {len(getattr(routed, name)) for name in ("logits", "macs", "route", "ran")}
                if rows != {count} or (count and routed.logits.shape[1] != case.backbone.classes):
                    raise broken(law, f"rows {sorted(rows)}, logits of shape {tuple(routed.logits.shape)}")


# ---- how laws are looked into --------------------------------------------------------------------------


def _configs(method: type[RoutedNet], space: SearchSpace, most: int) -> list[Space]:
    try:
        return configs_of(space, most)
    except ValidationError as error:
        text = explain(error, method.Config)
        raise Refusal(
            f"{method.name}: a field without a default must be fixed (in `fixed`, or --set): {text}"
        ) from None


def _valid(configs: Iterator[Space]) -> Iterator[Space]:
    """Those until one breaks a law of the model itself: ends of several fields need not go together."""
    while True:
        try:
            yield next(configs)
        except (StopIteration, ValidationError):
            return


def _suggest(dice: Any, name: str, distribution: Any) -> Any:
    from routesearch.space.domains import draw

    return draw(distribution, dice)


def _priced(method: type[RoutedNet], config: Space, backbone: Backbone) -> RoutePrices:
    """As :func:`plan`, but what is no Refusal comes through as it is."""
    try:
        return price(method, config, backbone)
    except Refusal as refusal:
        if refusal.__cause__ is not None:
            raise RuntimeError(str(refusal)) from refusal.__cause__
        raise


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


def _many_ways(knobs: Sequence[Knob]) -> Iterator[tuple[str, Callable[[Tensor], BatchMeter], Knob]]:
    for knob in knobs:
        yield f"at knob {dict(knob)}", BatchMeter, knob
    for seed, share in enumerate((0.5, 0.2, 0.8)):
        meter = partial(forced, split=at_random(seed), patch=at_random(seed, share))
        yield f"on ways drawn with seed {seed}", meter, knobs[0]


def _shifted(
    pick: Callable[[Tensor, int, int], Tensor], by: int, rows: Tensor, number: int, ways: int
) -> Tensor:
    return pick(rows + by, number, ways)


def _some(ways: Sequence[Way], most: int) -> list[Way]:
    if len(ways) <= most:
        return list(ways)
    return [ways[round(i * (len(ways) - 1) / (most - 1))] for i in range(most)]


def _ways_taken(routed: Routed) -> list[tuple[int, int]]:
    return list(zip(routed.route.tolist(), routed.macs.tolist(), strict=True))


def _check_price(law: str, priced: RoutePrices, macs: int, route: int, where: str) -> None:
    if macs not in priced.bounds:
        raise broken(law, f"{macs:,} outside of {priced.bounds} {where}")
    price = priced.routes.get(route)
    if price is None or macs not in price:
        raise broken(f"{law} of its route", f"{macs:,} on route {route}, priced at {price} ({where})")


def _check_same(law: str, routed: Routed, alone: Routed, rows: Tensor, among: str, exact: bool) -> None:
    """Hold what came of images in a batch against what came of each by itself."""
    for name in ("route", "macs"):
        mine, theirs = getattr(routed, name), getattr(alone, name)[rows]
        differ = int(mine.ne(theirs).sum())
        if differ > _excused(exact, len(mine)):
            raise broken(law, f"another {name} for {differ} of {len(mine)} images {among}")
    same = routed.route.eq(alone.route[rows]) & routed.macs.eq(alone.macs[rows])
    close = 1e-9 if exact else CLOSE
    if not torch.allclose(routed.logits[same], alone.logits[rows][same], rtol=10 * close, atol=close):
        far = float((routed.logits[same] - alone.logits[rows][same]).abs().max())
        raise broken(f"{law}, nor logits", f"{far:.3g} of difference {among}")


def _excused(exact: bool, count: int) -> int:
    """Images whose decision may round differently; none in float64."""
    return 0 if exact else max(1, count // 50)


def _rows(a: Tensor, b: Tensor) -> int:
    return int(a.ne(b).reshape(len(a), -1).any(1).sum())
