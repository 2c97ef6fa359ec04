"""The conformance kit: invariants of methods, backbones and data sets, as tests to inherit.

    from routesearch.testing import MethodContract

    class TestMine(MethodContract):
        method = MyMethod

It needs pytest and hypothesis: ``pip install 'routesearch[test]'``.

Also here: the toy backbones, images and trunk that they are tried on.
"""

from __future__ import annotations

from routesearch.testing.backbone import BackboneContract
from routesearch.testing.contract import MethodContract
from routesearch.testing.dataset import DatasetContract
from routesearch.testing.toys import (
    CHAIN,
    RECIPE,
    RESIDUAL,
    SCALES,
    ToyChain,
    ToyResidual,
    ToyScales,
    toy_data,
    toy_trunk,
)
from routesearch.testing.verdict import Verdict, examine

__all__ = [
    "CHAIN",
    "RECIPE",
    "RESIDUAL",
    "SCALES",
    "BackboneContract",
    "DatasetContract",
    "MethodContract",
    "ToyChain",
    "ToyResidual",
    "ToyScales",
    "Verdict",
    "examine",
    "toy_data",
    "toy_trunk",
]
