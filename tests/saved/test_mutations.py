"""Three hundred saved models with something wrong: each loads as what it is, or is refused in one line."""

from __future__ import annotations

import copy
import json
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from routesearch import Prediction, Refusal, SavedModel, load
from routesearch.utils.files import file_digest

MEANING = ("method", "config", "knob", "backbone", "shape", "classes", "mean", "std", "weights")
"""Fields of which another value may be another model."""

EARLIER = ("static", "dgate", "decisionet", "jungle")

MEMORY = 300_000
"""kB by which the process may grow in all of it."""


def deep(depth: int) -> Any:
    value: Any = "end"
    for level in range(depth):
        value = [value] if level % 2 else {"in": value}
    return value


VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 3, 10**6, 10**9, -(10**9), 10**30, 1 << 63, 10**400),
    *(0.5, -0.5, 1e-300, 1e300, -1e300, 17.0, float("nan"), float("inf"), 1e-7),
    *(
        "",
        "x",
        "x" * 5000,
        "../../etc/passwd",
        "/etc/passwd",
        "plugins/../../x.py",
        "\0",
        "\x1b[31mred",
        "\ud800",
    ),
    *("a\nb", "nin", "nin@1e9", "nin@99999999999", "nin@0.0001", "static", "dgate", "é", "0" * 64),
    *([], {}, [1], [[1]], {"a": 1}, [0.5] * 2000, list(range(3000)), ["a", "a"], deep(20), deep(100)),
]


def peak() -> int:
    """The most memory that this process ever had, in kB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Model:
    """A folder that is a model, and what it predicts."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.text = (folder / "model.json").read_text()
        self.plugins = sorted((folder / "plugins").glob("*.py"))
        self.images = np.random.default_rng(0).random((4, size, size), np.float32)
        self.said = load(folder, plugins=self.plugins).predict(self.images)
        self.peak = peak()


@pytest.fixture(scope="module")
def models(trained_model: Path, fixtures: Path) -> list[Model]:
    earlier = [Model(fixtures / "earlier" / "models" / name, 16) for name in EARLIER]
    return [Model(trained_model, 8), *earlier]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with every key of it, from the outside in."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys)[:60]:
        yield value, key
        yield from places(value[key])


def change_value(rng: Random, values: dict[str, Any]) -> None:
    container, key = rng.choice(list(places(values)))
    ways = ["other", "gone", "nested", "more", "scaled"]
    way = rng.choice(ways)
    old = container[key]
    if way == "gone":
        del container[key]
    elif way == "nested":
        container[key] = rng.choice([[old], {"a": old}, [old, old], str(old), {str(old)[:50]: old}])
    elif way == "more" and isinstance(old, list | dict):
        extra = copy.deepcopy(rng.choice(VALUES))
        if isinstance(old, list):
            old.append(copy.deepcopy(old[-1]) if old and rng.random() < 0.5 else extra)
        else:
            old[rng.choice(["more", "x" * 500, "\x1b", ""])] = extra
    elif way == "scaled" and isinstance(old, int | float):
        container[key] = old * rng.choice([-1, 0, 2, 10**7, 0.5, 1e30])
    else:
        container[key] = copy.deepcopy(rng.choice(VALUES))


def change_card(rng: Random, folder: Path) -> None:
    """A file of the same form with one to three other values."""
    file = folder / "model.json"
    values = json.loads(file.read_text())
    for _ in range(rng.randint(1, 3)):
        change_value(rng, values)
    file.write_text(json.dumps(values))


def change_text(rng: Random, folder: Path) -> None:
    """Letters gone, changed or put in."""
    file = folder / "model.json"
    text = file.read_bytes()
    at = rng.randint(0, len(text))
    more = rng.choice([b"", b"\xff", b"\0", b"{", b"[" * 5000, b'"a": 1, ', b"-", b"9" * 5000, b"e9", b","])
    file.write_bytes(text[:at] + more + text[at + rng.choice([0, 1, 1, 9, 10**9]) :])


def change_bytes(rng: Random, folder: Path) -> None:
    """Weights cut or flipped, often with the digest that is then theirs."""
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    at = rng.randint(0, 2000)
    if rng.random() < 0.5:
        del content[at:]
    else:
        content[at] ^= rng.randint(1, 255)
    file.write_bytes(content)
    if rng.random() < 0.5:
        sign(folder)


def change_tensors(rng: Random, folder: Path) -> None:
    """Other tensors, with their digest."""
    file = folder / "model.safetensors"
    arrays = load_file(file)
    name = rng.choice(sorted(arrays))
    kinds = [np.float64, np.float16, np.int64, np.uint8, np.bool_]
    changes: list[Callable[[Any], Any]] = [
        lambda a: a.astype(rng.choice(kinds)),
        lambda a: a[None],
        lambda a: np.zeros(0, a.dtype),
        lambda a: np.concatenate([a.ravel(), a.ravel()]),
        lambda a: a.T if a.ndim > 1 and a.shape != a.T.shape else a[None, None],
    ]
    old = arrays.pop(name)
    way = rng.choice(["other", "gone", "renamed"])
    if way == "other":
        arrays[name] = np.ascontiguousarray(rng.choice(changes)(old))
        if arrays[name].dtype == old.dtype and arrays[name].shape == old.shape:
            del arrays[name]
    elif way == "renamed":
        arrays[rng.choice(["x", "x" * 5000, f"{name}.x", "\x1b[31m"])] = old
    save_file(arrays, file)
    sign(folder)


def change_files(rng: Random, folder: Path) -> None:
    """A file gone, or something else in its place."""
    file = folder / rng.choice(["model.json", "model.safetensors"])
    way = rng.choice(["gone", "folder", "empty", "link", "loop", "device", "other"])
    content = file.read_bytes()
    file.unlink()
    if way == "folder":
        file.mkdir()
    elif way == "empty":
        file.touch()
    elif way == "link":
        (folder / "there").write_bytes(content)
        file.symlink_to("there")
    elif way == "loop":
        file.symlink_to(file.name)
    elif way == "device":
        file.symlink_to(rng.choice(["/dev/zero", "/dev/null", "/proc/self/mem"]))
    elif way == "other":
        file.write_bytes(next(each for each in folder.iterdir() if each.is_file()).read_bytes())


def sign(folder: Path) -> None:
    values = json.loads((folder / "model.json").read_text())
    values["weights"] = file_digest(folder / "model.safetensors")
    (folder / "model.json").write_text(json.dumps(values))


WAYS = [change_card, change_card, change_card, change_text, change_bytes, change_tensors, change_files]


def same(one: Prediction, other: Prediction) -> bool:
    columns = ("labels", "macs", "route", "ran")
    equal = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in columns)
    return equal and np.allclose(one.confidence, other.confidence, atol=1e-5)


def check_model(model: SavedModel, before: Model, text: bytes) -> None:
    try:
        found = model.predict(before.images)
    except Refusal:  # of another shape
        assert model.card.shape != (1, *before.images.shape[1:])
        return
    assert found.labels.min() >= 0
    assert found.labels.max() < len(model.classes)
    assert np.isfinite(found.confidence).all()
    assert (found.macs > 0).all()
    now, then = json.loads(text), json.loads(before.text)
    if all(now[field] == then[field] for field in MEANING):
        assert same(found, before.said)


@settings(max_examples=300, suppress_health_check=[*HealthCheck])
@given(seed=st.integers(0, 1 << 40))
def test_a_model_is_right_or_refused(seed: int, models: list[Model]) -> None:
    rng = Random(seed)
    before = rng.choice(models)
    with TemporaryDirectory() as scratch:
        folder = Path(shutil.copytree(before.folder, Path(scratch) / "model"))
        rng.choice(WAYS)(rng, folder)
        try:
            model = load(folder, plugins=before.plugins)
        except Refusal as refusal:
            text = str(refusal)
            assert text.isprintable(), text
            assert len(text) < 700 + 2 * len(str(folder)), text
        else:
            check_model(model, before, (folder / "model.json").read_bytes())
    assert peak() < models[0].peak + MEMORY
