"""A saved model's folder: all that is needed is in it, and it is there whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from routesearch import Refusal, Study, load
from routesearch.results.journal import Journal
from routesearch.results.journal_file import JournalFile
from routesearch.saved import folder as folder_module
from routesearch.saved.card import read_card
from routesearch.search.resume import open_trials
from routesearch.search.trial_network import build_net
from routesearch.search.trial_weights import weights_path
from routesearch.task.resolve import CONFUSION
from routesearch.utils.arrays import write_arrays


@pytest.fixture
def study(trained_study: Path, tmp_path: Path) -> Study:
    """The trained study, copied."""
    shutil.copytree(trained_study.parent / ".routesearch", tmp_path / ".routesearch")
    shutil.copy(trained_study, tmp_path)
    shutil.copy(trained_study.with_name("toy.npz"), tmp_path)
    return Study.load(tmp_path / trained_study.name)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_folder_says_everything(study: Study, tmp_path: Path, fixtures: Path) -> None:
    point = study.save(tmp_path / "model", "10x")
    assert point == study.best("10x")
    assert sorted(contents(tmp_path / "model")) == [
        *("model.json", "model.safetensors", "plugins/own_backbone.py", "plugins/own_method.py"),
    ]
    card = json.loads((tmp_path / "model" / "model.json").read_text())
    data = study.task.data
    assert (card["format"], card["method"], card["config"]) == (1, "skipper", dict(point.config))
    assert (card["knob"], card["seed"], card["trial"]) == (dict(point.knob), point.seed, point.trial)
    assert (card["backbone"], card["shape"]) == ("pocket", [1, 8, 8])
    assert (tuple(card["mean"]), tuple(card["std"])) == (data.mean, data.std)
    assert tuple(card["classes"]) == data.classes
    assert (card["validation"]["accuracy"], card["validation"]["macs"]) == (point.accuracy, point.macs)
    tested = next(p for p in study.front("test") if p.knob == point.knob)
    assert (card["test"]["accuracy"], card["test"]["macs"]) == (tested.accuracy, tested.macs)
    assert card["backbone_macs"] == study.results().backbone_macs
    assert card["versions"]["torch"] == torch.__version__
    method = card["code"]["method"]
    assert method["file"] == "plugins/own_method.py"
    assert method["version"].startswith("own_method.py ")
    copied = (tmp_path / "model" / method["file"]).read_bytes()
    assert copied == (fixtures / "own_method.py").read_bytes()


def test_the_data_need_not_be_there(study: Study, tmp_path: Path) -> None:
    (tmp_path / "toy.npz").unlink()
    study.save(tmp_path / "model", "10x")
    assert (tmp_path / "model" / "model.json").is_file()


def test_a_card_that_no_one_could_read_again_is_not_written(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "MAX_BYTES", 1 << 10)
    rule = r"^model\.json of a saved model must have .* MiB at most, got [\d,]+ bytes for 3 classes"
    with pytest.raises(Refusal, match=rule):
        study.save(tmp_path / "model", "10x")
    assert not (tmp_path / "model").exists()


def test_an_older_model_is_replaced_and_nothing_else_is(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "model"
    study.save(folder, "10x")
    first = contents(folder)
    cheap = min(study.front(), key=lambda p: p.macs).macs
    study.save(folder, cheap)
    assert contents(folder) != first
    assert json.loads((folder / "model.json").read_text())["validation"]["macs"] == cheap
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)
    with pytest.raises(Refusal, match=r"in place of an older saved model, got .* with notes\.txt in it"):
        study.save(folder, "10x")
    assert contents(folder) == before
    assert [f.name for f in folder.parent.iterdir()] == ["model"]


def test_a_link_stays_and_what_it_points_at_is_replaced(study: Study, tmp_path: Path) -> None:
    study.save(tmp_path / "real", "10x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "model.safetensors").unlink()
    study.save(tmp_path / "link", "10x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "model.safetensors").is_file()


@pytest.mark.parametrize("kind", ["file", "other", "foreign", "newer"])
def test_what_is_no_older_model_is_left_alone(study: Study, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        text = {
            "other": None,
            "foreign": '{"kind": "else"}',
            "newer": '{"kind": "routesearch model", "format": 99}',
        }
        (target / ("thesis.tex" if kind == "other" else "model.json")).write_text(text[kind] or "mine")
    before = target.read_text() if kind == "file" else contents(target)
    with pytest.raises(Refusal) as refusal:
        study.save(target, "10x")
    assert str(target) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert (target.read_text() if kind == "file" else contents(target)) == before


def test_an_empty_folder_is_filled(study: Study, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    study.save(tmp_path / "empty", "10x")
    assert (tmp_path / "empty" / "model.json").is_file()


def test_a_full_disk_leaves_the_older_model(
    study: Study, tmp_path: Path, make_disk: Callable[[int], Path]
) -> None:
    disk = make_disk(96)
    study.save(disk / "model", "10x")
    before = contents(disk / "model")
    (disk / "ballast").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize))
    with pytest.raises(Refusal, match=r"must be saved in a writable place, got .*: No space left on device"):
        study.save(disk / "model", "10x")
    assert contents(disk / "model") == before
    assert sorted(f.name for f in disk.iterdir()) == ["ballast", "model"]


def test_weights_that_are_gone_or_damaged_are_told(study: Study, tmp_path: Path) -> None:
    weights = weights_path(study.config.dir, study.best("10x").trial)
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Refusal, match="cannot be read"):
        study.save(tmp_path / "model", "10x")
    write_arrays(weights, {"other": np.zeros(3)})
    with pytest.raises(
        Refusal,
        match=r"must fit the network that skipper builds, got 'gates.2.1.bias': none where it has F32 \[1\]",
    ):
        study.save(tmp_path / "model", "10x")
    weights.unlink()
    with pytest.raises(Refusal, match=r"the weights of trial .* only trials on the front keep theirs"):
        study.save(tmp_path / "model", "10x")
    assert not [f for f in tmp_path.iterdir() if "model" in f.name]


def rewrite_journal(log: Path, change: Callable[[str], str]) -> None:
    """Change a journal as nobody but its writer can: with checksums that are right."""
    plain = re.sub(r',"check":"[0-9a-f]{8}"}', "}", log.read_text())
    entries = [json.loads(line) for line in change(plain).splitlines()]
    log.unlink()
    log.touch()
    JournalFile(log).append(entries)


def test_a_study_that_does_not_know_its_images_yet(study: Study, tmp_path: Path) -> None:
    """One that an older version searched."""
    log = study.config.dir / "journal.log"
    rewrite_journal(log, lambda text: "".join(x for x in text.splitlines(True) if '"inputs"' not in x))
    with pytest.raises(
        Refusal, match="must know the mean and deviation of its images: run `routesearch search`"
    ):
        study.save(tmp_path / "model", "10x")


def test_the_range_of_pixels_is_the_studys(study: Study, tmp_path: Path) -> None:
    study.save(tmp_path / "plain", "10x")
    assert read_card(tmp_path / "plain" / "model.json").pixel_range == (0, 1)
    log = study.config.dir / "journal.log"
    assert '"pixel_range":[0.0,1.0]' in log.read_text()
    rewrite_journal(log, lambda text: text.replace('"pixel_range":[0.0,1.0]', '"pixel_range":[-4,5.0]'))
    study.save(tmp_path / "noisy", "10x")
    assert read_card(tmp_path / "noisy" / "model.json").pixel_range == (-4, 5)


def test_changed_code_is_told(
    study: Study, tmp_path: Path, fixtures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = (fixtures / "own_method.py").read_text()
    (tmp_path / "own_method.py").write_text(text + "\n# changed\n")
    files = [str(fixtures / "own_backbone.py"), "own_method.py"]
    changed = Study.load(study.config.file, {"plugins": files})
    changed.save(tmp_path / "model", "10x")
    assert "the method skipper was trained with own_method.py" in caplog.text


TREE = '''
from typing import ClassVar
import torch.nn.functional as F
from torch import nn
from routesearch import RoutedNet, Stage, Trunk, hookimpl

class Tree(RoutedNet):
    """As wide as class 0 is often mistaken for class 1: its structure depends on the confusion."""
    name = "tree"
    needs_confusion = True

    @classmethod
    def cases(cls, config, backbone):
        return [Trunk({}, 0.0, ((c, 0.0),)) for c in (0.5, 1.0)]

    def __init__(self, config, backbone, trunk=None):
        super().__init__(config, backbone, trunk)
        self.plain = backbone.plain(width=trunk.confusion[0][0])

    def stages(self):
        return [Stage(lambda batch: F.cross_entropy(self.plain(batch.inputs), batch.labels))]

    def route(self, meter, images, knob):
        meter.finish(meter.run(self.plain, images))

    def knobs(self, scores=None, labels=None):
        return [{}]

@hookimpl
def routesearch_methods():
    return [Tree]
'''


def test_a_structure_that_depends_on_the_confusion_is_rebuilt(
    write_study: Callable[..., Path], fixtures: Path, tmp_path: Path
) -> None:
    """A stand-in is the trained trunk: its confusion is in the card, the data and it may go."""
    from routesearch.methods.base import Trunk
    from routesearch.results.points import OperatingPoint
    from routesearch.results.record import Outcome, State
    from routesearch.training.confusion import Confusion

    (tmp_path / "tree.py").write_text(TREE)
    file = write_study(methods=["tree"], plugins=[str(fixtures / "own_backbone.py"), "tree.py"])
    task = Study.load(file).task
    confusion = Confusion(((0.75, 0.25, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), 0)
    with Journal.open_for_writing(task.dir) as journal:
        write_arrays(task.trunk_files()[CONFUSION], *confusion.pack())
        trials = open_trials(journal, task)[0]
        record = trials.ask("tree")
        net = build_net(record, task, Trunk({}, 0.9, confusion.rows)).eval()
        state = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
        write_arrays(weights_path(task.dir, record.number), state)
        outcome = Outcome(State.FINISHED, (OperatingPoint({}, 0.5, task.backbone_macs / 2),), params=7)
        trials.finish(record.number, outcome)
    Study.load(file).save(tmp_path / "model", "1x")
    shutil.rmtree(task.dir)
    again = load(tmp_path / "model", plugins=sorted((tmp_path / "model" / "plugins").iterdir()))
    images = np.random.default_rng(0).random((5, 8, 8), np.float32)
    inputs = task.data.inputs(torch.from_numpy(images)[:, None])
    with torch.inference_mode():
        expected = net.plain(inputs).argmax(1).tolist()
    assert again.predict(images).labels.tolist() == expected
    assert again.card.test is None


def test_plugins_of_one_file_name_do_not_meet(study: Study, tmp_path: Path, fixtures: Path) -> None:
    named: list[Any] = []
    for kind in ("backbone", "method"):
        (tmp_path / kind).mkdir()
        shutil.copy(fixtures / f"own_{kind}.py", tmp_path / kind / "own.py")
        named.append(f"{kind}/own.py")
    Study.load(study.config.file, {"plugins": named}).save(tmp_path / "model", "10x")
    copies = sorted((tmp_path / "model" / "plugins").iterdir())
    assert [f.name for f in copies] == ["backbone_own.py", "own.py"]
    assert len(load(tmp_path / "model", plugins=copies).predict(np.zeros((2, 8, 8)))) == 2


def test_files_beside_a_plugin_travel_with_it(study: Study, tmp_path: Path, fixtures: Path) -> None:
    """Also where the backbone's and the method's have the same names."""
    named: list[Any] = []
    for kind in ("backbone", "method"):
        (tmp_path / kind).mkdir()
        code = (fixtures / f"own_{kind}.py").read_text() + "\nimport parts\n"
        (tmp_path / kind / "own.py").write_text(code)
        (tmp_path / kind / "parts.py").write_text(f"KIND = {kind!r}\n")
        named.append(f"{kind}/own.py")
    Study.load(study.config.file, {"plugins": named}).save(tmp_path / "model", "10x")
    folder = tmp_path / "model" / "plugins"
    copies = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))
    assert copies == ["backbone/own.py", "backbone/parts.py", "own.py", "parts.py"]
    shutil.rmtree(tmp_path / "backbone")
    shutil.rmtree(tmp_path / "method")
    files = [folder / "own.py", folder / "backbone" / "own.py"]
    assert len(load(tmp_path / "model", plugins=files).predict(np.zeros((2, 8, 8)))) == 2
