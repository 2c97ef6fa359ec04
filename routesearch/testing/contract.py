"""The invariants of a routing method, as tests that a plugin's test file inherits."""

from __future__ import annotations

from routesearch.testing.cost_checks import CostChecks
from routesearch.testing.decision_checks import DecisionChecks
from routesearch.testing.running_checks import RunningChecks
from routesearch.testing.space_checks import SpaceChecks
from routesearch.testing.training_checks import TrainingChecks


class MethodContract(SpaceChecks, TrainingChecks, CostChecks, DecisionChecks, RunningChecks):
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
        refused: share of all draws that the method may refuse by a constraint on several fields.
        routes: whether it decides anything; not so for a static network.
    """
