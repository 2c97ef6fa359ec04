"""Study files as accidents leave them: a valid study or one clear line, never another error, never a hang."""

from __future__ import annotations

import copy
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routesearch.errors import Refusal
from routesearch.study.config import load_study
from routesearch.task.resolve import Task, resolve

ROOT = Path(__file__).parents[2]
QUICK, MANY = 100, 300
UNSEEN = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
SECONDS = 60
"""For one study, on a busy machine; it takes a tenth of a second."""

FULL: dict[str, Any] = {
    "name": "everything",
    "data": {
        "name": "arrays",
        "path": "toy.npz",
        "split_seed": 1,
        "train": 24,
        "validation": 12,
        "test": 12,
        "augment": {"flip": True, "crop": 2},
    },
    "backbone": {"name": "pocket", "weights": None},
    "methods": {"static": {"depth": 1.0}, "skipper": {}, "dgate": {"positions": [2]}},
    "budget": {"max_macs": "0.5x", "max_latency": "20ms", "batch": 4},
    "search": {"trials": 3, "sampler": "random", "time_limit": "10m", "seed": 3},
    "training": {
        "epochs": 2,
        "trunk_epochs": 2,
        "batch_size": 16,
        "optimizer": "sgd",
        "learning_rate": 1e-3,
        "lr_steps": [0.5, 0.75],
        "lr_factor": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "clip_norm": None,
        "precision": "float32",
    },
    "resources": {"cpu": 1, "gpu": 0},
    "storage": {"dir": "store", "journal": None},
    "tracking": {"uri": "sqlite:///runs.db"},
    "latency": {"batch": [1, 64]},
    "plugins": ["own_backbone.py", "own_method.py"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, fixtures: Path) -> Path:
    folder = tmp_path_factory.mktemp("mutated")
    random = np.random.default_rng(0)
    images = random.random((60, 8, 8, 1), np.float32)
    np.savez(folder / "toy.npz", x_train=images, y_train=np.arange(60) % 3)
    for name in ("own_backbone.py", "own_method.py"):
        (folder / name).write_text((fixtures / name).read_text())
    return folder


VALID: list[str] = [
    (ROOT / "studies" / "quickstart.yaml").read_text(encoding="utf-8"),
    (ROOT / "studies" / "mixed.yaml").read_text(encoding="utf-8"),
    yaml.safe_dump(FULL, sort_keys=False),
]

# ---- what accidents look like ------------------------------------------------------------------------


def deep(levels: int, mapping: bool) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value} if mapping else [value]
    return value


# fmt: off
VALUES: list[Any] = [
    None, True, False, "", " ", "~", "null", [], {}, [[]], [None], {"": None}, {None: 1}, {1: 2}, {True: 0},
    0, -1, 1, 2, 0.5, -0.5, 1e-300, 1e300, 10**30, -(10**400), float("inf"), float("nan"), 2**31, 2**63,
    "0", "010", "1:30", "0x10", "1_000", "50%", ".5x", "0,5x", "40MFLOPs", "40M MACs", "1h30m", "5 GB", "x",
    "é", "日本", "\u202e", "a\nb", "a\tb", "\x85", "\ufeff", "😀", "x" * 5000, "é" * 300, "{}", "%s{0}", "\\",
    "..", "/", "/dev/null", "/dev/zero", "~nobody-there/x", "$UNSET_HERE/x", "$$", "a/" * 3000, "toy.npz",
    "static", "digits", "nin", "nin@0.25", "nin@1e9", "nin@16", "nin@0.0000001", "dgate", "pocket", "cifar10",
    "own_method.py", "toy.npz/x", "http://", "sqlite:///", "sqlite://", "sqlite:///file:x?uri=true",
    deep(30, True), deep(30, False), deep(100, True), deep(100, False), list(range(200)), ["a"] * 50,
    {"name": "digits"}, {"name": 3}, {"name": "nin", "weights": "x.pth"}, ["static", "static"],
    [{"static": 3}], {f"k{i}": i for i in range(50)}, [{"a": [{"b": {}}]}], {"low": 1, "high": 0},
    {"choices": []}, ["a", 1, None], {"a\nb": 3}, {"x" * 5000: 3}, {"\u202e": {"\x1b[31m": 1}},
]
BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in pairwise("abcdefgh")
)
SNIPPETS = [
    "\0", "\t", "\r", "\n", "  ", ":", ": ", "- ", "#", "'", '"', "|", ">", "&a ", "*a", "<<: *a", "!!",
    "!!python", "!!binary x", "!!set {a}", "!!timestamp 2020", "!!float x", "!!omap [a: 1]", "%YAML 9",
    "---\n", "...\n", "{", "}", "[", "]", "[[[[[[", "? ", "{a: {b: {c: ", "\ufeff", "\u2028", "\x1b[31m", "é",
    "\ud800", "@", "`", "x" * 3000, "[" * 500, "9" * 5000, "\n" * 500, "name: a\nname: b\n", "budget: 0.5\n",
    "methods: [a, a]\n", "name: &n [*n]\n", "budget: {max_macs: 0.5}\n", BOMB,
]
# fmt: on


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in a document."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from places(inner, (*path, key))


@st.composite
def of_structure(draw: st.DrawFn) -> str:
    """A valid study in which values, keys and places were changed."""
    document = copy.deepcopy(yaml.safe_load(draw(st.sampled_from(VALID))))
    for _ in range(draw(st.integers(1, 2))):
        *above, last = draw(st.sampled_from([path for path in places(document) if path] or [("name",)]))
        parent = document
        for key in above:
            parent = parent[key]
        match draw(st.sampled_from(["value", "value", "value", "remove", "rename", "wrap", "move"])):
            case "value":
                parent[last] = copy.deepcopy(draw(st.sampled_from(VALUES)))
            case "remove":
                del parent[last]
            case "rename" if isinstance(parent, dict):
                name = draw(st.sampled_from([f"{last}s", str(last)[:-1], str(last).upper(), 7, None, "a[b]"]))
                parent[name] = parent.pop(last)
            case "wrap":
                parent[last] = draw(st.sampled_from([lambda v: [v], lambda v: {"a": v}]))(parent[last])
            case "move":
                document[str(last)] = copy.deepcopy(parent[last])
    return yaml.dump(document, allow_unicode=True, sort_keys=False)


@st.composite
def of_text(draw: st.DrawFn) -> str:
    """A valid study in which characters and lines were changed."""
    text = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        lines = text.splitlines(keepends=True) or [""]
        line = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["insert", "insert", "cut", "double", "drop", "swap", "indent", "end"])):
            case "insert":
                text = text[:at] + draw(st.sampled_from(SNIPPETS) | st.text(max_size=3)) + text[at:]
            case "cut":
                text = text[:at] + text[at + draw(st.integers(1, 40)) :]
            case "double":
                text = "".join([*lines[: line + 1], *lines[line:]])
            case "drop":
                text = "".join([*lines[:line], *lines[line + 1 :]])
            case "swap":
                text = "".join([*lines[:line], *reversed(lines[line : line + 2]), *lines[line + 2 :]])
            case "indent":
                blanks = draw(st.sampled_from([" ", "   ", "\t"]))
                text = "".join([*lines[:line], blanks + lines[line], *lines[line + 1 :]])
            case "end":
                text = text[:at]
    return text


# ---- what must come of it ----------------------------------------------------------------------------


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def too_long(*_: object) -> None:
        raise TimeoutError(f"no answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def settle(file: Path, text: str) -> Task | str:
    """The study made ready to run, or the line that refuses it; any other error comes out."""
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with at_most(SECONDS):
        try:
            task = resolve(load_study(file))
            assert task.budget is not None
        except Refusal as refusal:
            return str(refusal)
    return task


def check(file: Path, text: str) -> None:
    told = settle(file, text)
    if isinstance(told, Task):
        return
    assert told.startswith(str(file))
    assert len(told.removeprefix(str(file))) < 2000
    assert not UNSEEN.search(told), "one line, and nothing that a terminal obeys"
    for internal in ("Traceback", "pydantic", "validation error", "For further information", " object at 0x"):
        assert internal not in told


def mutated(examples: int) -> Callable[[Any], Any]:
    def wrap(test: Any) -> Any:
        calm = settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        return calm(given(st.one_of(of_structure(), of_text()))(test))

    return wrap


@pytest.mark.parametrize("text", VALID, ids=["quickstart", "mixed", "everything"])
def test_the_studies_that_are_changed_are_valid(text: str, folder: Path) -> None:
    assert isinstance(settle(folder / "study.yaml", text), Task)


@mutated(QUICK)
def test_a_changed_study_is_valid_or_refused_in_one_line(folder: Path, text: str) -> None:
    check(folder / "study.yaml", text)


@pytest.mark.slow
@mutated(MANY)
def test_many_changed_studies(folder: Path, text: str) -> None:
    check(folder / "study.yaml", text)


@pytest.mark.slow
@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_every_wrong_value_at_every_key(value: Any, folder: Path) -> None:
    for path in places(FULL):
        if not path:
            continue
        document = copy.deepcopy(FULL)
        parent: Any = document
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = value
        check(folder / "study.yaml", yaml.dump(document, allow_unicode=True, sort_keys=False))
