"""A study made ready to run: names looked up, prices kept, the budget checked before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from routesearch.backbones import NiN
from routesearch.backbones.base import Backbone, reference_cost
from routesearch.data.base import Data
from routesearch.errors import CodeFailed, Refusal
from routesearch.results.budget import Budget
from routesearch.results.points import Interval
from routesearch.space.space import Space
from routesearch.study.config import load_study
from routesearch.study.recipe import Recipe
from routesearch.task import resolve as task_module
from routesearch.task.blueprint import Blueprint
from routesearch.task.resolve import CONFUSION, NETWORK, Task, resolve

MakeTask = Callable[..., Task]


def test_names_become_things(make_task: MakeTask, pocket: Backbone, data: Data, tmp_path: Path) -> None:
    task = make_task(budget={"max_macs": "0.5x"})
    assert (task.shape, len(task.classes)) == ((1, 8, 8), 3)
    assert (task.backbone.name, task.backbone.width) == ("pocket", 1.0)
    assert {name: kind.name for name, kind in task.methods.items()} == {
        "static": "static",
        "skipper": "skipper",
    }
    assert list(task.spaces) == ["static", "skipper"]
    assert task.backbone_macs == reference_cost(pocket)[1]
    assert task.budget.max_macs == task.backbone_macs / 2
    assert task.dir == tmp_path / ".routesearch" / "toy"
    assert len(task.data.train) == len(data.train)
    assert not task.needs_trunk


def test_the_reference_follows_the_width(make_task: MakeTask) -> None:
    assert make_task(backbone="pocket@0.5").backbone_macs < make_task().backbone_macs
    assert make_task(backbone="pocket@0.5").backbone.width == 0.5


def test_a_trunk_is_needed_where_a_method_says_so(make_task: MakeTask) -> None:
    task = make_task(methods=["static", "dgate"])
    assert task.needs_trunk
    assert task.starting == ("dgate",)


@pytest.mark.parametrize(
    ("start", "needed"),
    [
        ("trunk", True),
        ("scratch", False),
        ({"choices": ["scratch", "trunk"]}, True),
        ({"choices": ["scratch"]}, False),
    ],
)
def test_a_trunk_is_needed_where_a_config_may_start_from_it(
    make_task: MakeTask, start: Any, needed: bool
) -> None:
    task = make_task(methods={"static": {"start": start}, "skipper": {}})
    assert task.needs_trunk == needed
    assert list(task.trunk_files()) == ([NETWORK] if needed else [])


def test_distillation_needs_a_trunk_whatever_the_methods(make_task: MakeTask) -> None:
    taught = {"trunk_epochs": 2, "distill": {"share": 0.5}}
    task = make_task(training=taught)
    assert (task.needs_trunk, task.starting) == (True, ())
    with pytest.raises(
        Refusal,
        match=r"toy\.yaml: training\.distill: must be null where no trunk is there to learn from,"
        r" got trunk_epochs: 0 and no backbone\.weights$",
    ):
        make_task(training={**taught, "trunk_epochs": 0})


def test_who_cannot_do_without_a_part_of_the_trunk(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(methods=["static", "skipper", "dgate"])
    assert task.dependent(NETWORK) == ("dgate",)
    assert task.dependent(CONFUSION) == ()
    monkeypatch.setattr(task.methods["skipper"], "needs_confusion", True)
    assert task.dependent(CONFUSION) == ("skipper",)
    taught = make_task(methods=["static", "dgate"], training={"distill": {}})
    assert taught.dependent(NETWORK) == ("static", "dgate")


def test_known_facts_save_reading_the_data(write_study: Callable[..., Path], tmp_path: Path) -> None:
    path = write_study()
    (tmp_path / "toy.npz").unlink()
    task = resolve(load_study(path), ((1, 8, 8), ("a", "b", "c")))
    assert task.classes == ("a", "b", "c")
    with pytest.raises(Refusal, match=rf"^{path}: data"):
        _ = task.data


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no such data set": (
        {"data": "dogits"},
        "data.name: no data set 'dogits'; did you mean 'digits'? installed: arrays, cifar10, ",
    ),
    "no such setting": (
        {"data": {"name": "arrays", "path": "toy.npz", "paht": 1}},
        "unknown key 'data.paht'; did you mean 'path'?",
    ),
    "no path": ({"data": "arrays"}, "data.path must be given"),
    "a setting out of range": (
        {"data": {"name": "digits", "noise": 2}},
        "data.noise: must be less than or equal to 1, got 2",
    ),
    "a setting of the wrong kind": (
        {"data": {"name": "digits", "noise": [1]}},
        "data.noise: must be a number, got [1]",
    ),
    "a setting inside a setting": (
        {"data": {"name": "digits", "augment": {"crop": -1}}},
        "data.augment.crop: must be greater than or",
    ),
    "no file": ({"data": {"name": "arrays", "path": "gone.npz"}}, "data.path: "),
    "no such backbone": (
        {"backbone": "nun"},
        "backbone.name: no backbone 'nun'; did you mean 'nin'? installed: ",
    ),
    "too wide": ({"backbone": "pocket@99"}, "backbone.name: 0 < width <= 16 must hold for backbone pocket"),
    "no such method": (
        {"methods": ["sttic"]},
        "methods: no method 'sttic'; did you mean 'static'? installed: ",
    ),
    "no such field": (
        {"methods": {"static": {"widht": 1}}},
        "methods.static: unknown field 'widht'; fields: width_fraction, depth",
    ),
    "out of range": (
        {"methods": {"static": {"depth": 2}}},
        "methods.static: depth: 0.2 <= value <= 1.0 must hold, got 2",
    ),
    "no room for gates": (
        {"methods": {"dgate": {"positions": [4]}}},
        "methods.dgate: positions: 1 <= position <= 3 must hold, got [4]",
    ),
    "a range that is too wide": (
        {"methods": {"static": {"depth": {"low": 0.1}}}},
        "methods.static: depth: 0.2 <= value <= 1.0 must hold",
    ),
    "a range of unknown words": (
        {"methods": {"static": {"depth": {"lo": 0.3}}}},
        "methods.static: depth: a mapping must be {choices:",
    ),
    "a choice that is not offered": (
        {"methods": {"dgate": {"gate_loss": {"choices": ["x"]}}}},
        "methods.dgate: gate_loss: one of hinge, cross_entropy",
    ),
    "a training setting of a method": (
        {"methods": {"dgate": {"learning_rate": "fast"}}},
        "methods.dgate: learning_rate: ",
    ),
    "no such plugin file": ({"plugins": ["gone.py"]}, "plugins[0]: must be a Python file, got "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_names_file_key_and_value(case: str, write_study: Callable[..., Path]) -> None:
    changes, message = REFUSED[case]
    path = write_study(**changes)
    with pytest.raises(Refusal) as refused:
        resolve(load_study(path))
    assert str(refused.value).startswith(f"{path}: {message}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["data", "backbone", "methods"])
def test_a_broken_plugin_is_named_where_something_is_missing(
    key: str, write_study: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text("import not_installed_anywhere\n")
    missing: Any = ["mine"] if key == "methods" else "mine"
    plugins = ["broken.py", *load_study(write_study()).plugins]
    with pytest.raises(Refusal, match=r"'mine'.*\(not loaded: plugin '.*broken\.py': cannot be loaded"):
        resolve(load_study(write_study(**{key: missing, "plugins": plugins})))


# ---- prices ------------------------------------------------------------------------------------------


def test_bounds_are_found_once(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task()
    calls: list[Space] = []
    price = task_module.price

    def counting(method: Any, config: Space, backbone: Backbone) -> Any:
        calls.append(config)
        return price(method, config, backbone)

    monkeypatch.setattr(task_module, "price", counting)
    space = task.spaces["static"]
    config, other = space.default(), space.draw(Random(1))
    first = task.bounds("static", config)
    assert (
        task.bounds("static", space.parse(config.model_dump()))
        == first
        == Interval(*[int(task.backbone_macs)] * 2)
    )
    assert calls == [config]
    assert task.bounds("static", other) != first
    assert calls == [config, other]


def test_within_the_budget_is_by_the_cheapest_route(make_task: MakeTask) -> None:
    task = make_task(budget={"max_macs": 1000})
    assert [task.budget.admits(Interval(low, 5000)) for low in (999, 1000, 1001)] == [True, True, False]
    assert make_task().budget.admits(Interval(10**15, 10**16)), "without a budget everything is"


def test_reach_spans_what_is_drawn(make_task: MakeTask) -> None:
    task = make_task(budget={"max_macs": "0.5x"})
    reach = task.reach("static", draws=40)
    assert reach.macs is not None
    assert reach.macs.max == task.backbone_macs
    assert reach.macs.min < 0.1 * task.backbone_macs
    within = [task.bounds("static", c).min <= 0.5 * task.backbone_macs for c in draws(task, "static", 40)]
    assert reach.share == pytest.approx(sum(within) / 40)
    assert 0 < reach.share < 1


def draws(task: Task, method: str, count: int) -> list[Space]:
    rng = Random(task.config.search.seed)
    return [task.spaces[method].draw(rng) for _ in range(count)]


def test_preflight_lets_pass_what_one_method_can_meet(make_task: MakeTask) -> None:
    """Skipping saves half at most here; a narrow static network is far cheaper."""
    task = make_task(budget={"max_macs": "0.1x"})
    skipper = task.reach("skipper").macs
    assert skipper is not None
    assert not task.budget.admits(skipper)
    task.preflight()
    make_task().preflight()


def test_preflight_names_the_cheapest_found(make_task: MakeTask) -> None:
    task = make_task(budget={"max_macs": 12})
    low = min(r.macs.min for r in map(task.reach, task.spaces) if r.macs)
    assert low == task.reach("static").macs.min  # type: ignore[union-attr]
    with pytest.raises(Refusal) as refused:
        task.preflight()
    assert str(refused.value) == (
        f"{task.config.file}: budget.max_macs: some route must cost at most 12 MACs, "
        f"the cheapest found is {low:,} ({low / task.backbone_macs:.3f}x, method static)"
    )


def test_preflight_names_a_method_that_can_build_nothing(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(method: Any, config: Space, backbone: Backbone) -> Any:
        raise Refusal("gates must fit, got none")

    task = make_task(methods=["skipper"])
    monkeypatch.setattr(task_module, "price", refusing)
    with pytest.raises(
        Refusal, match=r"methods\.skipper: no config of its space can be built: gates must fit"
    ):
        task.preflight()


# ---- what must not change ----------------------------------------------------------------------------

KEYS = {"data", "backbone", "search.seed"} | {f"training.{name}" for name in Recipe().settings()}


def test_configs_that_fail_in_the_methods_own_code_are_told(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where others can be built: they are no constraint that somebody thought of."""
    task = make_task()
    real = task_module.price

    def failing(method: Any, config: Any, backbone: Backbone) -> Any:
        if config.depth > 0.5:
            raise CodeFailed("static: {} cannot be built and routed: IndexError: no such unit (mine.py:7)")
        return real(method, config, backbone)

    monkeypatch.setattr(task_module, "price", failing)
    assert 0 < task.reach("static", draws=40).share < 1
    [told] = [r.getMessage() for r in caplog.records if "own code" in r.getMessage()]
    assert "of the configs that were tried fail in its own code: static: {} cannot be built" in told
    caplog.clear()
    monkeypatch.setattr(task_module, "price", real)
    make_task().reach("static", draws=10)
    assert not caplog.records


def test_the_fingerprint_has_a_key_for_all_that_decides_numbers(make_task: MakeTask) -> None:
    found = make_task().fingerprint()
    assert found.keys() == KEYS
    assert all(isinstance(value, str) for value in found.values())
    assert make_task().fingerprint() == found


def test_settings_that_came_later_are_told_where_they_do_something(make_task: MakeTask) -> None:
    """A study begun without them goes on where they are as it was then."""
    before = make_task(training={"distill": None, "label_smoothing": 0.0, "ema": None}).fingerprint()
    assert not {f"training.{name}" for name in Recipe.former} & before.keys()
    after = make_task(training={"distill": {"share": 0.3}, "label_smoothing": 0.1, "ema": 0.9}).fingerprint()
    assert {name: after[name] for name in after.keys() - before.keys()} == {
        "training.distill": "{'share': 0.3, 'temperature': 2.0}",
        "training.label_smoothing": "0.1",
        "training.ema": "0.9",
    }


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"search": {"seed": 1}}, "search.seed"),
        ({"training": {"epochs": 3, "trunk_epochs": 2, "batch_size": 16}}, "training.epochs"),
        ({"backbone": "pocket@0.5"}, "backbone"),
        ({"data": {"name": "arrays", "path": "toy.npz", "train": 60}}, "data"),
        ({"data": {"name": "arrays", "path": "toy.npz", "augment": {"flip": True}}}, "data"),
    ],
)
def test_what_changes_the_fingerprint(changes: dict[str, Any], key: str, make_task: MakeTask) -> None:
    before, after = make_task().fingerprint(), make_task(**changes).fingerprint()
    assert {name for name in before if before[name] != after[name]} == {key}


def test_what_is_free_to_change(make_task: MakeTask) -> None:
    free = {
        "search": {"trials": 7, "time_limit": "1m"},
        "resources": {"cpu": 2},
        "methods": ["static"],
        "budget": {"max_macs": "0.3x"},
        "tracking": {"uri": "sqlite:///x"},
    }
    assert make_task(**free).fingerprint() == make_task().fingerprint()


def test_moving_the_data_is_free(make_task: MakeTask, tmp_path: Path) -> None:
    before = make_task().fingerprint()
    (tmp_path / "toy.npz").rename(tmp_path / "moved.npz")
    assert make_task(data={"name": "arrays", "path": "moved.npz"}).fingerprint() == before


def test_the_trunks_file_says_what_it_was_trained_from(make_task: MakeTask) -> None:
    def file(**changes: Any) -> Path:
        (path,) = (
            make_task(**{"backbone": "pocket@0.5", "methods": ["dgate"]} | changes).trunk_files().values()
        )
        return path

    one = file()
    assert one.parent == make_task().dir / "trunks"
    assert one.name.startswith("pocket@0.5-")
    assert one != file(search={"seed": 1})
    assert one == file(search={"trials": 3}, methods=["static", "dgate"])


def test_each_part_of_the_trunk_that_a_method_asks_for_has_a_file(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make_task().trunk_files() == {}
    task = make_task(methods=["skipper", "dgate"])
    assert (task.needs_trunk, task.needs_confusion) == (True, False)
    alone = task.trunk_files()
    assert list(alone) == [NETWORK]
    monkeypatch.setattr(task.methods["skipper"], "needs_confusion", True)
    both = task.trunk_files()
    assert both == alone | {CONFUSION: alone[NETWORK].with_suffix(".confusion.safetensors")}
    assert task.trunk_files(task.fingerprint()) == both
    monkeypatch.setattr(task.methods["dgate"], "needs_trunk", False)
    assert (task.needs_trunk, task.needs_confusion) == (False, True)
    assert task.trunk_files() == {CONFUSION: both[CONFUSION]}


# ---- pretrained weights ------------------------------------------------------------------------------


def write_weights(path: Path, backbone: Backbone) -> Mapping[str, torch.Tensor]:
    state = backbone.plain().state_dict()
    torch.save(state, path)
    return state


def test_weights_are_read_where_a_method_starts_from_the_trunk(
    make_task: MakeTask, pocket: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = write_weights(tmp_path / "w.pth", pocket)
    backbone = {"name": "pocket", "weights": "w.pth"}
    task = make_task(backbone=backbone, methods=["static", "dgate"])
    task.preflight()
    assert task.weights is not None
    assert all(torch.equal(value, state[name]) for name, value in task.weights.items())
    assert caplog.text == ""
    unused = make_task(backbone=backbone)
    unused.preflight()
    assert unused.weights is None
    assert (
        "no method here starts from the trunk, so they are not used (methods: static, skipper)" in caplog.text
    )
    assert make_task(methods=["dgate"]).weights is None


def test_weights_that_cannot_be_used_are_refused_before_a_search(
    make_task: MakeTask, tmp_path: Path, pocket: Backbone
) -> None:
    file = tmp_path / "toy.yaml"
    for methods in (["static"], ["dgate"]):
        task = make_task(backbone={"name": "pocket", "weights": "gone.pth"}, methods=methods)
        rule = f"weights must be a readable file, got {tmp_path / 'gone.pth'}: No such file"
        where = f"^{file}: backbone.weights: {rule}"
        with pytest.raises(Refusal, match=where):
            task.fingerprint()
        if methods == ["dgate"]:
            with pytest.raises(Refusal, match=where):
                task.preflight()
    write_weights(tmp_path / "w.pth", pocket)
    narrow = make_task(backbone={"name": "pocket@0.5", "weights": "w.pth"}, methods=["dgate"])
    with pytest.raises(
        Refusal, match=f"^{file}: backbone.weights: .*tensor units.0.0.weight must be 3x1x3x3 "
    ):
        narrow.preflight()


def test_weights_are_part_of_the_fingerprint_by_their_content(
    make_task: MakeTask, tmp_path: Path, pocket: Backbone
) -> None:
    def fingerprint(weights: str | None) -> dict[str, str]:
        return make_task(backbone={"name": "pocket", "weights": weights}, methods=["dgate"]).fingerprint()

    write_weights(tmp_path / "one.pth", pocket)
    one = fingerprint("one.pth")
    assert one.keys() - fingerprint(None).keys() == {"backbone.weights"}
    (tmp_path / "one.pth").rename(tmp_path / "moved.pth")
    assert fingerprint("moved.pth") == one
    write_weights(tmp_path / "moved.pth", pocket)
    other = fingerprint("moved.pth")
    assert {key for key in one if one[key] != other[key]} == {"backbone.weights"}


def test_a_trunk_without_epochs_must_come_from_weights(
    make_task: MakeTask, pocket: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, backbone = {"trunk_epochs": 0}, {"name": "pocket", "weights": "w.pth"}
    make_task(training=training)  # nobody asks for a trunk
    with pytest.raises(Refusal, match=r"trunk_epochs: must be 1 or more without backbone\.weights, got 0"):
        make_task(training=training, methods=["dgate"])
    told = r"weights, or methods start from scratch \(methods\.static\.start: scratch\), got 0"
    with pytest.raises(Refusal, match=told):
        make_task(training=training, methods={"static": {}})
    write_weights(tmp_path / "w.pth", pocket)
    task = make_task(training=training, backbone=backbone, methods=["dgate"])
    task.preflight()
    write_weights(tmp_path / "w.pth", type(pocket)(pocket.image_shape, 5))
    task = make_task(training=training, backbone=backbone, methods=["dgate"])
    with pytest.raises(Refusal, match="must be 1 or more where the class layer is to be learnt, got 0"):
        task.preflight()
    monkeypatch.setattr(task.methods["dgate"], "needs_confusion", True)
    with pytest.raises(Refusal, match="must be 1 or more for method dgate, which compares classes by"):
        make_task(training=training, backbone=backbone, methods=["dgate"])


# ---- outside of a study ------------------------------------------------------------------------------


def test_the_cost_of_nin_is_the_papers() -> None:
    found = Blueprint.of("static", "nin", "fashion_mnist", None, None, {}).cost()
    assert found == {
        "params": 957_386,
        "macs": {"min": 163_298_282, "max": 163_298_282},
        "backbone_macs": 163_298_282,
        "backbone_params": 957_386,
        "labels": "known",
    }


def test_fields_shape_and_classes_may_be_given() -> None:
    blueprint = Blueprint.of("static", "nin@0.5", None, (3, 32, 32), 10, {"width_fraction": 0.5})
    found = blueprint.cost()
    assert found["macs"]["max"] == reference_cost(NiN((3, 32, 32), 10, 0.25))[1]
    assert found["backbone_macs"] == reference_cost(NiN((3, 32, 32), 10, 0.5))[1]
    assert sum(p.numel() for p in blueprint.build().parameters()) == found["params"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("static", "nin", None, None, None, {}), "no data set is named: image shape (C,H,W) and the number"),
        (
            ("static", "nin", None, (1, 8, 8), None, {}),
            "is named: the number of classes must be given",
        ),
        (("static", "nin", "arrays", None, None, {}), "data set 'arrays' has no fixed shape and classes"),
        (("sttic", "nin", "digits", None, None, {}), "no method 'sttic'"),
        (("sttic", "nin", None, None, None, {}), "no method 'sttic'"),
        (("static", "nun", None, None, None, {}), "no backbone 'nun'"),
        (("static", "nun", "digits", None, None, {}), "no backbone 'nun'"),
        (("static", "nin@", "digits", None, None, {}), "a backbone must be NAME or NAME@WIDTH"),
        (("static", "nin", "dogits", None, None, {}), "no data set 'dogits'"),
        (
            ("static", "nin", "digits", None, None, {"depth": 3}),
            "static: depth: 0.2 <= value <= 1.0 must hold",
        ),
    ],
)
def test_what_cannot_be_priced(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(Refusal) as refused:
        Blueprint.of(*arguments)
    assert message in str(refused.value)


def test_a_law_of_the_method_keeps_its_name_once() -> None:
    with pytest.raises(Refusal) as refused:
        Blueprint.of("dgate", "nin", "digits", None, None, {"positions": [8]})
    assert str(refused.value) == "dgate: positions: 1 <= position <= 7 must hold, got [8]"


def test_code_names_every_part_of_the_study(make_task: MakeTask) -> None:
    found = make_task(methods=["static", "skipper"]).code()
    assert list(found) == ["method static", "method skipper", "backbone pocket", "data set arrays"]
    assert found["method static"] == found["data set arrays"]
    assert found["method static"].startswith("routesearch ")
    assert found["method skipper"].startswith("own_method.py ")
    assert found["backbone pocket"].startswith("own_backbone.py ")


def test_a_latency_budget_comes_and_goes_only_with_a_new_study(make_task: MakeTask) -> None:
    plain, one = make_task().fingerprint(), make_task(budget={"max_latency": "2ms"}).fingerprint()
    assert set(one) - set(plain) == {"budget.max_latency"}
    assert make_task(budget={"max_latency": "500us"}).fingerprint() == one, "its number may change"
    assert make_task(budget={"max_latency": "2ms", "batch": 8}).fingerprint() != one
    assert make_task(budget={"max_macs": "0.5x"}).fingerprint() == plain
    task = make_task(budget={"max_macs": "0.5x", "max_latency": "2ms", "batch": 8})
    assert task.budget == Budget(task.backbone_macs / 2, 0.002, 8)
    assert task.budget.admits(Interval(int(task.backbone_macs / 2), 10**9)), (
        "only MACs refuse before training"
    )
    assert not task.budget.admits(Interval(int(task.backbone_macs), 10**9))


# ---- paths -------------------------------------------------------------------------------------------


def test_a_home_and_variables_are_put_into_every_path(
    write_study: Callable[..., Path],
    fixtures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pocket: Backbone,
) -> None:
    """Those of plugins' data sets as well: one function does it for all."""
    (tmp_path / "sets.py").write_text(OWN_DATASET)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CODE", str(fixtures))
    write_weights(tmp_path / "w.pth", pocket)
    file = write_study(
        data={"name": "shelf", "box": "~/box", "other": "$CODE"},
        backbone={"name": "pocket", "weights": "~/w.pth"},
        plugins=["$CODE/own_backbone.py", "${CODE}/own_method.py", "~/sets.py"],
        storage={"dir": "~/50$$"},
        tracking={"uri": "sqlite:///$HOME/runs.db"},
    )
    task = resolve(load_study(file))
    assert dict(task.dataset)["box"] == tmp_path / "box"
    assert dict(task.dataset)["other"] == fixtures
    assert task.config.plugin_files[0] == fixtures / "own_backbone.py"
    assert (task.dir, task.config.weights_file) == (tmp_path / "50$", tmp_path / "w.pth")
    assert task.config.tracking.uri == f"sqlite:///{tmp_path}/runs.db"


OWN_DATASET = """
from pathlib import Path
from pydantic import Field
from routesearch import Dataset, hookimpl

class Shelf(Dataset):
    name = "shelf"
    shape, class_names = (1, 8, 8), ("a", "b", "c")
    whereabouts = frozenset({"box"})
    box: Path = Field(description="where")
    other: Path | None = Field(None, description="where else")

    def read(self, base):
        raise FileNotFoundError(base / self.box)

@hookimpl
def routesearch_datasets():
    return [Shelf]
"""


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"data": {"name": "arrays", "path": "$UNSET/x.npz"}}, "data.path"),
        ({"storage": {"dir": "${UNSET}/x"}}, "storage.dir"),
        ({"plugins": ["a.py", "$UNSET.py"]}, "plugins.1"),
        ({"backbone": {"name": "pocket", "weights": "$UNSET/w.pth"}}, "backbone.weights"),
        ({"tracking": {"uri": "sqlite:///$UNSET/x.db"}}, "tracking.uri"),
        ({"tracking": {"uri": "$UNSET/runs"}}, "tracking.uri"),
    ],
    ids=str,
)
def test_a_variable_that_is_not_set_is_named_with_its_key(
    changes: dict[str, Any], key: str, write_study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNSET", raising=False)
    file = write_study(**changes)
    with pytest.raises(Refusal) as refused:
        resolve(load_study(file))
    told = f"{file}: {key}: must be a path whose variables are set, and $UNSET is not"
    assert str(refused.value).startswith(told)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"plugins": ["gone.py"]},
            "plugins[0]: must be a Python file, got {0}/gone.py, which does not exist",
        ),
        ({"plugins": ["."]}, "plugins[0]: must be a Python file, got {0}, which is no file"),
        ({"data": {"name": "arrays", "path": "gone.npz"}}, "data.path: "),
        ({"data": {"name": "image_folder", "path": "gone"}}, "data.path: "),
        ({"backbone": {"name": "pocket", "weights": "gone.pth"}}, "backbone.weights: "),
    ],
    ids=str,
)
def test_what_is_not_there_any_more_is_named_with_its_key(
    changes: dict[str, Any], told: str, write_study: Callable[..., Path], tmp_path: Path
) -> None:
    file = write_study(**changes)
    with pytest.raises(Refusal) as refused:
        _ = resolve(load_study(file)).fingerprint()
    assert str(refused.value).startswith(f"{file}: {told.format(tmp_path)}")
    assert str(tmp_path) in str(refused.value).removeprefix(str(file))
