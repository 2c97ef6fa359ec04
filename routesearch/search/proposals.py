"""What is tried next of a method: its default, configs from elsewhere, a design, then offers or a sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial, TrialState
from pydantic import ValidationError

from routesearch.errors import Refusal
from routesearch.errors.texts import MAX_REASON, one_line
from routesearch.results.curves import standings
from routesearch.results.points import Interval
from routesearch.results.record import State, TrialRecord
from routesearch.search.config_history import ConfigHistory, Repetitions
from routesearch.search.design import Design
from routesearch.search.effort import Effort
from routesearch.search.evidence import PROMISED, Evidence
from routesearch.search.expected import Expected
from routesearch.search.histories import history
from routesearch.search.observations import budget_violation, config_text, sampler_params
from routesearch.search.offers import Offer, Offers, distributions_of
from routesearch.search.sampler import Strategy, derive, strategy_of
from routesearch.space.domains import Suggest
from routesearch.space.space import Space

if TYPE_CHECKING:
    from routesearch.task.resolve import Task

MAX_ASKED = 5
"""Proposals of a sampler for one trial; what comes then is from the design: some repeat themselves."""
LEADERS = 3
"""Configs of a method that are taken over from studies that are learnt from."""


@dataclass(frozen=True)
class Proposal:
    """A config that was drawn, and where it lies in a sampler's space.

    Attributes:
        bounds: of its network's MACs; None where it cannot be built.
        violation: why it is refused; None where it may be trained.
        attributes: what is to be kept of the draw: what it promises, or what its sampler left for itself.
    """

    config: dict[str, Any]
    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    bounds: Interval | None
    violation: str | None
    attributes: Mapping[str, Any] = field(default_factory=dict)


class _Drawn(NamedTuple):
    """A config before it is priced; without a model where it is none, and why.

    Attributes:
        config: its fields; its parameters where it is none.
    """

    config: dict[str, Any]
    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]
    model: Space | None
    violation: str | None


class _Opened(NamedTuple):
    """An offer, and the revision of the evidence that it was weighed by."""

    revision: int
    offer: Offer | None


class Proposals:
    """Draws configs of a study's methods.

    Args:
        task: the resolved study.
        evidence: what its trials have shown; the caller keeps it.
        effort: what trials take of the budget.

    Raises:
        Refusal: the study's sampler does not exist.
    """

    def __init__(self, task: Task, evidence: Evidence, effort: Effort) -> None:
        self._task = task
        self._evidence = evidence
        self._strategy: Strategy = strategy_of(task.config.search, len(task.spaces))
        seed = task.config.search.seed
        self._configs = {
            method: ConfigHistory(Design(derive(seed, method, "design"), distributions_of(space)))
            for method, space in task.spaces.items()
        }
        self._offers: dict[str, Offers] = {}
        if self._strategy.by_promise:
            self._offers = {method: Offers(task, method, effort) for method in task.spaces}
        self._open: dict[str, _Opened] = {}
        self._expected = Expected(evidence, self._offers)

    def recall(self, record: TrialRecord) -> None:
        """Count a config that an earlier run drew; to be called when as much is known as was at the draw."""
        if (configs := self._configs.get(record.method)) is None:
            return
        self._begin(record.method)
        queued = [
            config_text(self._drawn(record.method, _prescribed(params)).config) for params in configs.queue
        ]
        if (text := config_text(record.config)) in queued:
            del configs.queue[: queued.index(text) + 1]
        elif self._from_design(record.method):
            self._walk(record.method)
        self.note(record)

    def note(self, record: TrialRecord) -> None:
        """Count a config that is stored."""
        refused = record.state is State.REFUSED
        self._configs[record.method].note(config_text(record.config), refused)

    def try_leaders(self) -> None:
        """Try the best of another study's configs before all others but the default; no config twice."""
        for method, each in self._evidence.ended.items():
            others = [one for one in each if not one.own and one.params is not None and len(one.curve)]
            values = standings([one.curve for one in others], self._evidence.edge)
            order = sorted(range(len(others)), key=lambda i: float(values[i]), reverse=True)
            leaders = (others[i].params for i in order[:LEADERS])
            self._configs[method].queue += [params for params in leaders if params is not None]

    def draw(self, method: str, number: int) -> Proposal:
        """The next config to be tried; one that may not be trained is given once, and then no more.

        Args:
            number: of the trial that it is for; the draw follows from it, the seed and what is known.
        """
        configs = self._configs[method]
        repetitions = Repetitions(configs)
        attempt = 0
        source: _Source | None = None
        self._begin(method)
        while True:
            if configs.queue:
                proposal = self._proposal(method, _prescribed(configs.queue.pop(0)))
                if proposal.violation is not None or configs.trained[config_text(proposal.config)]:
                    continue
                return proposal
            if attempt == 0 and (offered := self._offered(method)) is not None:
                return offered
            if self._from_design(method):
                proposal = self._proposal(method, configs.at(configs.place))
                configs.place += 1
            elif self._offers or attempt >= MAX_ASKED:
                # nothing else is proposed; a place that follows from the number is the same after a resume
                proposal = self._proposal(method, configs.at(number + attempt))
            else:
                source = source or _Source(self, method)
                seed = derive(self._task.config.search.seed, method, number, attempt)
                proposal = source.ask(seed)
            attempt += 1
            if not repetitions.passes_over(config_text(proposal.config), proposal.violation is not None):
                return proposal

    def best_offer(self, methods: Sequence[str]) -> tuple[str, float] | None:
        """The method, of some, whose next config promises most, and how much; None where nothing is known.

        All are weighed by all that is known: what an earlier weighing said is not there after a resume.
        """
        weighed = [method for method in methods if self._offers and not self._from_design(method)]
        worths = {method: worth for method in weighed if (worth := self._worth(method)) is not None}
        if not worths:
            return None
        best = max(worths, key=lambda method: worths[method])
        return best, worths[best]

    def _begin(self, method: str) -> None:
        """Put the method's default before all others, once."""
        configs = self._configs[method]
        if configs.fresh:
            configs.queue, configs.fresh = [*self._default(method), *configs.queue], False

    def _walk(self, method: str) -> None:
        """Go on in the design as far as a draw did: places that are taken were passed over."""
        configs = self._configs[method]
        repetitions = Repetitions(configs)
        while True:
            text = config_text(self._drawn(method, configs.at(configs.place)).config)
            configs.place += 1
            if not repetitions.passes_over(text, text in configs.refused):
                return

    def _offered(self, method: str) -> Proposal | None:
        """The method's offer, weighed by all that is known."""
        if not self._offers or self._from_design(method):
            return None
        opened = self._opened(method)
        del self._open[method]
        if opened.offer is None:
            return None
        proposal = self._proposal(method, _prescribed(opened.offer.params))
        return replace(proposal, attributes={PROMISED: opened.offer.gain})

    def _worth(self, method: str) -> float | None:
        """What the method's offer promises, as far as its latest offers kept what they promised."""
        offer = self._opened(method).offer
        return None if offer is None else offer.worth * self._evidence.summaries[method].promises_kept

    def _opened(self, method: str) -> _Opened:
        """The method's offer: the one that was weighed, if nothing is new."""
        opened = self._open.get(method)
        return opened if opened and opened.revision == self._evidence.revision else self._weigh(method)

    def _weigh(self, method: str) -> _Opened:
        evidence = self._evidence
        shown = evidence.summaries[method].modelled
        values = standings([*(one.curve for one in shown), evidence.others(method)], evidence.edge)
        order = sorted(range(len(shown)), key=lambda i: float(values[i]), reverse=True)
        offers, offer = self._offers[method], None
        if offers.learn(shown):
            configs, front = self._configs[method], self._expected.front()
            queued = (offers.weigh(params, front) for params in configs.queue)
            if (offer := next((each for each in queued if each is not None), None)) is None:
                seed = derive(self._task.config.search.seed, method, evidence.revision)
                offer = offers.best([shown[i] for i in order], front, configs.drawn, seed)
        self._open[method] = _Opened(evidence.revision, offer)
        return self._open[method]

    def _from_design(self, method: str) -> bool:
        """Whether the sampler knows too little yet."""
        start = self._strategy.start
        if start is None:
            return True
        return self._evidence.summaries[method].with_curve < start

    def _default(self, method: str) -> list[Mapping[str, Any]]:
        """The method's default config, where it lies in the space and within the budget."""
        space = self._task.spaces[method]
        default = space.default()
        placed = sampler_params(space, default.model_dump(mode="json"))
        try:
            bounds = self._task.bounds(method, default)
        except Refusal:
            return []
        return [placed[0]] if placed is not None and self._task.budget.admits(bounds) else []

    def _proposal(self, method: str, suggest: Suggest) -> Proposal:
        drawn = self._drawn(method, suggest)
        if drawn.model is None:
            return Proposal(drawn.config, drawn.params, drawn.distributions, None, drawn.violation)
        try:
            bounds = self._task.bounds(method, drawn.model)
        except (Refusal, ValidationError) as error:
            return Proposal(drawn.config, drawn.params, drawn.distributions, None, _reason(error))
        violation = budget_violation(bounds, self._task.budget)
        return Proposal(drawn.config, drawn.params, drawn.distributions, bounds, violation)

    def _drawn(self, method: str, suggest: Suggest) -> _Drawn:
        params: dict[str, Any] = {}
        distributions: dict[str, BaseDistribution] = {}

        def noting(name: str, distribution: BaseDistribution) -> Any:
            params[name], distributions[name] = suggest(name, distribution), distribution
            return params[name]

        try:
            model = self._task.spaces[method].ask(noting)
        except (Refusal, ValidationError) as error:
            return _Drawn(dict(params), params, distributions, None, _reason(error))
        return _Drawn(model.model_dump(mode="json"), params, distributions, model, None)


class _Source:
    """A sampler and its history, for the proposals of one draw."""

    def __init__(self, proposals: Proposals, method: str) -> None:
        evidence = proposals._evidence
        pending = [each for each in evidence.pending.values() if each.method == method and each.params]
        self._proposals, self._method = proposals, method
        shown = evidence.ended[method]
        self._study = history(proposals._strategy, shown, pending, evidence.others(method), evidence.edge)

    def ask(self, seed: int) -> Proposal:
        study, strategy = self._study, self._proposals._strategy
        assert strategy.make is not None, "else the design proposes"
        study.sampler = strategy.make(seed)
        trial = study.ask()
        proposal = self._proposals._proposal(self._method, lambda name, values: _suggest(trial, name, values))
        attributes = study.get_trials(deepcopy=False)[-1].system_attrs
        study.tell(trial, state=TrialState.FAIL)  # samplers overlook it: what becomes of it is told elsewhere
        return replace(proposal, attributes=dict(attributes)) if strategy.stateful else proposal


def _reason(error: Exception) -> str:
    return one_line(str(error), MAX_REASON)


def _prescribed(params: Mapping[str, Any]) -> Callable[[str, BaseDistribution], Any]:
    return lambda name, _: params[name]


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case CategoricalDistribution():
            return trial.suggest_categorical(name, distribution.choices)
        case IntDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_int(name, low, high, step=step, log=log)
        case FloatDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_float(name, low, high, step=step, log=log)
    raise TypeError(f"a distribution must be Optuna's float, int or categorical, got {distribution!r}")
