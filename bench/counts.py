"""The price of published networks beside an independent count: torchvision's classifiers, timm's families.

    .venv/bin/python bench/counts.py [--timm]

Each network is priced on the meta device as a block (``products``, which has no biases and norms), and its
forward pass is counted by torch's FlopCounterMode with attention taken apart; half of its FLOPs is the
reference. Printed: networks that differ by more than 0.01 %, the largest difference, and the seconds of both.
timm is not among the package's requirements: install it to compare its families (one network of each).
"""

from __future__ import annotations

import argparse
import functools
import time
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from routesearch.routing.cost import price_of
from routesearch.routing.shapes import shapes_only


def without_values(make: Callable[[], nn.Module]) -> nn.Module:
    """A network on the meta device; one that computes its widths with tensors is made elsewhere."""
    try:
        with torch.device("meta"):
            return make()
    except NotImplementedError:
        return make().to("meta")


def torchvision_nets() -> Iterator[tuple[str, nn.Module, int]]:
    from torchvision import models

    for name in models.list_models(module=models):
        options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        make = functools.partial(models.get_model, name, weights=None, **options)
        yield name, without_values(make), 299 if "incep" in name else 224


def timm_nets() -> Iterator[tuple[str, nn.Module, int]]:
    import timm

    for module in timm.list_modules():
        names = [n for n in timm.list_models(module=module) if "384" not in n and "512" not in n]
        for name in names[:1]:
            net = without_values(functools.partial(timm.create_model, name))
            yield f"{module}: {name}", net, net.default_cfg["input_size"][-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--timm", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    worst, failed, count, seconds, reference_seconds = 0.0, 0, 0, 0.0, 0.0
    for name, net, side in timm_nets() if options.timm else torchvision_nets():
        net.eval().requires_grad_(requires_grad=False)
        image = torch.empty(1, 3, side, side, device="meta")
        started = time.perf_counter()
        try:
            with shapes_only():
                priced = price_of(net, image)
        except Exception as error:  # whatever a network does that has no values to look at
            print(f"{name}: not priced: {type(error).__name__}: {error}")
            failed += 1
            continue
        seconds += time.perf_counter() - started
        started = time.perf_counter()
        with FlopCounterMode(display=False) as flops, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            net(image)
        reference_seconds += time.perf_counter() - started
        found = flops.get_total_flops() // 2
        apart = abs(priced.products / found - 1)
        worst, count = max(worst, apart), count + 1
        if apart > 0.0001:
            print(f"{name}: {priced.products:,} priced, {found:,} counted ({apart:.2%})")
    print(f"{count} networks compared, {failed} not priced; the largest difference is {worst:.3%}")
    print(f"{seconds:.1f} s to price, {reference_seconds:.1f} s to count by FlopCounterMode")


if __name__ == "__main__":
    main()
