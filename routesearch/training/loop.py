"""The one training loop, over the stages of any method, and the bill of its work."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from routesearch.data.base import Data, Images
from routesearch.errors import RunFailed, noted
from routesearch.methods.base import Batch, RoutedNet, Stage, Targets
from routesearch.routing.counter import Count, check, counted
from routesearch.routing.nested import Tensors, map_tensors, tensors
from routesearch.study.recipe import Recipe
from routesearch.training.averaging import MovingAverage
from routesearch.training.norms import single_values_normalised
from routesearch.training.optimizers import allow_missing_gradients, make_optimizer, schedule_of
from routesearch.training.suspended import suspended
from routesearch.training.teacher import Teacher

M = TypeVar("M", bound=nn.Module)

MAX_CACHED = 2 << 30
"""Bytes that a stage's cache may take; a larger one is computed batch by batch instead."""

GRADIENT_FACTOR = 3
"""Forward, and about twice that backward, where gradients flow."""


@dataclass(frozen=True)
class Fitted:
    """What training cost.

    Attributes:
        macs: 3 x forward MACs of every block executed for an image where gradients flow, 1 x elsewhere, a
            teacher that runs for every batch included.
        steps: optimizer steps.
        done: whether this is the whole of it.
    """

    macs: int
    steps: int
    done: bool = True


def fit(
    net: nn.Module,
    stages: Sequence[Stage],
    data: Data,
    recipe: Recipe,
    *,
    epochs: int,
    seed: int,
    device: torch.device,
    on_epoch: Callable[[int], None] | None = None,
    teacher: Teacher | None = None,
) -> Fitted:
    """Train ``net`` in place on ``data.train``; with ``recipe.ema`` it ends as the mean of its weights.

    Args:
        epochs: of all stages together, divided by their shares.
        seed: of the order of images, augmentation and every draw in the losses.
        teacher: whose logits every batch comes with; None: no distillation.
        on_epoch: called after each epoch with its number from 1.

    Raises:
        RunFailed: when a loss is not finite.
    """
    how: dict[str, Any] = {"epochs": epochs, "seed": seed, "device": device, "on_epoch": on_epoch}
    *_, fitted = fit_to_rungs(net, stages, data, recipe, rungs=(), teacher=teacher, **how)
    return fitted


def fit_to_rungs(
    net: nn.Module,
    stages: Sequence[Stage],
    data: Data,
    recipe: Recipe,
    *,
    epochs: int,
    seed: int,
    device: torch.device,
    rungs: Collection[int],
    on_epoch: Callable[[int], None] | None = None,
    teacher: Teacher | None = None,
) -> Iterator[Fitted]:
    """:func:`fit`, which waits at some epochs until it is asked to go on.

    At each of them the network is what it would be had training ended there, until it goes on; looking at it
    changes nothing of what follows.

    Args:
        rungs: epochs, from 1, after which it waits; the last epoch need not be among them.

    Yields:
        What training cost so far; the last is the whole.
    """
    if not isinstance(stages, Sequence) or not all(isinstance(stage, Stage) for stage in stages):
        raise RunFailed(f"stages must give a list of Stage, got {stages!r:.200}")
    if not stages or not all(stage.share > 0 for stage in stages):
        got = [stage.share for stage in stages]
        raise RunFailed(f"a method must have a stage or more, each with a share over 0, got shares {got}")
    torch.manual_seed(seed)
    images = data.train.to(device)
    generator = torch.Generator().manual_seed(seed)
    mean = None if recipe.ema is None else MovingAverage(net, recipe.ema)
    loop = _Loop(net, data, images, recipe, generator, on_epoch, teacher, mean)
    shares = list(accumulate(stage.share for stage in stages))
    ends = [round(epochs * loop.per_epoch * share / shares[-1]) for share in shares]
    for number, (stage, start, end) in enumerate(zip(stages, [0, *ends], ends, strict=False), 1):
        where = noted(f"in stage {number} of {len(stages)}") if len(stages) > 1 else nullcontext()
        with where, _roles(net, stage) as parameters:
            for epoch in loop.run(stage, parameters, steps=max(1, end - start)):
                if epoch in rungs and epoch < epochs:
                    with suspended(net):
                        spent = loop.finish()
                        yield Fitted(loop.macs + spent, loop.steps, done=False)
    loop.macs += loop.finish()
    yield Fitted(loop.macs, loop.steps)


@dataclass
class _Loop:
    """What the stages of one training share."""

    net: nn.Module
    data: Data
    images: Images
    recipe: Recipe
    generator: torch.Generator
    on_epoch: Callable[[int], None] | None
    teacher: Teacher | None
    mean: MovingAverage | None
    macs: int = 0
    steps: int = 0

    @property
    def per_epoch(self) -> int:
        return max(1, len(self.images) // self.recipe.batch_size)

    @property
    def device(self) -> torch.device:
        return self.images.labels.device

    def run(self, stage: Stage, parameters: Sequence[nn.Parameter], steps: int) -> Iterator[int]:
        """One stage of ``steps`` steps; gives the number of each epoch, from 1, when it is over."""
        source, prefetch, spent = self._source(stage)
        self.macs += spent
        own = stage.optimizer
        optimizer = own(parameters) if own else make_optimizer(self.recipe, parameters, stage.rates)
        allow_missing_gradients(optimizer)
        schedule = stage.schedule or schedule_of(self.recipe)
        peaks = [group["lr"] for group in optimizer.param_groups]
        broken = torch.zeros((), dtype=torch.bool, device=self.device)
        price = priced = learnt = 0
        for step, rows in enumerate(islice(self._rows(stage, prefetch), steps)):
            factor = stage.rate * schedule(step / steps)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            # The bill is read on the first step of each epoch: the work may change as training goes on.
            watched = training_work(self.net) if step % self.per_epoch == 0 else nullcontext(None)
            with watched as work, _autocast(self.recipe, self.device):
                batch = self._taught(self._batch(source(rows), rows, step / steps), rows, stage)
                loss = stage.loss(batch)
            _check_loss(loss)
            if work is not None:
                check(work, "the training")
                price, priced = work.macs, len(rows)
            if loss.requires_grad:  # not where the images of a batch met nothing that the stage trains
                self._learn(loss, stage, optimizer, parameters)
                learnt += 1
            self.macs += price * len(rows) // priced
            self.steps += 1
            broken |= ~torch.isfinite(loss.detach())
            whole = self.steps % self.per_epoch == 0
            if not learnt and (step + 1 == self.per_epoch or step + 1 == steps):
                raise RunFailed(
                    "a stage's loss must depend on parameters that the stage trains, got one that does not"
                )
            if (whole or step + 1 == steps) and bool(broken):  # the one wait for the device in an epoch
                at = math.ceil(self.steps / self.per_epoch)
                raise RunFailed(f"the loss must stay finite, got NaN or infinity in epoch {at}")
            if whole:
                if self.on_epoch is not None:
                    self.on_epoch(self.steps // self.per_epoch)
                yield self.steps // self.per_epoch

    def _learn(
        self,
        loss: Tensor,
        stage: Stage,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
    ) -> None:
        """One step of the optimizer."""
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        stage.after_backward()
        if self.recipe.clip_norm is not None and stage.optimizer is None:
            nn.utils.clip_grad_norm_(parameters, self.recipe.clip_norm)
        optimizer.step()
        stage.after_step()
        if self.mean is not None:
            self.mean.update()

    def _batch(self, inputs: Any, rows: Tensor, progress: float) -> Batch:
        """What there is to know of the images at ``rows``, but for what a teacher says."""
        aux = {name: values[rows] for name, values in self.images.aux.items()}
        heat = self.recipe.distill
        targets = Targets(
            self.recipe.label_smoothing, heat.share if heat else 0.0, heat.temperature if heat else 1.0
        )
        return Batch(inputs, self.images.labels[rows], progress, aux, targets=targets)

    def _taught(self, batch: Batch, rows: Tensor, stage: Stage) -> Batch:
        """The batch with the teacher's logits, whose work goes on the bill."""
        if self.teacher is None:
            return batch
        cached = stage.cache is not None
        logits, macs = self.teacher.logits(
            rows, lambda: self.data.batch(self.images, rows)[0] if cached else batch.inputs
        )
        self.macs += macs
        return replace(batch, teacher=logits)

    def finish(self) -> int:
        """End the training, or what would be its end: the MACs that this took.

        The network becomes the mean of its weights where there is one, and a method gets the training images
        for what it does when training has ended.
        """
        net = self.net
        if self.mean is not None:
            self.mean.apply()
            net.train()  # what a network does when its training ends, it does by the mean
        net.eval()
        if not isinstance(net, RoutedNet) or type(net).after_training is RoutedNet.after_training:
            return 0
        rows = torch.arange(len(self.images), device=self.device).split(self.recipe.batch_size)

        def batches() -> Iterator[Batch]:
            for some in rows:
                yield self._batch(self.data.batch(self.images, some)[0], some, 1.0)

        with (
            noted("in after_training"),
            torch.no_grad(),
            training_work(net) as work,
            _autocast(self.recipe, self.device),
        ):
            net.after_training(batches())
        net.eval()
        return work.macs

    def _rows(self, stage: Stage, prefetch: Callable[[Tensor], None]) -> Iterator[Tensor]:
        """Row numbers of batches, epoch after epoch without end; ``prefetch`` gets each one early.

        On the CPU: files are opened by them there, and a GPU takes them as they are.
        """
        labels = self.data.train.labels
        while True:
            batches = iter(stage.batches(labels, self.recipe.batch_size, self.generator))
            rows = next(batches, None)
            if rows is None:
                raise RunFailed("an epoch must have a batch or more, got none")
            prefetch(rows)
            while rows is not None:
                following = next(batches, None)
                if following is not None:
                    prefetch(following)
                yield rows
                rows = following

    def _source(self, stage: Stage) -> tuple[Callable[[Tensor], Any], Callable[[Tensor], None], int]:
        """How a stage gets inputs from row numbers, what hears of them early, and the MACs already spent."""
        images, data = self.images, self.data
        if stage.cache is None:
            return lambda rows: data.batch(images, rows, self.generator)[0], images.prefetch, 0
        front = stage.cache

        def through(rows: Tensor) -> Tensors:
            with torch.no_grad(), _autocast(self.recipe, self.device):
                return front(data.batch(images, rows)[0])

        size = min(self.recipe.batch_size, len(images))
        with counted(self.net, inside=True) as work:
            first = through(torch.arange(size, device=self.device))
        per_image = sum(t[0].numel() * t.element_size() for t in tensors(first))
        if per_image * len(images) > MAX_CACHED:
            return through, images.prefetch, 0  # the counter meets it again at every step
        stored = map_tensors(first, lambda t: t.new_empty((len(images), *t.shape[1:])))
        for rows in torch.arange(len(images), device=self.device).split(size):
            for whole, part in zip(tensors(stored), tensors(through(rows)), strict=True):
                whole[rows] = part
        spent = round(work.macs * len(images) / size)
        return lambda rows: map_tensors(stored, lambda t: t[rows]), lambda rows: None, spent


def _check_loss(loss: Any) -> None:
    rule = "a stage's loss must be a tensor with one number"
    if not isinstance(loss, Tensor):
        raise RunFailed(f"{rule}, got {type(loss).__name__}")
    if loss.numel() != 1:
        raise RunFailed(f"{rule}, got one of shape {tuple(loss.shape)}: take its mean")


def training_work(net: nn.Module) -> AbstractContextManager[Count]:
    """The training MACs of everything that runs within modules of ``net``."""

    def weight(touched: Iterable[Tensor]) -> int:
        gradients = torch.is_grad_enabled() and any(t.requires_grad for t in touched)
        return GRADIENT_FACTOR if gradients else 1

    return counted(net, inside=True, weight=weight)


@contextmanager
def _roles(net: nn.Module, stage: Stage) -> Iterator[list[nn.Parameter]]:
    """Freeze what the stage does not train; give back its parameters."""
    asked = [p.requires_grad for p in net.parameters()]
    trained = list(net.modules()) if stage.trains is None else [m for t in stage.trains for m in t.modules()]
    wanted = {id(p) for m in trained for p in m.parameters(recurse=False)}
    net.eval()
    for module in trained:
        module.training = True
    for part in stage.eval_modules:
        part.eval()
    for parameter, before in zip(net.parameters(), asked, strict=True):
        parameter.requires_grad_(before and id(parameter) in wanted)
    try:
        with single_values_normalised(net):
            yield [p for p in net.parameters() if p.requires_grad]
    finally:
        for parameter, before in zip(net.parameters(), asked, strict=True):
            parameter.requires_grad_(before)
        net.eval()


def _autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=recipe.precision == "bfloat16")


def to_device(net: M, device: torch.device) -> M:
    """Move a network to its device, convolution weights channels_last: 1.1 to 1.9 x in training on CPUs."""
    net.to(device)
    return net.to(memory_format=torch.channels_last)
