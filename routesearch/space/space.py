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

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from optuna.distributions import BaseDistribution
from pydantic import BaseModel, ConfigDict, ValidationError

from routesearch.errors import Refusal
from routesearch.errors.texts import shown
from routesearch.space.domains import Choices, Domain, Scalar, Suggest, draw
from routesearch.utils.validation import explain


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


class SearchSpace:
    """The configs that may be drawn for one method on one backbone.

    Args:
        config: the method's model.
        domains: field -> what it may be, in the order of drawing; fields not named keep their default.
        defaults: values of the fields that are not drawn, and of those whose condition does not hold.

    Raises:
        Refusal: a condition names no earlier field, or a declared default lies outside its own range.
    """

    def __init__(
        self,
        config: type[Space],
        domains: Mapping[str, Domain] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self.config = config
        self.domains = dict(_declared(config) if domains is None else domains)
        self.defaults = dict(defaults or {})
        _check_conditions(config)
        if domains is None:
            self._check_defaults(config.model_fields)

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
        space = SearchSpace(self.config, merged, self.defaults | dict(defaults or {}))
        space._check_defaults(defaults or {})
        return space

    def _check_defaults(self, names: Iterable[str]) -> None:
        """Refuse a default outside its own range: it would silently become another value."""
        try:
            values = self._undrawn()
        except ValidationError:  # a field without a default: a study has to fix it
            return
        for name in names:
            domain = self.domains.get(name)
            rule = domain.violation(values[name]) if domain is not None and domain.complete else None
            if rule is not None:
                raise Refusal(
                    f"{self.config.__qualname__}.{name}: {rule} must hold for its default,"
                    f" got {shown(values[name])}"
                )

    def narrow(self, wishes: Mapping[str, Any]) -> SearchSpace:
        """Apply a study's fields: a plain value fixes, ``{choices: …}`` or ``{low:, high:}`` narrows.

        Raises:
            Refusal: for an unknown field, or a value outside the declared range.
        """
        domains, defaults = dict(self.domains), dict(self.defaults)
        for name, wish in wishes.items():
            if name not in self.config.model_fields:
                raise Refusal(f"unknown field {shown(name)}; fields: {', '.join(self.config.model_fields)}")
            declared = domains.get(name)
            if isinstance(wish, Mapping):
                domains[name] = self._narrowed(name, wish, declared)
                continue
            defaults[name] = self._checked(name, wish, declared)
            domains.pop(name, None)
        # A field that was fixed so far comes last: back into the order of drawing.
        ordered = {n: domains[n] for n in self.config.model_fields if n in domains}
        for name, domain in ordered.items():
            if not domain.complete:
                cure = f"space(backbone) must give it: refine({name}=Cuts(last=len(backbone) - 1))"
                raise Refusal(f"{name}: the last position must be known, got none; {cure}")
        return SearchSpace(self.config, ordered, defaults)

    def _narrowed(self, name: str, wish: Mapping[str, Any], declared: Domain | None) -> Domain:
        if set(wish) == {"choices"} and isinstance(wish["choices"], list) and wish["choices"]:
            return Choices(tuple(self._checked(name, v, declared) for v in wish["choices"]))
        if not wish or set(wish) - {"low", "high"}:
            raise Refusal(
                f"{name}: a mapping must be {{choices: [...]}} or {{low:, high:}}, got {shown(wish)}"
            )
        if declared is None:
            rule = "low and high need a declared range, and this field has none"
            raise Refusal(f"{name}: {rule}; give a value or {{choices: [...]}}")
        try:
            return declared.narrow(wish.get("low"), wish.get("high"))
        except ValueError as error:
            raise Refusal(f"{name}: {error}") from None

    def _checked(self, name: str, value: Any, declared: Domain | None) -> Any:
        rule = declared.violation(value) if declared is not None else None
        if rule is not None:
            raise Refusal(f"{name}: {rule} must hold, got {shown(value)}")
        try:
            model = self.config.model_validate(self.defaults | {name: value})
        except ValidationError as error:
            where = "" if error.errors()[0]["loc"] else f"{name}: "  # a constraint on the whole config
            raise Refusal(f"{where}{explain(error, self.config)}") from None
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
        return self.ask(lambda _, distribution: draw(distribution, rng))

    def default(self) -> Space:
        """The method's default config, moved into this space where the study narrowed it."""
        values = self._undrawn()
        for name, domain in self.domains.items():
            if domain.violation(values[name]) is not None:
                values[name] = domain.extremes()[0]
        return self.config.model_validate(values)

    def may_be(self, name: str, value: Any) -> bool:
        """Whether a config of this space may have a value in a field."""
        domain = self.domains.get(name)
        if domain is None:
            return bool(self._undrawn()[name] == value)
        return domain.violation(value) is None or (
            _condition(self.config, name) is not None and self._undrawn()[name] == value
        )

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


def _check_conditions(config: type[Space]) -> None:
    """Refuse a condition on anything but a field that stands, and is drawn, before its own."""
    fields = list(config.model_fields)
    for i, name in enumerate(fields):
        when = _condition(config, name)
        if when is not None and when.field not in fields[:i]:
            earlier = ", ".join(fields[:i]) or "none"
            rule = f"When must name an earlier field ({earlier})"
            raise Refusal(f"{config.__qualname__}.{name}: {rule}, got {when.field!r}")


def _condition(config: type[Space], name: str) -> When | None:
    return next((note for note in config.model_fields[name].metadata if isinstance(note, When)), None)
