"""What a test class declares of a method, and what the invariants are tried on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from pydantic import ValidationError

from routesearch.backbones.base import Backbone
from routesearch.errors import Refusal
from routesearch.methods.base import RoutedNet
from routesearch.methods.running import price
from routesearch.routing.pricing import RoutePrices
from routesearch.space.space import SearchSpace, Space
from routesearch.testing.cases import Case, configs_of
from routesearch.testing.toys import CHAIN, RESIDUAL, SCALES
from routesearch.utils.machine import torch_threads
from routesearch.utils.validation import explain

DECLARATIONS = ("backbones", "fixed", "configs", "most_configs", "without_gradient", "refused", "routes")

QUICK = 2
"""Configs on the first backbone that are quick; on each other backbone its first is."""

calm = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=20,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


def broken(rule: str, got: str) -> AssertionError:
    """An invariant and the values that break it."""
    return AssertionError(f"{rule}, got {got}")


def declare(contract: type, owner: Any, known: Sequence[str]) -> None:
    """Take over what a method, a backbone or a data set declares in its attribute ``contract``.

    Args:
        contract: the test class, whose own declarations go first.
        owner: None where the class names none.
    """
    for name, value in getattr(owner, "contract", {}).items():
        if name not in known:
            rule = f"{owner.name}: contract may declare {', '.join(known)}"
            raise TypeError(f"{rule}, got {name!r}")
        if name not in vars(contract):
            setattr(contract, name, staticmethod(value) if callable(value) else value)


class Declared:
    """A method and its declarations; :class:`~routesearch.testing.MethodContract` says what each means."""

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
        declare(cls, vars(cls).get("method"), DECLARATIONS)

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
        """The configs to try in depth, kept for all invariants.

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
                configs = [sample_configs(cls.method, space.narrow(fields), 1)[0] for fields in cls.configs]
            else:
                configs = sample_configs(cls.method, space, 1 if number else cls.most_configs)
            for place, config in enumerate(configs):
                if place and cls.refusal(config, backbone):
                    continue  # test_every_draw_builds tells when there are too many
                yield Case(cls.method, backbone, config, quick=place < (1 if number else QUICK))

    @classmethod
    def default(cls, backbone: Backbone) -> Space:
        """The config that the method itself would take.

        Raises:
            Refusal: where a field has no default and nobody fixed it.
        """
        return sample_configs(cls.method, cls._space(backbone), 1)[0]

    @classmethod
    def refusal(cls, config: Space, backbone: Backbone) -> Refusal | None:
        """Why the method does not take a config; None where it does, or fails."""
        try:
            priced_as_is(cls.method, config, backbone)
        except Refusal as refusal:
            return refusal
        except Exception:  # test_every_draw_builds tells
            return None
        return None

    @classmethod
    def arguments(cls, rule: Callable[..., None]) -> list[tuple[Any, ...]]:
        """What an invariant is to be called with, one tuple a call."""
        wanted = inspect.signature(rule).parameters
        if "case" in wanted:
            return [(case,) for case in cls.cases()]
        return [(target,) for target in cls.suitable()] if "target" in wanted else [()]

    @pytest.fixture(autouse=True)
    def _one_thread(self) -> Iterator[None]:
        """The networks are tiny: threads would wait for each other."""
        with torch_threads(1):
            yield

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test for each invariant and each case, or backbone, that it is tried on."""
        if "case" in metafunc.fixturenames:
            cases = self.cases()
            metafunc.parametrize("case", cases, ids=[f"{c.backbone.name}-{i}" for i, c in enumerate(cases)])
        if "target" in metafunc.fixturenames:
            targets = self.suitable()
            metafunc.parametrize("target", targets, ids=[backbone.name for backbone, _ in targets])


def sample_configs(method: type[RoutedNet], space: SearchSpace, most: int) -> list[Space]:
    try:
        return configs_of(space, most)
    except ValidationError as error:
        text = explain(error, method.Config)
        raise Refusal(
            f"{method.name}: a field without a default must be fixed (in `fixed`, or --set): {text}"
        ) from None


def priced_as_is(method: type[RoutedNet], config: Space, backbone: Backbone) -> RoutePrices:
    """Prices by :func:`routesearch.methods.running.price`; what is no Refusal comes through as it is."""
    try:
        return price(method, config, backbone)
    except Refusal as refusal:
        if refusal.__cause__ is not None:
            raise RuntimeError(str(refusal)) from refusal.__cause__
        raise
