"""The study file: defaults, refusals that name file, key and value, budgets and times, overrides."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from routesearch.cli.options import parse_settings
from routesearch.errors import Refusal
from routesearch.study.config import NOT_YET, StudyConfig, load_study, parse_backbone
from routesearch.utils.units import macs_of, parse_macs, parse_time
from routesearch.utils.validation import parse_yaml

LEAST = {"data": "digits", "backbone": "nin@0.25", "methods": ["static"]}


def study(tmp_path: Path, text: str | None = None, /, **changes: Any) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(LEAST | changes) if text is None else text)
    return path


def load(tmp_path: Path, text: str | None = None, /, **changes: Any) -> StudyConfig:
    return load_study(study(tmp_path, text, **changes))


def test_every_default_at_once(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.model_dump() == {
        "name": "mine",
        "data": {"name": "digits"},
        "backbone": {"name": "nin@0.25", "weights": None},
        "methods": {"static": {}},
        "budget": {"max_macs": None, "max_latency": None, "batch": 1},
        "search": {
            "trials": 40,
            "time_limit": None,
            "training_macs": None,
            "sampler": "auto",
            "stop": {"rungs": 3, "keep": 0.33},
            "warm_start": [],
            "deterministic": False,
            "seed": 0,
        },
        "training": {
            "epochs": 20,
            "trunk_epochs": 20,
            "batch_size": 128,
            "optimizer": "adamw",
            "learning_rate": 0.003,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "lr_steps": (),
            "lr_factor": 0.1,
            "clip_norm": 5.0,
            "precision": "float32",
            "distill": None,
            "label_smoothing": 0.0,
            "ema": None,
        },
        "resources": {"cpu": 1.0, "gpu": 0.0, "retries": 2, "trial_time": None},
        "storage": {"dir": None, "journal": None},
        "tracking": {"uri": None},
        "latency": {"batch": None},
        "confirm": {"seeds": 1},
        "plugins": [],
    }
    assert config.file == tmp_path / "mine.yaml"
    assert config.dir == tmp_path / ".routesearch" / "mine"


def test_a_whole_file(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
        name: my-study.2
        data: {name: arrays, path: mine.npz}
        backbone: {name: nin@0.5, weights: null}
        methods: [static, {dgate: {positions: [3, 6]}}]
        budget: {max_macs: 0.5x}
        search: {trials: 7, sampler: random, time_limit: 10m, seed: 3}
        training: {epochs: 2, learning_rate: 1e-3}
        resources: {cpu: 2, gpu: 0.5, retries: 0, trial_time: 1.5h}
        storage: {dir: ../here, journal: null}
        tracking: {uri: http://localhost:5000}
        plugins: [mine.py, sub/other.py]
        """,
    )
    assert config.data == {"name": "arrays", "path": "mine.npz"}
    assert config.methods == {"static": {}, "dgate": {"positions": [3, 6]}}
    assert (config.search.time_limit, config.training.learning_rate, config.resources.gpu) == (
        600.0,
        1e-3,
        0.5,
    )
    assert (config.resources.retries, config.resources.trial_time) == (0, 5400.0)
    assert config.dir == tmp_path.parent / "here"
    assert config.plugin_files == [tmp_path / "mine.py", tmp_path / "sub" / "other.py"]


@pytest.mark.parametrize(
    "methods", [["dgate"], {"dgate": {}}, {"dgate": None}, [{"dgate": {}}], [{"dgate": None}]]
)
def test_forms_of_methods(methods: Any, tmp_path: Path) -> None:
    assert load(tmp_path, methods=methods).methods == {"dgate": {}}


def test_an_empty_part_means_its_defaults(tmp_path: Path) -> None:
    parts = [
        "budget",
        "search",
        "training",
        "resources",
        "storage",
        "tracking",
        "latency",
        "confirm",
        "plugins",
    ]
    assert load(tmp_path, **dict.fromkeys(parts)) == load(tmp_path)


def test_a_front_is_confirmed_where_the_study_asks_for_it(tmp_path: Path) -> None:
    assert load(tmp_path).confirm.seeds == 1
    assert load(tmp_path, confirm={"seeds": 3}).confirm.seeds == 3


REFUSED = {
    # key and value as YAML -> what the line must say after the file's name
    "unheard: 1": "unknown key 'unheard'",
    "serach: {trials: 3}": "unknown key 'serach'; did you mean 'search'?",
    "search: {trails: 3}": "unknown key 'search.trails'; did you mean 'trials'?",
    "none: 1": "unknown key 'none'",
    "search: {none: 1}": "unknown key 'search.none'",
    "'a[b]': 1": "unknown key 'a[b]'",
    "1: 2": "unknown key '1'",
    "file: x": "unknown key 'file'",
    "typed: x": "unknown key 'typed'",
    "name: ../up": "name: must be letters, digits",
    "name: a/b": "name: must be letters, digits",
    "name: ''": "name: must be letters, digits",
    "name: .hidden": "name: must be letters, digits",
    "name: 3": "name: must be text, got 3",
    "search: {trials: 0}": "search.trials: must be greater than or equal to 1, got 0",
    "search: {trials: many}": "search.trials: must be an integer, got 'many'",
    "search: {trials: 1.5}": "search.trials: must be an integer, got 1.5",
    "search: {trials: true}": "search.trials: must not be true or false, got True",
    "search: {seed: -1}": "search.seed: must be greater than or equal to 0, got -1",
    "search: {seed: 9999999999}": "search.seed: must be less than 2147483648, got 9999999999",
    "search: {sampler: best}": (
        "search.sampler: must be one of auto, tpe, gp, nsga2, qmc, random, or the import path of a class"
        " such as package.module:Sampler, got 'best'"
    ),
    "search: {stop: true}": (
        "search.stop: must be false, or a mapping such as {rungs: 3, keep: 0.33}, got True"
    ),
    "search: {stop: {rungs: 9}}": "search.stop.rungs: must be less than or equal to 8, got 9",
    "search: {stop: {rungs: 1}}": "search.stop.rungs: must be greater than or equal to 2, got 1",
    "search: {stop: {keep: 1.5}}": "search.stop.keep: must be less than 1, got 1.5",
    "search: {stop: {keep: 0}}": "search.stop.keep: must be greater than 0, got 0",
    "search: {stop: soon}": "search.stop: must be",
    "search: {stop: {rungs: 4}}\ntraining: {epochs: 3}": (
        "search.stop.rungs: must fit into training.epochs = 3 with keep = 0.33: 2 at most, got 4;"
        " or stop: false"
    ),
    "search: {training_macs: many}": "search.training_macs: work must be MACs of training such as 2T, 500G",
    "search: {training_macs: 0}": "search.training_macs: work must be MACs of training such as 2T, 500G",
    "search: {training_macs: 0.4x}": "search.training_macs: work must be MACs of training such as 2T, 500G",
    "search: {time_limit: soon}": (
        "search.time_limit: a time must be more than 0, such as 90s, 10m, 1.5h or 1h30m, got 'soon'"
    ),
    "search: [trials, 3]": "search: must be a mapping with trials",
    "search: {time_limit: 0}": "search.time_limit: a time must be more than 0",
    "budget: 0.5x": "budget: must be a mapping with max_macs, got '0.5x'; did you mean {max_macs: 0.5x}?",
    "budget: 4e7": "budget: must be a mapping with max_macs, got 40000000.0; did you mean {max_macs: ",
    "budget: {max_latency: 2}": "budget.max_latency: a latency must be more than 0 with its unit, such as",
    "budget: {max_latency: 0ms}": "budget.max_latency: a latency must be more than 0",
    "budget: {max_latency: 2m}": "budget.max_latency: a latency must be more than 0",
    "budget: {max_latency: -2ms}": "budget.max_latency: a latency must be more than 0",
    "budget: {max_latency: [2ms]}": "budget.max_latency: a latency must be more than 0",
    "budget: {batch: 0}": "budget.batch: must be greater than or equal to 1, got 0",
    "latency: {batch: [1, 0]}": "latency.batch.1: must be greater than or equal to 1, got 0",
    "latency: {batch: []}": "latency.batch: must not be empty, got []",
    "latency: {batch: many}": "latency.batch: must be",
    "latency: {batch: [99999]}": "latency.batch.0: must be less than or equal to 65536, got 99999",
    "latency: [1]": "latency: must be a mapping with batch, got [1]",
    "budget: little": "budget: must be a mapping with max_macs, max_latency, batch, got 'little'",
    "budget: [0.5x]": "budget: must be a mapping with max_macs, max_latency, batch, got ['0.5x']",
    "budget: {max_macs: -1}": "budget.max_macs: a budget must be MACs such as 40M",
    "budget: {max_macs: 0}": "budget.max_macs: a budget must be more than 0",
    "budget: {max_macs: 1e999}": "budget.max_macs: a budget must be",
    "budget: {max_macs: .inf}": "budget.max_macs: a budget must be MACs",
    "budget: {max_macs: .nan}": "budget.max_macs: a budget must be MACs",
    "budget: {max_macs: lots}": "budget.max_macs: a budget must be MACs such as 40M",
    "budget: {max_macs: 1e999x}": "budget.max_macs: a budget must be more than 0 and finite",
    "training: {epochs: 0}": "training.epochs: must be greater than or equal to 1, got 0",
    "training: {learning_rate: .inf}": "training.learning_rate: must be a finite number, got inf",
    "training: {learning_rate: .nan}": "training.learning_rate: must be a finite number, got nan",
    "training: {optimizer: adam}": "training.optimizer: must be 'adamw' or 'sgd', got 'adam'",
    "training: {clip_norm: 0}": "training.clip_norm: must be greater than 0, got 0",
    "resources: {retries: -1}": "resources.retries: must be greater than or equal to 0, got -1",
    "resources: {trial_time: 0}": "resources.trial_time: a time must be more than 0",
    "resources: {cpu: 0}": "resources.cpu: must be greater than 0, got 0",
    "resources: {gpu: -1}": "resources.gpu: must be greater than or equal to 0, got -1",
    "storage: {dir: ''}": "storage.dir: must be a path, without control characters, got ''",
    'storage: {dir: "a\\0b"}': "storage.dir: must be a path",
    "tracking: {uri: 3}": "tracking.uri: must be text, got 3",
    "plugins: mine.py": "plugins: must be a list, got 'mine.py'",
    "backbone: {width: 1}": "backbone.name must be given",
    "backbone: {name: nin, widht: 1}": "unknown key 'backbone.widht'",
    "backbone: nin@": "backbone.name: a backbone must be NAME or NAME@WIDTH such as nin@0.25, got 'nin@'",
    "backbone: nin@0": "backbone.name: a backbone must be NAME or NAME@WIDTH such as nin@0.25, got 'nin@0'",
    "backbone: ../nin": "backbone.name: a backbone must be NAME or NAME@WIDTH",
    "backbone: [nin]": "backbone: must be a mapping with name, weights, got ['nin']",
    "data: {path: x.npz}": "data.name: a data set's name must be given, got None",
    "data: {name: 3}": "data.name: a data set's name must be given, got 3",
    "data: [digits]": "data: must be a mapping, got ['digits']",
    "data: null": "data: must be a mapping, got None",
    "methods: []": "methods: must not be empty, got {}",
    "methods: static": (
        "methods: must be a list such as [static], or a mapping of methods to their fields, got 'static'"
    ),
    "methods: null": "methods: must be a list such as [static], or a mapping of methods to",
    "methods: [static, static]": "methods: each method must be named once, got 'static' twice",
    "methods: [static, {static: {}}]": "methods: each method must be named once, got 'static' twice",
    "methods: [3]": "methods: a method must be a name, got 3",
    "methods: [[static]]": "methods: a method must be a name, got ['static']",
    "methods: {dgate: 3}": "methods.dgate: must be a mapping, got 3",
    "confirm: {seeds: 0}": "confirm.seeds: must be greater than or equal to 1, got 0",
    "confirm: 3": "confirm: must be a mapping with seeds, got 3",
}


@pytest.mark.parametrize("line", REFUSED)
def test_a_refusal_names_file_key_and_value(line: str, tmp_path: Path) -> None:
    key = next(iter(yaml.safe_load(line)))
    path = study(tmp_path, yaml.safe_dump({k: v for k, v in LEAST.items() if k != key}) + line + "\n")
    with pytest.raises(Refusal) as refused:
        load_study(path)
    message = str(refused.value)
    assert message.startswith(f"{path}: {REFUSED[line]}")
    assert "\n" not in message
    assert len(message) < 400 + len(str(path))


@pytest.mark.parametrize("key", ["data", "backbone", "methods"])
def test_what_must_be_given(key: str, tmp_path: Path) -> None:
    path = study(tmp_path, yaml.safe_dump({k: v for k, v in LEAST.items() if k != key}))
    with pytest.raises(Refusal, match=rf"^{path}: {key} must be given"):
        load_study(path)


@pytest.mark.parametrize("dotted", NOT_YET)
def test_keys_of_later_versions_are_refused_by_name(dotted: str, tmp_path: Path) -> None:
    first, _, second = dotted.partition(".")
    value: Any = {second: "x"} if second else {"seeds": 3}
    with pytest.raises(Refusal, match=rf"{dotted}: this version does not offer {NOT_YET[dotted]}"):
        load(tmp_path, **{first: value})
    nothing: Any = value | {second: None} if second else None
    load(tmp_path, **{first: nothing})


def test_weights_are_relative_to_the_study(tmp_path: Path) -> None:
    config = load(tmp_path, backbone={"name": "nin", "weights": "sub/nin.safetensors"})
    assert config.weights_file == tmp_path / "sub" / "nin.safetensors"
    assert load(tmp_path).weights_file is None


@pytest.mark.parametrize("weights", ["", "nin", "nin.pkl", 3, True])
def test_weights_are_files_of_known_kinds(weights: Any, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"backbone\.weights:? must ") as refused:
        load(tmp_path, backbone={"name": "nin", "weights": weights})
    assert "\n" not in str(refused.value)


# ---- YAML --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "data: digits\nbackbone: nin\ndata: arrays\n",
            ", line 3: not valid YAML: key 'data' is given twice",
        ),
        (
            "search:\n  seed: 1\n  trials: 2\n  seed: 3\n",
            ", line 4: not valid YAML: key 'seed' is given twice",
        ),
        ("data: [digits\nbackbone: nin", ", line 2: not valid YAML: "),
        (
            "data: !!python/object/apply:os.system [echo]\nbackbone: nin\n",
            ", line 1: not valid YAML: could not",
        ),
        ("data: !!python/name:os.system\nbackbone: nin\n", ", line 1: not valid YAML: could not determine"),
        ("", ": a study must be a mapping with data, backbone and methods, got None"),
        ("- data\n", ": a study must be a mapping with data, backbone and methods, got ['data']"),
        ("hello", ": a study must be a mapping with data, backbone and methods, got 'hello'"),
        ("? [1]\n: 2\n", ", line 1: not valid YAML: found unhashable key"),
        ("data: \0", ": not valid YAML: special characters are not allowed"),
        ("[" * 3000, ": not valid YAML: "),
        ("data: !!timestamp 2024-13-77\nbackbone: nin", ", line 1: not valid YAML: could not determine"),
        ("data: !!int many\nbackbone: nin", ": not valid YAML: could not convert string"),
        ("data: !!seq many\nbackbone: nin", ", line 1: not valid YAML: expected a sequence node"),
        ("data: &a [*a]\nbackbone: nin", ", line 1: not valid YAML: brackets within brackets, too deep"),
        ("a: &a {b: &b {<<: *a}}", ": not valid YAML: brackets within brackets, too deep"),
        ("a: " + "9" * 5000, ": not valid YAML: Exceeds the limit"),
        ("# " + "x" * 300_000, ": must be at most 262,144 characters"),
        (
            "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
            + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefgh")),
            ", line 5: not valid YAML: more than 10,000 values, aliases written out",
        ),
    ],
)
def test_yaml_that_is_not_safe_and_plain(text: str, message: str, tmp_path: Path) -> None:
    path = study(tmp_path, text)
    with pytest.raises(Refusal) as refused:
        load_study(path)
    assert str(refused.value).startswith(f"{path}{message}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        ("010", 10),  # YAML 1.1: 8
        ("-08", -8),  # YAML 1.1: text
        ("1_000", 1000),
        ("1_000.5", 1000.5),
        ("1__0", "1__0"),
        ("1:30", "1:30"),  # YAML 1.1: 90
        ("1:30.5", "1:30.5"),
        ("0x10", "0x10"),  # YAML 1.1: 16
        ("0b11", "0b11"),
        ("0o10", "0o10"),
        ("1e-3", 1e-3),  # YAML 1.1: text
        ("1E3", 1e3),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.5e1", -5.0),
        ("-.inf", float("-inf")),
        ("+1", 1),
        ("2026-01-01", "2026-01-01"),
        ("=", "="),
        ("1.2.3", "1.2.3"),
        ("٣", "٣"),
        ("'010'", "010"),
        ("!!str 010", "010"),
        ("yes", True),
        ("~", None),
    ],
)
def test_numbers_mean_what_they_look_like(text: str, value: Any) -> None:
    for whole in (text, f"[{text}]"):
        found = parse_yaml(whole, "here")
        found = found[0] if whole != text else found
        assert (type(found), found) == (type(value), value)


def test_a_setting_of_the_file_and_of_the_command_line_are_read_alike(tmp_path: Path) -> None:
    least = yaml.safe_dump(LEAST)
    assert load(tmp_path, least + "search: {trials: 010, time_limit: 1h30m}\n").search.trials == 10
    assert parse_settings(["search.trials=010", "a=1:30"]) == {"search.trials": 10, "a": "1:30"}
    with pytest.raises(Refusal, match=r"search\.time_limit: .*; write 1h30m or 1m30s, got '1:30'"):
        load(tmp_path, least + "search: {time_limit: 1:30}\n")
    with pytest.raises(Refusal, match=r"search\.trials: must be an integer, got '0x10'"):
        load(tmp_path, least + "search: {trials: 0x10}\n")
    with pytest.raises(Refusal, match=r"name: .* got False \(a text such as no or on needs quotes\)"):
        load(tmp_path, least + "name: no\n")


def test_a_file_without_an_end_is_not_read_to_its_end() -> None:
    with pytest.raises(Refusal, match=r"^/dev/zero: must be at most"):
        load_study("/dev/zero")


def test_a_relative_path_stays_as_it_was_typed_in_messages_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = study(tmp_path)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    relative, absolute = load_study("../mine.yaml"), load_study(path)
    assert (relative.where, absolute.where) == ("../mine.yaml", str(path))
    assert (relative.file, relative.dir) == (absolute.file, absolute.dir)
    assert relative.model_dump() == absolute.model_dump()


def test_no_code_runs(tmp_path: Path) -> None:
    path = study(tmp_path, f"data: !!python/object/apply:pathlib.Path.touch [{tmp_path / 'ran'}]\n")
    with pytest.raises(Refusal):
        load_study(path)
    assert not (tmp_path / "ran").exists()


def test_merge_keys_of_yaml_work(tmp_path: Path) -> None:
    text = "training: &short {epochs: 2, batch_size: 8}\ndata: digits\nbackbone: nin\nmethods:\n"
    text += "  static: {}\n  dgate:\n    <<: &more {gate_loss: hinge}\n    features: gap\n"
    assert load(tmp_path, text).methods["dgate"] == {"gate_loss": "hinge", "features": "gap"}


@pytest.mark.parametrize("content", [b"\xff\xfe\x00data", None])
def test_a_file_that_cannot_be_read(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Refusal, match=rf"^{path}: a study must be a readable YAML file: \w"):
        load_study(path)
    with pytest.raises(Refusal, match="a study must be a readable YAML file"):
        load_study(tmp_path)


# ---- overrides ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dotted", "value", "at"),
    [
        ("search.trials", 3, lambda c: c.search.trials),
        ("budget.max_macs", "40M", lambda c: c.budget.max_macs),
        ("data.split_seed", 4, lambda c: c.data["split_seed"]),
        ("backbone", "nin", lambda c: c.backbone.name),
        ("backbone.name", "nin", lambda c: c.backbone.name),
        ("methods.dgate.positions", [3, 6], lambda c: c.methods["dgate"]["positions"]),
        ("name", "other", lambda c: c.name),
    ],
)
def test_an_override_wins(dotted: str, value: Any, at: Any, tmp_path: Path) -> None:
    path = study(tmp_path, methods=["static", "dgate"])
    assert at(load_study(path, {dotted: value})) == value


@pytest.mark.parametrize(
    "methods", [["static", "dgate"], ["static", {"dgate": {}}], {"static": None, "dgate": None}]
)
def test_a_list_of_methods_becomes_a_mapping_first(methods: Any, tmp_path: Path) -> None:
    config = load_study(study(tmp_path, methods=methods), {"methods.dgate.features": "gap"})
    assert config.methods == {"static": {}, "dgate": {"features": "gap"}}


@pytest.mark.parametrize(
    ("dotted", "message"),
    [
        ("search..trials", "a key must be a dotted path such as search.trials"),
        ("", "a key must be a dotted path"),
        ("name.first", "name is 'mine', which has no keys"),
        ("plugins.0", "plugins is ['a.py'], which has no keys"),
        ("search.trails", "unknown key 'search.trails'"),
        ("unheard", "unknown key 'unheard'"),
    ],
)
def test_an_override_of_nothing_is_refused(dotted: str, message: str, tmp_path: Path) -> None:
    path = study(tmp_path, name="mine", plugins=["a.py"])
    with pytest.raises(Refusal) as refused:
        load_study(path, {dotted: 1})
    assert message in str(refused.value)


# ---- budgets, times, backbones -----------------------------------------------------------------------

UNITS = {"": 1, "k": 10**3, "K": 10**3, "m": 10**6, "M": 10**6, "G": 10**9, "T": 10**12}


@given(st.decimals("1", "99999", places=3), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " "]))
def test_budgets_in_macs(number: Any, unit: str, gap: str) -> None:
    text = parse_macs(f"{number}{gap}{unit}")
    assert macs_of(text, 123.0) == pytest.approx(float(number) * UNITS[unit])
    assert parse_macs(text) == text, "what it returns it also reads"


@given(st.decimals("0.001", "10", places=3), st.sampled_from("xX"), st.floats(1, 1e12))
def test_budgets_as_a_fraction_of_the_backbone(number: Any, unit: str, backbone_macs: float) -> None:
    assert macs_of(parse_macs(f"{number}{unit}"), backbone_macs) == pytest.approx(
        float(number) * backbone_macs
    )


@given(st.integers(1, 10**15) | st.floats(1, 1e15))
def test_budgets_as_numbers(number: float) -> None:
    assert macs_of(parse_macs(number), 1.0) == pytest.approx(number)


@given(st.text(max_size=8))
def test_any_text_is_a_finite_number_or_an_error(text: str) -> None:
    with suppress(ValueError):
        assert 0 < macs_of(parse_macs(text), 1.0) < float("inf")
    with suppress(ValueError):
        assert 0 < (parse_time(text) or 0.0) < float("inf")


@pytest.mark.parametrize(
    "bad", ["", "x", "M", "-3M", "3MM", "4 x x", "0.4y", "1,000", "nan", "inf", True, [], None]
)
def test_what_is_no_budget(bad: Any) -> None:
    with pytest.raises(ValueError, match="a budget must be"):
        parse_macs(bad)


TIMES = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@given(st.decimals("0.01", "9999", places=2), st.sampled_from(sorted(TIMES)), st.sampled_from(["", " "]))
def test_times(number: Any, unit: str, gap: str) -> None:
    assert parse_time(f"{number}{gap}{unit}") == pytest.approx(float(number) * TIMES[unit])


@pytest.mark.parametrize(
    ("value", "seconds"), [(None, None), (90, 90.0), (1.5, 1.5), ("1.5h", 5400.0), ("2D", 172800.0)]
)
def test_times_as_they_are_written(value: Any, seconds: float | None) -> None:
    assert parse_time(value) == seconds


@pytest.mark.parametrize("bad", ["", "m", "0", "0s", "-5m", "5 fortnights", "1h30", True, 0, []])
def test_what_is_no_time(bad: Any) -> None:
    with pytest.raises(ValueError, match="a time must be more than 0, such as 90s"):
        parse_time(bad)


@pytest.mark.parametrize(
    ("text", "name", "width"),
    [
        ("nin", "nin", 1.0),
        ("nin@0.25", "nin", 0.25),
        ("wrn28_10@.5", "wrn28_10", 0.5),
        ("my-net.v2@2", "my-net.v2", 2.0),
    ],
)
def test_backbone_names(text: str, name: str, width: float) -> None:
    assert parse_backbone(text) == (name, width)


@pytest.mark.parametrize(
    "bad", ["", "@", "nin@", "nin@x", "nin@-1", "nin@0", "nin@0.0", "a b", "a/b", "nin@1@2", "nin\n"]
)
def test_what_is_no_backbone_name(bad: str) -> None:
    with pytest.raises(Refusal, match="a backbone must be NAME or NAME@WIDTH"):
        parse_backbone(bad)


@pytest.mark.parametrize(
    ("text", "seconds"), [("500us", 5e-4), ("2ms", 0.002), ("0.1s", 0.1), ("1.5 ms", 0.0015), ("2MS", 0.002)]
)
def test_latencies(text: str, seconds: float, tmp_path: Path) -> None:
    config = load(tmp_path, budget={"max_latency": text, "batch": 8})
    assert config.budget.max_latency == pytest.approx(seconds)
    assert config.budget.batch == 8


def test_batches_to_time_are_told_once_in_order(tmp_path: Path) -> None:
    assert load(tmp_path, latency={"batch": [64, 1, 64]}).latency.batch == (1, 64)
    assert load(tmp_path, latency={"batch": 8}).latency.batch == (8,)
    assert load(tmp_path, latency={"batch": None}).latency.batch is None
