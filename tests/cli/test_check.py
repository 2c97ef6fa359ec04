"""The command that holds a method against the invariants of the kit."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


METHOD = '''
from typing import Annotated

import torch.nn.functional as F
from optuna.distributions import IntDistribution
from routesearch import RoutedNet, Space, Stage, hookimpl
from torch import nn


class Vote(RoutedNet):
    """An exit after some units, by the majority of the batch."""

    name = "vote"

    class Config(Space):
        position: {position}

    def __init__(self, config, backbone, trunk=None):
        super().__init__(config, backbone, trunk)
        k = config.position
        self.front = nn.Sequential(*[backbone.unit(i) for i in range(1, k + 1)])
        self.early = backbone.exit(k)
        after = [backbone.unit(i) for i in range(k + 1, len(backbone) + 1)]
        self.rest = nn.Sequential(*after, backbone.head())

    def stages(self):
        def loss(batch):
            x = self.front(batch.inputs)
            return sum(F.cross_entropy(exit(x), batch.labels) for exit in (self.early, self.rest))

        return [Stage(loss)]

    def route(self, meter, images, knob):
        x = meter.run(self.front, images)
        logits = meter.run(self.early, x)
        sure = logits.softmax(1).amax(1) > knob["threshold"]
        vote = (2 * sure.long().sum(0, keepdim=True) > len(sure)).expand(len(sure))
        for way, group, x, logits in meter.split(vote, 2, x, logits):
            group.finish(logits if way else group.run(self.rest, x), route=0 if way else 1)

    def knobs(self, scores=None, labels=None):
        return [{{"threshold": t / 20}} for t in range(20, -1, -1)]


@hookimpl
def routesearch_methods():
    return [Vote]
'''


@pytest.fixture
def vote(tmp_path: Path) -> Path:
    """A method with one fault, in a plain file."""
    file = tmp_path / "vote.py"
    file.write_text(METHOD.format(position="Annotated[int, IntDistribution(1, 3)] = 2"))
    return file


def test_every_law_has_a_line(run: Run) -> None:
    done = run("check", "static", "--set", "width_fraction=1.0", "--set", "depth=0.5")
    assert done.status == 0
    *lines, last = done.out.splitlines()
    assert len(lines) == 16
    assert {line.split()[0] for line in lines} == {"ok", "skipped"}
    assert last.startswith("14 of 16 invariants hold (")
    assert done.lines == ["routesearch: static: 2 configs on toy_chain, toy_residual"]


def test_a_broken_law_fails_with_its_reason(run: Run, vote: Path) -> None:
    done = run("check", "vote", "--plugin", vote, "--set", "position=2", "--json")
    assert done.status == 1
    assert done.lines[-1] == "routesearch: vote breaks 1 of 16 invariants"
    found = done.json
    assert (found["method"], found["plugin"], found["passed"]) == ("vote", str(vote), False)
    assert found["backbones"] == ["toy_chain", "toy_residual"]
    [failed] = [each for each in found["laws"] if each["state"] == "failed"]
    assert failed["law"] == "a_route_does_not_depend_on_batch_mates"
    rule = "vote on toy_chain (position=2): a route must not depend on batch mates, got "
    assert failed["reason"].startswith(rule)


def test_a_field_that_nobody_fixed_is_named(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "vote.py"
    file.write_text(METHOD.format(position="int"))
    done = run("check", "vote", "--plugin", file)
    assert done.status == 2
    assert len(done.lines) == 1
    assert "vote: a field without a default must be fixed" in done.lines[0]
    assert "position" in done.lines[0]


def test_a_named_backbone_is_tried(run: Run, fixtures: Path) -> None:
    done = run(
        "check", "static", "--plugin", fixtures / "own_backbone.py", "--backbone", "pocket@0.5", "--json"
    )
    assert (done.status, done.json["backbones"], done.json["passed"]) == (0, ["pocket"], True)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["skipnt"], "no method, backbone or data set 'skipnt'; did you mean 'skipnet'?"),
        (["static", "--backbone", "nine"], "no backbone 'nine'"),
        (["static", "--set", "depth=7"], "depth: 0.2 <= value <= 1.0 must hold, got 7"),
        (["static", "--set", "colour=7"], "unknown field 'colour'"),
        (["skipnet", "--backbone", "nin@0.1"], "skipnet: a backbone must have residual units to skip"),
        (["skipnet@0.5"], "no method, backbone or data set 'skipnet@0.5'"),
        (["nin", "--kind", "method"], "no method 'nin'"),
        (["nin", "--kind", "network"], "--kind must be one of method, backbone, dataset, got 'network'"),
        (["nin", "--backbone", "nin"], "--backbone is for methods, got nin, a backbone"),
        (["nin", "--set", "depth=1"], "--set is for methods and data sets, got nin, a backbone"),
        (["nin@99"], "0 < width <= 16 must hold"),
        (["digits", "--backbone", "nin"], "--backbone is for methods, got digits, a data set"),
        (
            ["digits", "--set", "noise=2"],
            "digits: settings must be its fields",
        ),
        (["digits", "--set", "colour=2"], "unknown key 'colour'"),
        (["arrays"], "arrays: settings must be its fields (in `settings`, or --set): path must be given"),
        (
            ["cifar10", "--set", "path=/nowhere"],
            "cifar10: not all its files are there",
        ),
    ],
)
def test_what_cannot_be_checked_is_refused(run: Run, words: list[str], line: str) -> None:
    done = run("check", *words)
    assert (done.status, len(done.lines), done.out) == (2, 1, "")
    assert line in done.lines[0]


BESIDE = """
from pathlib import Path

import torch
from routesearch import Backbone, Dataset, Images, Source, hookimpl
from torch import nn


class Unseeded(Dataset):
    name = "unseeded"
    count: int = 40

    def read(self, base: Path) -> Source:
        return Source(("a", "b"), Images(torch.rand(self.count, 1, 8, 8), torch.arange(self.count) % 2))


class Two(Backbone):
    name = "{name}"

    def __len__(self):
        return 2

    def channels(self, k, width=1.0):
        return self.scaled(8, width)

    def unit(self, k, width=1.0, width_in=None):
        self.check(k)
        width_in = width if width_in is None else width_in
        before = self.image_shape[0] if k == 1 else self.channels(k - 1, width_in)
        return nn.Sequential(nn.Conv2d(before, self.channels(k, width), 3, padding=1), nn.ReLU())

    def head(self, width=1.0):
        return nn.Sequential(self.neck(2), nn.Linear(self.channels(2, width), self.classes))


@hookimpl
def routesearch_datasets():
    return [Unseeded]


@hookimpl
def routesearch_backbones():
    return [Two]
"""


def test_a_backbone_has_its_own_invariants(run: Run) -> None:
    done = run("check", "nin@0.1", "--json")
    found = done.json
    assert done.status == 0
    assert (found["kind"], found["backbone"], found["plugin"]) == ("backbone", "nin", "core")
    assert (found["width"], found["shapes"], found["passed"]) == (0.1, [[1, 16, 16], [3, 20, 16]], True)
    assert [law["state"] for law in found["laws"]] == ["ok"] * 9
    assert done.lines == ["routesearch: nin@0.1: width 0.1, images of 1x16x16 and 3x20x16"]


def test_what_a_backbone_declares_is_known(run: Run) -> None:
    done = run("check", "densenet201_cifar", "--json")
    assert (done.status, done.json["passed"], done.json["width"]) == (0, True, 0.2)
    assert run("check", "alexnet", "--json").json["shapes"] == [[1, 64, 72]]


def test_a_data_set_has_its_own_invariants(run: Run, tmp_path: Path) -> None:
    done = run("check", "digits", "--set", "noise=0.5", "--json")
    found = done.json
    assert done.status == 0
    assert (found["kind"], found["dataset"], found["plugin"]) == ("dataset", "digits", "core")
    assert (found["settings"], found["passed"]) == ([{"noise": 0.5}], True)
    assert {law["state"] for law in found["laws"]} == {"ok"}
    assert done.lines == ["routesearch: digits: 10 classes, 1797 train images"]


def test_a_data_sets_fault_fails_with_its_reason(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "beside.py"
    file.write_text(BESIDE.replace("{name}", "two"))
    done = run("check", "unseeded", "--plugin", file)
    assert done.status == 1
    assert done.lines[-1] == "routesearch: unseeded breaks 3 of 10 invariants"
    failed = [line for line in done.out.splitlines() if line.startswith("failed")]
    assert "images must follow from the settings, got others after another seed" in failed[0]
    assert "another state of torch" in failed[1]
    assert "every field must have a description, got none of count" in failed[2]


def test_a_name_of_several_kinds_wants_its_kind(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "beside.py"
    file.write_text(BESIDE.replace("{name}", "static"))
    done = run("check", "static", "--plugin", file)
    assert (done.status, len(done.lines), done.out) == (2, 1, "")
    told = f"static is a method (of plugin 'core') and a backbone (of plugin '{file}')"
    assert f"{told}: say which by --kind method or --kind backbone" in done.lines[0]
    done = run("check", "static", "--plugin", file, "--kind", "backbone", "--json")
    assert (done.status, done.json["kind"], done.json["passed"]) == (0, "backbone", True)
    fixed = ("--set", "width_fraction=1.0", "--set", "depth=0.5")
    assert run("check", "static", "--plugin", file, "--kind", "method", *fixed).status == 0


def test_without_pytest_it_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "hypothesis":
            raise ModuleNotFoundError("No module named 'hypothesis'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    done = run("check", "static")
    assert done.status == 2
    [line] = done.lines
    assert line.startswith("routesearch: check needs pytest and hypothesis: pip install 'routesearch[test]'")


def test_one_cause_is_told_once(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "vote.py"
    body = METHOD.format(position="Annotated[int, IntDistribution(1, 3)] = 2")
    file.write_text(
        body.replace(
            "    def route(", "    def stages(self):\n        raise ValueError('no stages')\n\n    def route("
        )
    )
    done = run("check", "vote", "--plugin", file, "--set", "position=2")
    assert done.status == 1
    failed = [line for line in done.out.splitlines() if line.startswith("failed")]
    assert len(failed) > 2
    assert sum("no stages (vote.py:" in line for line in failed) == 1
    assert sum(": as for " in line for line in failed) == len(failed) - 1


def test_the_help_names_the_extra(run: Run) -> None:
    assert "routesearch[test]" in run("check", "--help").out
