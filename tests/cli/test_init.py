from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from routesearch.study.config import StudyConfig, load_study
from routesearch.task.resolve import resolve


@pytest.fixture
def started(run: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The study file that ``init`` writes for the photos, both named relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    assert run("init", "mine", "--data", "photos").status == 0
    return tmp_path / "mine" / "study.yaml"


def test_what_is_found_is_told(run: Any, photos: Path, tmp_path: Path) -> None:
    status, out, err = run("init", tmp_path / "mine", "--data", photos)
    assert (status, err) == (0, "")
    assert "Found 2 classes (dark, light): 40 images, no splits given: they will be cut 60/20/20" in out
    assert "data.size: 20" in out
    assert f"routesearch search {tmp_path / 'mine' / 'study.yaml'}" in out


def test_the_file_says_the_defaults(started: Path) -> None:
    """Written from the models, it cannot drift from them; still, what it says is loaded and compared."""
    written = load_study(started)
    plain = StudyConfig(
        file=started,
        name="mine",
        data=written.data,
        backbone={"name": "nin@0.25"},
        methods=written.methods,
        budget={"max_macs": "0.5x"},
        training={"batch_size": 32},  # 40 images
    )
    assert written == plain
    assert set(yaml.safe_load(started.read_text())) == set(StudyConfig.model_fields) - {"file", "typed"}


def test_it_searches_within_a_budget_and_says_so(started: Path) -> None:
    text = started.read_text()
    line = next(line for line in text.splitlines() if line.startswith("  max_macs: "))
    assert line.split("#")[0].strip() == "max_macs: 0.5x"
    assert "of the backbone" in line
    assert "A budget is what routing is for: 0.5x" in text


def test_every_key_is_there_with_its_description(started: Path) -> None:
    text = started.read_text()
    for part in ("budget", "search", "training", "resources", "storage", "tracking"):
        section = yaml.safe_load(text)[part]
        model = type(getattr(load_study(started), part))
        for name, field in model.model_fields.items():
            if name in section:
                line = next(line for line in text.splitlines() if line.startswith(f"  {name}: "))
                assert field.description in line
    assert "journal" not in yaml.safe_load(text)["storage"]


def test_it_resolves_to_the_data_and_to_every_method(started: Path) -> None:
    task = resolve(load_study(started))
    assert task.shape == (3, 20, 20)
    assert task.classes == ("dark", "light")
    assert {"static", "dgate"} <= set(task.spaces)
    assert "Left out: skipnet: a backbone must have residual units" in started.read_text()
    assert len(task.data.train) == 24


def test_fields_that_lose_their_comment_sign_are_fixed_at_their_default(started: Path) -> None:
    task = resolve(load_study(started))
    started.write_text(re.sub("^    # ", "    ", started.read_text(), flags=re.MULTILINE))
    fixed = resolve(load_study(started))
    for name, space in task.spaces.items():
        assert fixed.spaces[name].domains == {}
        assert fixed.spaces[name].default() == space.default()


def test_nothing_is_overwritten(run: Any, started: Path, photos: Path) -> None:
    before = started.read_text()
    done = run("init", started.parent, "--data", photos)
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    assert "is already there" in done.err
    assert started.read_text() == before


def test_paths_are_seen_from_the_study_file(run: Any, started: Path, photos: Path, tmp_path: Path) -> None:
    assert load_study(started).data["path"] == "../photos"
    run("init", tmp_path / "far", "--data", photos)
    assert load_study(tmp_path / "far" / "study.yaml").data["path"] == str(photos)
    run("init", tmp_path, "--data", photos)
    assert load_study(tmp_path / "study.yaml").data["path"] == "photos"


def test_large_photos_are_shrunk(run: Any, photos: Path, tmp_path: Path) -> None:
    from PIL import Image

    for file in photos.rglob("*.png"):
        Image.new("RGB", (300, 200)).save(file)
    out = run("init", tmp_path / "mine", "--data", photos).out
    assert "data.size: 64; the images' shorter side is 200 (median of 40), their longer 300" in out
    assert load_study(tmp_path / "mine" / "study.yaml").data["size"] == 64


def test_splits_that_are_given_are_told(run: Any, photos: Path, tmp_path: Path) -> None:
    (photos / "train").mkdir()
    for name in ("dark", "light"):
        (photos / name).rename(photos / "train" / name)
        (photos / "test" / name).mkdir(parents=True)
        for file in sorted((photos / "train" / name).iterdir())[:5]:
            file.rename(photos / "test" / name / file.name)
    out = run("init", tmp_path / "mine", "--data", photos).out
    assert "30 train images, 10 test images; validation will be cut from train" in out


def test_arrays(run: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=np.zeros((30, 12, 10, 3), np.uint8), y_train=np.arange(30) % 3)
    status, out, _ = run("init", tmp_path / "mine", "--data", tmp_path / "a.npz")
    assert status == 0
    assert "Found 3 classes (0, 1, 2): 30 images" in out
    assert "images of 12x10, 3 channels" in out
    assert resolve(load_study(tmp_path / "mine" / "study.yaml")).shape == (3, 12, 10)


def test_arrays_that_a_search_would_refuse(run: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=np.zeros((5, 8, 8), np.uint8), y_train=np.array([0, 0, 0, 1, 1]))
    done = run("init", tmp_path / "mine", "--data", tmp_path / "a.npz")
    assert (done.status, len(done.lines)) == (2, 1)
    assert "a class needs 3 images or more to be cut in 3 splits, got 2 of '1'" in done.err
    assert not (tmp_path / "mine").exists()


def test_without_data_it_says_where_they_belong(
    run: Any, tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run("init", "new")
    assert (status, err) == (0, "")
    assert "new/images/CLASS/image.jpg" in out
    assert "image_folder: no folder" in run("plan", "new/study.yaml").err
    photos.rename(tmp_path / "new" / "images")
    assert resolve(load_study(tmp_path / "new" / "study.yaml")).classes == ("dark", "light")


@pytest.mark.parametrize(
    ("folder", "name"), [("My photos (2)!", "My-photos-2"), ("..hidden", "hidden"), ("снимки", "study")]
)
def test_any_folder_has_a_name(run: Any, photos: Path, tmp_path: Path, folder: str, name: str) -> None:
    assert run("init", tmp_path / folder, "--data", photos).status == 0
    assert load_study(tmp_path / folder / "study.yaml").name == name


@pytest.mark.parametrize("path", ["we # ird: 'na\"me", "ünïcode", "{a: b}"])
def test_any_path_survives_the_file(run: Any, photos: Path, tmp_path: Path, path: str) -> None:
    photos.rename(tmp_path / path)
    assert run("init", tmp_path / "mine", "--data", tmp_path / path).status == 0
    assert load_study(tmp_path / "mine" / "study.yaml").data["path"] == str(tmp_path / path)


@pytest.mark.parametrize("name", ["a$b", "${HOME}", "~", "~me", "100$"])
def test_a_folder_is_found_again_whatever_it_is_called(
    run: Any, photos: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a command line ``$`` and ``~`` are the shell's; in a study file they stand for something."""
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    photos.rename(tmp_path / "mine" / name)
    assert run("init", ".", "--data", f"./{name}").status == 0
    assert len(resolve(load_study("study.yaml")).data.train) > 0


def spoil(photos: Path, how: str) -> Path:
    if how == "missing":
        return photos / "nowhere"
    if how == "one class":
        (photos / "dark").rename(photos.parent / "dark")
    elif how == "no images":
        for file in photos.rglob("*.png"):
            file.unlink()
    elif how == "broken image":
        (photos / "light" / "03.png").write_bytes(b"nothing")
    elif how == "text file":
        (photos / "notes.txt").write_text("hello")
        return photos / "notes.txt"
    else:
        np.savez(photos / "x.npz", images=np.zeros(3))
        return photos / "x.npz"
    return photos


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("missing", "which does not exist"),
        ("one class", "must hold 2 class folders or more, got light"),
        ("no images", "no images in"),
        ("broken image", "1 of 40 images cannot be read: light/03.png (it is no image"),
        ("text file", "which is another kind of file"),
        ("other arrays", "arrays must be named x_train, y_train"),
    ],
)
def test_data_that_it_cannot_read(run: Any, photos: Path, tmp_path: Path, how: str, told: str) -> None:
    done = run("init", tmp_path / "mine", "--data", spoil(photos, how))
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    assert told in done.err
    assert not (tmp_path / "mine").exists()


def test_a_folder_that_cannot_be_made(run: Any, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("init", tmp_path / "file" / "mine", "--data", photos)
    assert (done.status, done.out, len(done.lines)) == (2, "", 1)
    assert "DIR must be a folder that can be written" in done.err


@pytest.mark.slow
def test_it_runs(run: Any, started: Path, photos: Path, tmp_path: Path) -> None:
    """A folder of photos becomes a front and a model that reads the folder; one's name is no text."""
    (photos / "dark" / "00.png").rename(photos / "dark" / os.fsdecode(b"\xff.png"))
    settings: Callable[[str], tuple[str, str]] = lambda text: ("--set", text)  # noqa: E731
    quick = [*settings("training.epochs=1"), *settings("training.trunk_epochs=1"), "--trials", "4"]
    done = run("search", started, "--json", "--max-macs", "0.8x", *quick)
    assert done.status == 0, done.err
    assert done.json["finished"] == 4
    assert done.json["front"]
    assert run("front", started, "--split", "test").status == 0
    assert run("best", started, "--max-macs", "10x", "--save", tmp_path / "model").status == 0
    done = run("predict", tmp_path / "model", photos)
    assert (done.status, done.err, len(done.out.splitlines())) == (0, "", 41)
    assert f"{photos}/dark/\\xff.png" in done.out


def mess_up(photos: Path) -> None:
    """Files that cannot be read, and files that are no images."""
    for number in range(12):
        (photos / "dark" / f"x{number:02}.jpg").write_bytes(b"")
    for name in ("notes.txt", "more.txt", "Thumbs.db"):
        (photos / "light" / name).write_bytes(b"x")


def test_broken_files_are_refused_together_and_left_out_on_demand(
    run: Any, photos: Path, tmp_path: Path
) -> None:
    mess_up(photos)
    done = run("init", tmp_path / "mine", "--data", photos)
    assert (done.status, done.out) == (2, "")
    first = ", ".join(f"dark/x0{number}.jpg (it is empty)" for number in range(3))
    assert done.lines == [
        (
            f"routesearch: image_folder: 12 of 52 images cannot be read: {first} and 9 more;"
            " repair or remove them, or leave them out by --skip-broken"
        )
    ]
    assert not (tmp_path / "mine").exists()
    done = run("init", tmp_path / "mine", "--data", photos, "--skip-broken")
    assert done.status == 0
    assert "Found 2 classes (dark, light): 40 images" in done.out
    assert done.lines == [
        "routesearch: data: left out 12 that cannot be read (data.skip_broken: true)",
        *(f"routesearch: data: left out dark/x{number:02}.jpg: it is empty" for number in range(10)),
        "routesearch: data: left out 2 more; `routesearch -v` names all",
        "routesearch: data: passed over 1: made by a system or program (light/Thumbs.db)",
        "routesearch: data: passed over 2: no image by its suffix (light/more.txt, light/notes.txt)",
    ]
    assert load_study(tmp_path / "mine" / "study.yaml").data["skip_broken"] is True


def test_all_broken_files_are_named_where_that_is_asked_for(run: Any, photos: Path, tmp_path: Path) -> None:
    mess_up(photos)
    for words in ((), ("--skip-broken",)):
        err = run("-v", "init", tmp_path / "mine", "--data", photos, *words).err
        assert all(f"dark/x{number:02}.jpg" in err for number in range(12))


def test_kaggles_folders_in_themselves(run: Any, photos: Path, tmp_path: Path) -> None:
    photos.rename(tmp_path / "seg_train")
    (tmp_path / "all" / "seg_train").mkdir(parents=True)
    (tmp_path / "seg_train").rename(tmp_path / "all" / "seg_train" / "seg_train")
    (tmp_path / "all" / "seg_pred" / "seg_pred").mkdir(parents=True)
    done = run("init", tmp_path / "mine", "--data", tmp_path / "all")
    assert "Found 2 classes (dark, light): 40 images" in done.out
    told = "passed over 1: a folder without class folders, so without labels (seg_pred)"
    assert done.lines == [f"routesearch: data: {told}"]
    assert len(resolve(load_study(tmp_path / "mine" / "study.yaml")).data.train) == 24
