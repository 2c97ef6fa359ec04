"""The training loop: who learns in which mode, how long, from what, and what it costs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, islice
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from routesearch.backbones.base import Backbone
from routesearch.data.augment import Augment
from routesearch.data.base import Data
from routesearch.errors import RunFailed, described
from routesearch.methods.base import Batch, Stage
from routesearch.methods.schedules import cosine, shuffled
from routesearch.methods.static import Static
from routesearch.routing.cost import mult_adds
from routesearch.study.recipe import Recipe
from routesearch.training import loop as fit_module
from routesearch.training.loop import Fitted, fit, fit_to_rungs, training_work
from routesearch.training.state_arrays import states

CPU = torch.device("cpu")
RECIPE = Recipe(batch_size=16, weight_decay=0.0)
STEPS = 6
"""Steps of one epoch: 96 images in batches of 16."""


class Net(nn.Module):
    """A stem with batch norm and dropout, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1), nn.Flatten()
        )
        self.head = nn.Linear(256, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stem(images))
        return logits

    def loss(self, batch: Batch) -> Tensor:
        return F.cross_entropy(self(batch.inputs), batch.labels)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def train(net: Net, data: Data) -> Callable[..., Fitted]:
    def run(*stages: Stage, epochs: int = 1, seed: int = 0, recipe: Recipe = RECIPE, **more: Any) -> Fitted:
        return fit(net, stages, more.pop("data", data), recipe, epochs=epochs, seed=seed, device=CPU, **more)

    return run


def frozen(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def changed(net: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}


BUFFERS = {"stem.1.running_mean", "stem.1.running_var", "stem.1.num_batches_tracked"}
STEM = {f"stem.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")} - {"stem.0.bias"}
"""Parameters but the bias before the norm, whose gradient is rounding."""
HEAD = {"head.weight", "head.bias"}


# ---- it learns ---------------------------------------------------------------------------------------


def test_the_toy_images_are_learnt(net: Net, train: Callable[..., Fitted], data: Data) -> None:
    train(Stage(net.loss), epochs=8)
    net.eval()
    with torch.no_grad():
        right = net(data.inputs(data.validation.pixels)).argmax(1).eq(data.validation.labels).double().mean()
    assert float(right) > 0.8


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_recipes_lower_the_loss(
    net: Net, train: Callable[..., Fitted], optimizer: str, precision: str
) -> None:
    recipe = RECIPE.model_copy(update={"optimizer": optimizer, "precision": precision, "learning_rate": 0.01})
    losses: list[float] = []
    kinds: set[torch.dtype] = set()

    def loss(batch: Batch) -> Tensor:
        logits = net(batch.inputs)
        kinds.add(logits.dtype)
        found = F.cross_entropy(logits, batch.labels)
        losses.append(float(found.detach()))
        return found

    before = frozen(net)
    train(Stage(loss), epochs=4, recipe=recipe)
    assert sum(losses[-STEPS:]) < 0.7 * sum(losses[:STEPS])
    assert kinds == {torch.bfloat16 if precision == "bfloat16" else torch.float32}
    assert changed(net, before) >= STEM | HEAD
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_the_same_seed_gives_the_same_weights(data: Data) -> None:
    augmented = Data(**{**vars(data), "augment": Augment(crop=1, flip=True)})

    def weights(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(1)
        net = Net()
        torch.manual_seed(seed + 100)  # what was drawn before must not matter
        torch.rand(seed + 1)
        fit(net, [Stage(net.loss)], augmented, RECIPE, epochs=2, seed=seed, device=CPU)
        return frozen(net)

    one, again, other = weights(5), weights(5), weights(6)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_what_a_loss_is_given(net: Net, train: Callable[..., Fitted], make_data: Callable[..., Data]) -> None:
    seen: list[Batch] = []

    def loss(batch: Batch) -> Tensor:
        seen.append(batch)
        return net(batch.inputs[:, :1]).square().mean()

    colour = make_data(channels=3)
    train(Stage(loss), epochs=2, data=colour)
    assert len(seen) == 2 * STEPS
    assert [b.progress for b in seen] == [i / (2 * STEPS) for i in range(2 * STEPS)]
    for batch in seen:
        assert batch.inputs.shape == (16, 3, 8, 8)
        assert batch.inputs.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.dtype == torch.int64
    images = {tuple(image.flatten().tolist()) for b in seen[:STEPS] for image in b.inputs}
    assert images == {tuple(i.flatten().tolist()) for i in colour.inputs(colour.train.pixels)}


# ---- stages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shares", "epochs", "steps"),
    [
        ((1.0,), 3, [18]),
        ((1.0, 3.0), 4, [6, 18]),
        ((0.5, 0.5), 3, [9, 9]),
        ((1, 1, 1, 1, 1), 4, [5, 5, 4, 5, 5]),
    ],
)
def test_stages_share_the_epochs(
    net: Net, train: Callable[..., Fitted], shares: tuple[float, ...], epochs: int, steps: list[int]
) -> None:
    ran = [0] * len(shares)
    told: list[int] = []

    def stage(i: int) -> Stage:
        def loss(batch: Batch) -> Tensor:
            assert batch.progress == ran[i] / steps[i], "progress of its own"
            ran[i] += 1
            return net.loss(batch)

        return Stage(loss, share=shares[i])

    fitted = train(*map(stage, range(len(shares))), epochs=epochs, on_epoch=told.append)
    assert (ran, fitted.steps) == (steps, sum(steps))
    assert told == list(range(1, epochs + 1))


def test_everything_is_trained_unless_a_stage_says_otherwise(net: Net, train: Callable[..., Fitted]) -> None:
    modes: list[bool] = []

    def loss(batch: Batch) -> Tensor:
        modes.extend(m.training for m in net.modules())
        return net.loss(batch)

    before = frozen(net)
    train(Stage(loss))
    assert all(modes)
    assert changed(net, before) >= STEM | HEAD | BUFFERS


def test_what_is_not_trained_stays_as_it_is(net: Net, train: Callable[..., Fitted]) -> None:
    """A frozen trunk: neither its weights nor its norms' statistics move, its dropout is off."""
    modes: set[tuple[bool, ...]] = set()

    def loss(batch: Batch) -> Tensor:
        modes.add((net.stem.training, net.stem[1].training, net.stem[3].training, net.head.training))
        assert [p.requires_grad for p in net.stem.parameters()] == [False] * 4
        return net.loss(batch)

    before = frozen(net)
    train(Stage(loss, trains=[net.head]), epochs=2)
    assert modes == {(False, False, False, True)}
    assert changed(net, before) == HEAD


def test_what_is_still_learns_in_eval_mode(net: Net, train: Callable[..., Fitted]) -> None:
    before = frozen(net)
    train(Stage(net.loss, eval_modules=[net.stem]))
    assert changed(net, before) - {"stem.0.bias"} == STEM | HEAD


def test_flags_and_modes_are_put_back(net: Net, train: Callable[..., Fitted]) -> None:
    net.head.bias.requires_grad_(False)
    before = frozen(net)
    train(Stage(net.loss, trains=[net.head]))
    assert changed(net, before) == {"head.weight"}, "what its author froze is not trained"
    assert {n for n, p in net.named_parameters() if not p.requires_grad} == {"head.bias"}
    assert not any(m.training for m in net.modules())


def test_flags_are_put_back_after_a_failure(net: Net, train: Callable[..., Fitted]) -> None:
    def loss(batch: Batch) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(Stage(loss, trains=[net.head]))
    assert all(p.requires_grad for p in net.parameters())


def test_a_stage_may_bring_its_optimizer_and_schedule(net: Net, train: Callable[..., Fitted]) -> None:
    made: list[torch.optim.SGD] = []
    rates: list[float] = []

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        made.append(torch.optim.SGD(parameters, lr=0.5))
        return made[0]

    def loss(batch: Batch) -> Tensor:
        rates.append(made[0].param_groups[0]["lr"])
        return net.loss(batch)

    train(Stage(loss, optimizer=optimizer, schedule=lambda progress: 1 - progress))
    assert rates == pytest.approx([0.5 * (1 - i / STEPS) for i in range(STEPS)])


def test_without_a_rate_nothing_moves(net: Net, train: Callable[..., Fitted]) -> None:
    before = frozen(net)
    train(Stage(net.loss, schedule=lambda progress: 0.0))
    assert changed(net, before) == BUFFERS


def test_the_studys_schedule_holds_where_a_stage_brings_none(net: Net, data: Data) -> None:
    rates: list[float] = []

    def watched(parameters: Any) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(parameters, lr=0.5)
        optimizer.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
        return optimizer

    recipe = Recipe(batch_size=16, lr_steps=(0.5, 0.75), lr_factor=0.2)
    fit(net, [Stage(net.loss, optimizer=watched)], data, recipe, epochs=2, seed=0, device=CPU)
    count = len(rates)
    assert count % 4 == 0
    assert rates == pytest.approx([0.5] * (count // 2) + [0.1] * (count // 4) + [0.02] * (count // 4))


def test_the_usual_schedule_rises_and_falls() -> None:
    assert 0 < cosine(0.0) < 0.2
    assert cosine(0.05) == pytest.approx(1.0)
    assert cosine(0.0499) == pytest.approx(1.0, abs=0.01)
    assert cosine(0.525) == pytest.approx(0.5)
    assert cosine(1.0) == pytest.approx(0.0)


def test_gradients_can_be_scaled_before_the_step(net: Net, train: Callable[..., Fitted]) -> None:
    calls: list[bool] = []

    def silence() -> None:
        calls.append(bool(net.head.weight.grad.abs().sum() > 0))  # type: ignore[union-attr]
        net.head.weight.grad.zero_()  # type: ignore[union-attr]

    before = frozen(net)
    train(Stage(net.loss, after_backward=silence))
    assert calls == [True] * STEPS
    assert changed(net, before) >= (STEM | HEAD) - {"head.weight"}
    assert torch.equal(net.head.weight, before["head.weight"])


def test_batches_of_a_stage_are_its_own(net: Net, train: Callable[..., Fitted], data: Data) -> None:
    seen: list[list[int]] = []

    def one_class(labels: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        assert torch.equal(labels, data.train.labels)
        yield torch.nonzero(labels == 1).squeeze(1)[:size]

    def loss(batch: Batch) -> Tensor:
        seen.append(batch.labels.tolist())
        return net.loss(batch)

    train(Stage(loss, batches=one_class))
    assert seen == [[1] * 16] * STEPS


def test_batches_that_never_come_end_the_training(net: Net, train: Callable[..., Fitted]) -> None:
    with pytest.raises(RunFailed, match="an epoch must have a batch or more, got none"):
        train(Stage(net.loss, batches=lambda labels, size, generator: iter([])))


@pytest.mark.parametrize(("count", "size", "batches"), [(10, 3, 3), (9, 3, 3), (2, 5, 1), (1, 1, 1)])
def test_shuffled_batches_are_whole_and_without_repeats(count: int, size: int, batches: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [r.tolist() for r in shuffled(torch.zeros(count), size, generator)]
    assert [len(r) for r in rows] == [min(size, count)] * batches
    flat = [i for r in rows for i in r]
    assert len(set(flat)) == len(flat)


def test_the_last_images_get_their_turn() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = {int(i) for _ in range(20) for r in shuffled(torch.zeros(10), 3, generator) for i in r}
    assert seen == set(range(10))


# ---- limits ------------------------------------------------------------------------------------------


def test_the_recipe_clips_and_leaves_a_stages_own_optimizer_alone(
    net: Net, train: Callable[..., Fitted]
) -> None:
    norms: list[float] = []

    class Watching(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            norms.append(norm())

    def norm() -> float:
        return float(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]).norm())

    def loud(batch: Batch) -> Tensor:
        return 1e4 * net.loss(batch)

    recipe = RECIPE.model_copy(update={"clip_norm": 2.0})
    train(Stage(loud), recipe=recipe)
    assert norm() == pytest.approx(2.0, rel=1e-3), "of the last step"
    train(Stage(loud, optimizer=lambda parameters: Watching(parameters, lr=0.1)), recipe=recipe)
    assert min(norms) > 20


def test_no_limit_on_gradients(net: Net, train: Callable[..., Fitted]) -> None:
    train(Stage(lambda batch: 1e4 * net.loss(batch)), recipe=RECIPE.model_copy(update={"clip_norm": None}))
    assert float(net.head.weight.grad.norm()) > 20  # type: ignore[union-attr]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_fails_the_run(net: Net, train: Callable[..., Fitted], bad: float) -> None:
    """Also when only one step was bad and the last one looks well."""
    factors = cycle([1.0, 1.0, bad, 1.0, 1.0, 1.0])

    def loss(batch: Batch) -> Tensor:
        net.head.weight.data.nan_to_num_()
        return (net.loss(batch).detach().nan_to_num() + 1) * next(factors) + 0 * net.head.bias.sum()

    with pytest.raises(RunFailed, match=r"^the loss must stay finite, got NaN or infinity in epoch 1$"):
        train(Stage(loss), epochs=2)


def test_an_error_names_its_stage(net: Net, train: Callable[..., Fitted]) -> None:
    with pytest.raises(RunFailed) as caught:
        train(Stage(net.loss), Stage(lambda batch: net.loss(batch) * float("nan")), epochs=2)
    assert described(caught.value).endswith("got NaN or infinity in epoch 2, in stage 2 of 2")


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (
            lambda net, batch: net(batch.inputs),
            r".* one number, got one of shape \(16, 3\)",
        ),
        (lambda net, batch: 0.5, "must be a tensor with one number, got float"),
        (lambda net, batch: None, "must be a tensor with one number, got NoneType"),
        (lambda net, batch: net.loss(batch).detach(), "must depend on parameters that the stage trains"),
    ],
)
def test_a_loss_is_one_number_with_a_gradient(
    net: Net, train: Callable[..., Fitted], loss: Callable[..., Any], told: str
) -> None:
    with pytest.raises(RunFailed, match=f"^a stage's loss {told}"):
        train(Stage(lambda batch: loss(net, batch)))


@pytest.mark.parametrize(
    ("stages", "got"), [(Stage(len), r"Stage\("), ([len], r"\[<built-in"), (None, "None")]
)
def test_stages_are_a_list_of_stages(net: Net, data: Data, stages: Any, got: str) -> None:
    with pytest.raises(RunFailed, match=rf"^stages must give a list of Stage, got {got}"):
        fit(net, stages, data, RECIPE, epochs=1, seed=0, device=CPU)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_part_that_was_idle_at_first_learns_later(
    net: Net, train: Callable[..., Fitted], optimizer: str
) -> None:
    """Its parameters get their first gradient when others have had some."""
    left = iter(range(STEPS))
    after: list[dict[str, Tensor]] = []

    def loss(batch: Batch) -> Tensor:
        x = net.stem(batch.inputs)
        return F.cross_entropy(net.head(x if next(left) >= 2 else x.detach()), batch.labels)

    before = frozen(net)
    recipe = RECIPE.model_copy(update={"optimizer": optimizer})
    train(Stage(loss, after_step=lambda: after.append(frozen(net))), recipe=recipe)
    assert len(after) == STEPS
    assert all(torch.equal(step[name], before[name]) for step in after[:2] for name in STEM)
    assert changed(net, before) >= STEM | HEAD


def test_a_batch_that_meets_nothing_trained_is_passed_by(net: Net, train: Callable[..., Fitted]) -> None:
    met, heard = iter([False, True, False, True, True, False]), list[str]()

    def loss(batch: Batch) -> Tensor:
        found = net.loss(batch)
        return found if next(met) else found.detach()

    hooks = {"after_backward": lambda: heard.append("b"), "after_step": lambda: heard.append("s")}
    before = frozen(net)
    assert train(Stage(loss, **hooks)).steps == STEPS
    assert heard == ["b", "s"] * 3
    assert changed(net, before) >= STEM | HEAD


def test_a_loss_that_meets_nothing_in_its_first_epoch_fails_then(
    net: Net, train: Callable[..., Fitted]
) -> None:
    calls: list[None] = []

    def loss(batch: Batch) -> Tensor:
        calls.append(None)
        return net.loss(batch).detach()

    with pytest.raises(RunFailed, match="must depend on parameters that the stage trains"):
        train(Stage(loss), epochs=5)
    assert len(calls) == STEPS


def test_a_stage_that_begins_within_an_epoch_has_an_epoch_to_meet_something(
    net: Net, train: Callable[..., Fitted]
) -> None:
    """Its first step is the epoch's last one, and meets nothing; the second does."""
    met = iter([False, True])

    def loss(batch: Batch) -> Tensor:
        found = net.loss(batch)
        return found if next(met, True) else found.detach()

    before = frozen(net)
    train(Stage(net.loss, share=STEPS - 1), Stage(loss, share=STEPS + 1), epochs=2)
    assert changed(net, before) >= STEM | HEAD


def test_a_last_batch_of_one_image_trains(data: Data) -> None:
    """Norms on maps of one pixel have a single value a channel then."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    net = nn.Sequential(nn.Conv2d(1, 4, 8), norm, nn.Flatten(), nn.Linear(4, 3))
    rows = [torch.arange(12), torch.tensor([12])]
    seen: list[tuple[int, bool, Tensor]] = []

    def loss(batch: Batch) -> Tensor:
        found = F.cross_entropy(net(batch.inputs), batch.labels)
        seen.append((len(batch.labels), norm.training, norm.running_mean.clone()))  # type: ignore[union-attr]
        return found

    stage = Stage(loss, batches=lambda labels, size, generator: iter(rows))
    assert fit(net, [stage], data, RECIPE, epochs=1, seed=0, device=CPU).steps == STEPS
    assert [count for count, _, _ in seen] == [12, 1] * 3
    assert all(training for _, training, _ in seen)
    for (_, _, twelve), (_, _, one) in zip(seen[::2], seen[1::2], strict=True):
        assert torch.equal(twelve, one), "a single value is no statistics"


def test_a_stage_hears_of_each_step(net: Net, train: Callable[..., Fitted]) -> None:
    """Weights that are clipped after the step are never larger, whatever the optimizer did."""
    largest: list[float] = []

    def clip() -> None:
        net.head.weight.data.clamp_(-0.01, 0.01)

    def loss(batch: Batch) -> Tensor:
        largest.append(float(net.head.weight.detach().abs().max()))
        return net.loss(batch)

    train(Stage(loss, after_step=clip), epochs=2)
    assert len(largest) == 2 * STEPS
    assert max(largest[1:]) <= 0.01 < largest[0]


class Collects(Static):
    """Remembers what it is given when training has ended."""

    def __init__(self, config: Any, backbone: Backbone, trunk: Any = None) -> None:
        super().__init__(config, backbone, trunk)
        self.given: list[Batch] = []
        self.modes: set[bool] = set()

    def after_training(self, batches: Iterable[Batch]) -> None:
        self.given += list(batches)
        self.modes |= {self.training, torch.is_grad_enabled()}
        self.plain(self.given[0].inputs)


def test_a_method_sees_the_training_images_when_training_has_ended(pocket: Backbone, data: Data) -> None:
    def trained(kind: type[Static]) -> tuple[Any, Fitted]:
        net = kind(kind.Config(), pocket)
        return net, fit(net, net.stages(), data, RECIPE, epochs=1, seed=0, device=CPU)

    net, fitted = trained(Collects)
    inputs = torch.cat([batch.inputs for batch in net.given])
    assert torch.equal(inputs, data.inputs(data.train.pixels))
    assert torch.equal(torch.cat([batch.labels for batch in net.given]), data.train.labels)
    assert net.modes == {False}
    _, before = trained(Static)
    first = len(net.given[0].labels)
    assert fitted.macs == before.macs + first * mult_adds(net.plain, inputs), "what runs there is paid for"


# ---- the cache ---------------------------------------------------------------------------------------


def test_a_cached_front_sees_each_image_once_and_unchanged(
    net: Net, train: Callable[..., Fitted], data: Data
) -> None:
    seen: list[Tensor] = []
    given: list[Tensor] = []

    def front(images: Tensor) -> dict[str, Any] | list[Tensor]:
        assert not torch.is_grad_enabled()
        seen.append(images)
        return [net.stem(images), images.mean((2, 3))]

    def loss(batch: Batch) -> Tensor:
        features, means = batch.inputs
        given.append(means)
        return F.cross_entropy(net.head(features), batch.labels)

    augmented = Data(**{**vars(data), "augment": Augment(crop=2, flip=True)})
    before = frozen(net)
    train(Stage(loss, trains=[net.head], cache=front), epochs=4, data=augmented)
    assert sum(map(len, seen)) <= 96 + 16, "once for each image, and one batch to learn the shapes"
    expected = data.inputs(data.train.pixels).mean((2, 3)).flatten().tolist()
    for epoch in range(4):
        means = torch.cat(given[epoch * STEPS : (epoch + 1) * STEPS]).flatten().tolist()
        assert sorted(means) == pytest.approx(sorted(expected))
    assert changed(net, before) == HEAD


def test_a_cache_too_large_is_computed_batch_by_batch(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    def weights() -> tuple[Tensor, int]:
        torch.manual_seed(0)
        net = Net()

        def loss(batch: Batch) -> Tensor:
            return F.cross_entropy(net.head(batch.inputs), batch.labels)

        stage = Stage(loss, trains=[net.head], cache=net.stem)
        return net.head.weight, fit(net, [stage], data, RECIPE, epochs=3, seed=0, device=CPU).macs

    stored, once = weights()
    monkeypatch.setattr(fit_module, "MAX_CACHED", 100)
    computed, often = weights()
    torch.testing.assert_close(stored, computed)
    assert often - once == 2 * 96 * STEM_MACS, "three epochs through the stem instead of one"


# ---- the bill ----------------------------------------------------------------------------------------

STEM_MACS = (9 + 1) * 4 * 64 + 8
HEAD_MACS = 257 * 3


def test_prices_of_the_parts(net: Net) -> None:
    assert mult_adds(net, torch.zeros(1, 1, 8, 8)) == STEM_MACS + HEAD_MACS


def test_training_costs_three_times_where_gradients_flow(net: Net, train: Callable[..., Fitted]) -> None:
    assert train(Stage(net.loss), epochs=2).macs == 2 * 96 * 3 * (STEM_MACS + HEAD_MACS)


def test_frozen_parts_before_what_learns_cost_once(net: Net, train: Callable[..., Fitted]) -> None:
    assert train(Stage(net.loss, trains=[net.head])).macs == 96 * (STEM_MACS + 3 * HEAD_MACS)


def test_frozen_parts_behind_what_learns_are_passed_by_gradients(
    net: Net, train: Callable[..., Fitted]
) -> None:
    assert train(Stage(net.loss, trains=[net.stem])).macs == 96 * 3 * (STEM_MACS + HEAD_MACS)


def test_a_cached_front_costs_once_per_image(net: Net, train: Callable[..., Fitted]) -> None:
    def loss(batch: Batch) -> Tensor:
        return F.cross_entropy(net.head(batch.inputs), batch.labels)

    fitted = train(Stage(loss, trains=[net.head], cache=net.stem), epochs=5)
    assert fitted.macs == 96 * STEM_MACS + 5 * 96 * 3 * HEAD_MACS


def test_only_the_images_that_ran_are_training_work(net: Net, train: Callable[..., Fitted]) -> None:
    def loss(batch: Batch) -> Tensor:
        return F.cross_entropy(net(batch.inputs[:4]), batch.labels[:4])

    assert train(Stage(loss)).macs == STEPS * 4 * 3 * (STEM_MACS + HEAD_MACS)


def test_batches_of_other_sizes_are_billed_by_their_images(net: Net, train: Callable[..., Fitted]) -> None:
    def uneven(labels: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        yield from islice(torch.arange(96).split([32, 8, 8, 8, 8, 32]), STEPS)

    assert train(Stage(net.loss, batches=uneven), epochs=2).macs == 2 * 96 * 3 * (STEM_MACS + HEAD_MACS)


class Scaled(nn.Module):
    """A module with a parameter of its own and a child; torchinfo counts the child alone."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.inner = nn.Linear(64, 3)

    def forward(self, x: Tensor, *, twice: bool = False) -> Tensor:
        y: Tensor = self.inner(x) * self.scale
        return y * 2 if twice else y


class Keyword(nn.Module):
    """A layer that is called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(input=x)
        return logits


class Recurrent(nn.Module):
    """A layer whose state has its images in the middle: batch_first says nothing about h and c."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LSTM(8, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        zero = x.new_zeros(1, len(x), 3)
        last: Tensor = self.inner(x.view(-1, 8, 8), (zero, zero))[0][:, -1]
        return last


@pytest.mark.parametrize("kind", [Scaled, Keyword, Recurrent])
def test_the_bill_is_torchinfos_for_any_module(kind: type[nn.Module]) -> None:
    net, x = kind(), torch.rand(5, 64)
    whole = mult_adds(net, x)
    assert whole > 0
    with training_work(net) as bill:
        net(x).sum().backward()
    assert bill.macs == 5 * 3 * whole
    with training_work(net) as bill, torch.no_grad():
        net(x)
    assert bill.macs == 5 * whole


def test_counting_leaves_no_hooks(net: Net) -> None:
    with training_work(net):
        pass
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_states_are_plain_memory(net: Net) -> None:
    found = states(net.to(memory_format=torch.channels_last))
    assert found.keys() == net.state_dict().keys()
    assert all(t.is_contiguous() and not t.requires_grad for t in found.values())


def test_there_must_be_stages_with_shares(net: Net, train: Callable[..., Fitted]) -> None:
    for stages, got in (([], r"\[\]"), ([Stage(net.loss), Stage(net.loss, share=0.0)], r"\[1.0, 0.0\]")):
        with pytest.raises(RunFailed, match=rf"a stage or more, each with a share over 0, got shares {got}"):
            train(*stages)


def test_a_stage_may_ask_for_a_part_of_the_rate(net: Net, train: Callable[..., Fitted]) -> None:
    rates: list[float] = []

    def watched(parameters: Any) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(parameters, lr=0.5)
        optimizer.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
        return optimizer

    train(Stage(net.loss, optimizer=watched, rate=0.2, schedule=lambda progress: 1.0))
    assert rates == pytest.approx([0.1] * STEPS)


@pytest.mark.parametrize(("rungs", "waits"), [((), []), ((2,), [2]), ((1, 2, 3), [1, 2]), ((9,), [])])
def test_looking_at_a_network_at_its_rungs_changes_nothing(
    data: Data, rungs: tuple[int, ...], waits: list[int]
) -> None:
    """Whatever is done to it meanwhile: random draws, another mode, other weights and statistics."""

    def trained(**more: Any) -> tuple[Net, list[Fitted]]:
        torch.manual_seed(0)
        net, found = Net(), []
        stages = [Stage(net.loss), Stage(net.loss, trains=[net.head])]
        for fitted in fit_to_rungs(net, stages, data, RECIPE, epochs=3, seed=0, device=CPU, **more):
            found.append(fitted)
            assert not net.training
            if not fitted.done:
                torch.rand(3)
                net.train()
                net(data.batch(data.train, torch.arange(5))[0])
                with torch.no_grad():
                    net.head.weight.zero_()
        return net, found

    plain, (whole,) = trained(rungs=())
    net, found = trained(rungs=rungs)
    assert [f.steps for f in found] == [STEPS * n for n in waits] + [3 * STEPS]
    assert found[-1] == whole
    assert not changed(net, frozen(plain))


def test_what_a_method_does_after_training_is_done_and_undone_at_a_rung(pocket: Backbone, data: Data) -> None:
    class Counts(Static):
        def after_training(self, batches: Iterable[Batch]) -> None:
            self.seen = sum(len(batch.labels) for batch in batches)
            for norm in (m for m in self.modules() if isinstance(m, nn.BatchNorm2d)):
                norm.running_mean.fill_(7.0)  # type: ignore[union-attr]

    made = functools.partial(Counts, Counts.Config(), pocket)
    torch.manual_seed(0)
    net = made()
    means = []
    before = None
    for fitted in fit_to_rungs(net, net.stages(), data, RECIPE, epochs=2, seed=0, device=CPU, rungs=(1,)):
        assert net.seen == len(data.train)
        means.append([float(b.mean()) for name, b in net.named_buffers() if name.endswith("running_mean")])
        before = before or fitted
    torch.manual_seed(0)
    plain = made()
    whole = fit(plain, plain.stages(), data, RECIPE, epochs=2, seed=0, device=CPU)
    assert whole == fitted
    assert all(mean == 7.0 for each in means for mean in each)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), plain.parameters(), strict=True))
