"""Search spaces: a frozen pydantic model whose annotated fields an Optuna sampler may choose.

    class Config(Space):
        beta: Annotated[float, FloatDistribution(0.1, 10, log=True)] = 3.0     # searched
        positions: Annotated[tuple[int, ...], Cuts()] = ()                     # searched, a list
        alpha: Annotated[float, FloatDistribution(0, 4), When("schedule", "hybrid")] = 0.1
        hidden: int = 16                                                       # fixed; a study may set it

The model says what a config *is*; a :class:`SearchSpace` says which configs a study may draw: the
method refines it for a backbone, the study narrows it further.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import BaseModel, ConfigDict, ValidationError

from routesearch.errors import Refusal

Suggest = Callable[[str, BaseDistribution], Any]
"""Draws one value: ``suggest(name, distribution)``."""


class Space(BaseModel):
    """One point of a method's search space: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


@dataclass(frozen=True)
class When:
    """The annotated field is drawn only where another, earlier field has one of these values."""

    field: str
    values: tuple[Any, ...]

    def __init__(self, field: str, *values: Any) -> None:
        object.__setattr__(self, "field", field)
        object.__setattr__(self, "values", values)


class Domain(ABC):
    """The values that one field may take."""

    @abstractmethod
    def suggest(self, name: str, suggest: Suggest) -> Any:
        """Draw a value."""

    @abstractmethod
    def encode(self, name: str, value: Any) -> dict[str, Any]:
        """The parameters that make :meth:`suggest` return ``value``."""

    @abstractmethod
    def law(self, value: Any) -> str | None:
        """None if ``value`` is allowed, else the law that it breaks."""

    @abstractmethod
    def extremes(self) -> list[Any]:
        """The ends of the range, or all choices."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What ``routesearch methods`` shows."""

    def narrow(self, low: Any, high: Any) -> Domain:
        """The part between ``low`` and ``high`` (None: as it is).

        Raises:
            ValueError: where there is no order to cut, or for ends outside the range.
        """
        raise ValueError("low and high need a numeric range; use {choices: [...]}")


@dataclass(frozen=True)
class Scalar(Domain):
    """A number or a choice, by an Optuna distribution."""

    distribution: BaseDistribution

    def suggest(self, name: str, suggest: Suggest) -> Any:
        return suggest(name, self.distribution)

    def encode(self, name: str, value: Any) -> dict[str, Any]:
        return {name: value}

    def law(self, value: Any) -> str | None:
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return None if value in d.choices else f"one of {_brief(d.choices)}"
        assert isinstance(d, IntDistribution | FloatDistribution)
        if isinstance(value, bool) or not isinstance(value, int | float) or not d.low <= value <= d.high:
            return f"{d.low} <= value <= {d.high}"
        if d.step is not None and isinstance(d, IntDistribution) and (value - d.low) % d.step:
            return f"a multiple of {d.step} from {d.low}"
        return None

    def extremes(self) -> list[Any]:
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return list(d.choices)
        assert isinstance(d, IntDistribution | FloatDistribution)
        return [d.low, d.high]

    def describe(self) -> dict[str, Any]:
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return {"choices": list(d.choices)}
        assert isinstance(d, IntDistribution | FloatDistribution)
        return {"low": d.low, "high": d.high, "log": d.log}

    def narrow(self, low: Any, high: Any) -> Domain:
        d = self.distribution
        if not isinstance(d, IntDistribution | FloatDistribution):
            return super().narrow(low, high)
        for bound in (low, high):
            law = None if bound is None else self.law(bound)
            if law is not None:
                raise ValueError(f"{law} must hold, got {bound!r}")
        low, high = d.low if low is None else low, d.high if high is None else high
        if low > high:
            raise ValueError(f"low <= high must hold, got low={low}, high={high}")
        if isinstance(d, IntDistribution):
            return Scalar(IntDistribution(int(low), int(high), log=d.log, step=d.step))
        return Scalar(FloatDistribution(float(low), float(high), log=d.log, step=d.step))


@dataclass(frozen=True)
class Choices(Domain):
    """A few JSON values; Optuna's storage takes scalars only, so lists travel as JSON text."""

    values: tuple[Any, ...]

    def suggest(self, name: str, suggest: Suggest) -> Any:
        return self._values()[suggest(name, CategoricalDistribution(tuple(self._values())))]

    def encode(self, name: str, value: Any) -> dict[str, Any]:
        return {name: _text(value)}

    def _values(self) -> dict[Any, Any]:
        return {_text(v): v for v in self.values}

    def law(self, value: Any) -> str | None:
        known = {json.dumps(v) for v in self.values}
        return None if json.dumps(value) in known else f"one of {_brief(self.values)}"

    def extremes(self) -> list[Any]:
        return list(self.values)

    def describe(self) -> dict[str, Any]:
        return {"choices": list(self.values)}


@dataclass(frozen=True)
class Cuts(Domain):
    """An increasing list of positions: ``least`` to ``most`` different units out of ``first``..``last``.

    Encoded as a count and that many cuts, each over the same range whatever the count, so that a
    sampler can learn about cuts across counts. A cut on a taken unit moves to the next free one (past
    the end it starts again), so every draw is a valid list.
    """

    last: int = 0
    first: int = 1
    most: int = 3
    least: int = 1

    def suggest(self, name: str, suggest: Suggest) -> tuple[int, ...]:
        size = self.last - self.first + 1
        low, high = min(self.least, size), min(self.most, size)
        count = suggest(f"{name}.count", IntDistribution(low, high)) if low < high else high
        taken: list[int] = []
        for i in range(1, count + 1):
            cut = suggest(f"{name}.cut{i}", IntDistribution(self.first, self.last))
            while cut in taken:
                cut = cut + 1 if cut < self.last else self.first
            taken.append(cut)
        return tuple(sorted(taken))

    def encode(self, name: str, value: Any) -> dict[str, Any]:
        return {f"{name}.count": len(value)} | {f"{name}.cut{i}": cut for i, cut in enumerate(value, 1)}

    def law(self, value: Any) -> str | None:
        cuts = list(value) if isinstance(value, list | tuple) else None
        if cuts is None or not all(isinstance(c, int) and not isinstance(c, bool) for c in cuts):
            return "a list of unit numbers"
        if any(a >= b for a, b in pairwise(cuts)):
            return "increasing unit numbers"
        if not self.least <= len(cuts):
            return f"at least {self.least} of them"
        if cuts and not (self.first <= cuts[0] and cuts[-1] <= self.last):
            return f"{self.first} <= position <= {self.last}"
        return None

    def extremes(self) -> list[Any]:
        size = min(self.most, self.last - self.first + 1)
        few = min(self.least, size)
        ends = {
            tuple(range(self.first, self.first + few)),
            tuple(range(self.last - few + 1, self.last + 1)),
            tuple(range(self.first, self.first + size)),
            tuple(range(self.last - size + 1, self.last + 1)),
        }
        return sorted(ends)

    def describe(self) -> dict[str, Any]:
        return {"positions": [self.first, self.last], "count": [self.least, self.most]}

    def narrow(self, low: Any, high: Any) -> Domain:
        first, last = self.first if low is None else low, self.last if high is None else high
        for bound in (first, last):
            if type(bound) is not int or not self.first <= bound <= self.last:
                raise ValueError(f"{self.first} <= position <= {self.last} must hold, got {bound!r}")
        if last - first + 1 < self.least:
            raise ValueError(f"room for {self.least} of them must stay, got low={first}, high={last}")
        return replace(self, first=first, last=last)


class SearchSpace:
    """The configs that may be drawn for one method on one backbone.

    Args:
        config: the method's model.
        domains: field -> what it may be, in the order of drawing; fields not named keep their default.
        defaults: values of the fields that are not drawn, and of those whose condition does not hold.
    """

    def __init__(
        self,
        config: type[Space],
        domains: Mapping[str, Domain] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.config = config
        declared = _declared(config)
        self.domains = dict(declared if domains is None else domains)
        self.defaults = dict(defaults or {})

    def refine(
        self, defaults: Mapping[str, Any] | None = None, **domains: Domain | BaseDistribution
    ) -> SearchSpace:
        """The same space with other ranges, where they depend on the backbone."""
        refined = {n: d if isinstance(d, Domain) else Scalar(d) for n, d in domains.items()}
        unknown = refined.keys() - self.config.model_fields.keys()
        if unknown:
            raise ValueError(f"refined fields must be fields of the config, got {sorted(unknown)}")
        order = [n for n in self.config.model_fields if n in self.domains or n in refined]
        merged = {n: refined.get(n) or self.domains[n] for n in order}
        return SearchSpace(self.config, merged, self.defaults | dict(defaults or {}))

    def narrow(self, wishes: Mapping[str, Any]) -> SearchSpace:
        """Apply a study's fields: a plain value fixes, ``{choices: …}`` or ``{low:, high:}`` narrows.

        Raises:
            Refusal: for an unknown field, or a value outside the declared range.
        """
        domains, defaults = dict(self.domains), dict(self.defaults)
        for name, wish in wishes.items():
            if name not in self.config.model_fields:
                raise Refusal(f"unknown field {name!r}; fields: {', '.join(self.config.model_fields)}")
            declared = domains.get(name)
            if isinstance(wish, Mapping):
                domains[name] = self._narrowed(name, wish, declared)
                continue
            defaults[name] = self._checked(name, wish, declared)
            domains.pop(name, None)
        # A field that was fixed so far comes last: back into the order of drawing.
        ordered = {n: domains[n] for n in self.config.model_fields if n in domains}
        return SearchSpace(self.config, ordered, defaults)

    def _narrowed(self, name: str, wish: Mapping[str, Any], declared: Domain | None) -> Domain:
        if set(wish) == {"choices"} and isinstance(wish["choices"], list) and wish["choices"]:
            return Choices(tuple(self._checked(name, v, declared) for v in wish["choices"]))
        if not wish or set(wish) - {"low", "high"}:
            raise Refusal(
                f"{name}: a mapping must be {{choices: [...]}} or {{low:, high:}}, got {dict(wish)}"
            )
        if declared is None:
            law = "low and high need a declared range, and this field has none"
            raise Refusal(f"{name}: {law}; give a value or {{choices: [...]}}")
        try:
            return declared.narrow(wish.get("low"), wish.get("high"))
        except ValueError as error:
            raise Refusal(f"{name}: {error}") from None

    def _checked(self, name: str, value: Any, declared: Domain | None) -> Any:
        law = declared.law(value) if declared is not None else None
        if law is not None:
            raise Refusal(f"{name}: {law} must hold, got {value!r}")
        try:
            model = self.config.model_validate(self.defaults | {name: value})
        except ValidationError as error:
            first = error.errors()[0]
            raise Refusal(f"{name}: {first['msg'].lower()}, got {value!r}") from None
        return model.model_dump(mode="json")[name]

    def ask(self, suggest: Suggest) -> Space:
        """Draw a config; conditional fields only where their condition holds."""
        values = self._undrawn()
        for name, domain in self.domains.items():
            if self._active(name, values):
                values[name] = domain.suggest(name, suggest)
        return self.config.model_validate(values)

    def draw(self, rng: Random) -> Space:
        """Draw a config at random, each field on its own scale."""
        return self.ask(lambda _, distribution: _random(distribution, rng))

    def default(self) -> Space:
        """The method's own choice, moved into this space where the study narrowed it."""
        values = self._undrawn()
        for name, domain in self.domains.items():
            if domain.law(values[name]) is not None:
                values[name] = domain.extremes()[0]
        return self.config.model_validate(values)

    def extremes(self) -> Iterator[Space]:
        """The default with each field at each of its ends, and all fields at their first or last end."""
        base = self.default().model_dump()
        yield self.config.model_validate(base)
        for pick in (0, -1):
            yield self.config.model_validate(base | {n: d.extremes()[pick] for n, d in self.domains.items()})
        for name, domain in self.domains.items():
            for value in domain.extremes():
                yield self.config.model_validate(base | {name: value})

    def encode(self, config: Space) -> dict[str, Any]:
        """The sampler's parameters that :meth:`ask` turns into ``config``."""
        values, plain = config.model_dump(), config.model_dump(mode="json")
        params: dict[str, Any] = {}
        for name, domain in self.domains.items():
            if self._active(name, values):
                params |= domain.encode(name, plain[name])
        return params

    def parse(self, values: Mapping[str, Any]) -> Space:
        return self.config.model_validate(dict(values))

    def schema(self) -> dict[str, Any]:
        """The config's JSON schema; under each searched field, ``search`` says what may be drawn."""
        schema = self.config.model_json_schema()
        for name, domain in self.domains.items():
            when = _condition(self.config, name)
            schema["properties"][name]["search"] = domain.describe() | (
                {"when": {when.field: list(when.values)}} if when else {}
            )
        return schema

    def _undrawn(self) -> dict[str, Any]:
        """What the fields are that nobody draws."""
        return self.config.model_validate(self.defaults).model_dump()

    def _active(self, name: str, values: Mapping[str, Any]) -> bool:
        when = _condition(self.config, name)
        return when is None or values[when.field] in when.values


def _declared(config: type[Space]) -> dict[str, Domain]:
    domains: dict[str, Domain] = {}
    for name, field in config.model_fields.items():
        for note in field.metadata:
            if isinstance(note, BaseDistribution):
                domains[name] = Scalar(note)
            elif isinstance(note, Domain):
                domains[name] = note
    return domains


def _condition(config: type[Space], name: str) -> When | None:
    return next((note for note in config.model_fields[name].metadata if isinstance(note, When)), None)


def _random(distribution: BaseDistribution, rng: Random) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return rng.choice(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    if isinstance(distribution, IntDistribution):
        if not distribution.log:
            return rng.randrange(distribution.low, distribution.high + 1, distribution.step)
        value = float(math.floor(math.exp(rng.uniform(math.log(low), math.log(high + 1)))))
    elif distribution.log:
        value = math.exp(rng.uniform(math.log(low), math.log(high)))
    else:
        value = rng.uniform(low, high)
        value = value if step is None else low + round((value - low) / step) * step
    inside = min(max(value, low), high)  # exp(log(x)) is not quite x
    return int(inside) if isinstance(distribution, IntDistribution) else inside


def _text(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value


def _brief(values: tuple[Any, ...]) -> str:
    return ", ".join(str(v) for v in values)
