"""Plugins that are plain files, and the files beside them."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from routesearch.plugin.files import code_digest, load_file, with_neighbours

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(name: str, code: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
        return path

    return put


def test_a_file_imports_what_lies_beside_it(write: Write) -> None:
    write("blocks.py", "import sizes\nWIDTH = 2 * sizes.HALF\n")
    write("sizes.py", "HALF = 4\n")
    write("gates/__init__.py", "from .hard import THRESHOLD\n")
    write("gates/hard.py", "THRESHOLD = 0.5\n")
    write("gates/soft.py", "SLOPE = 3\n")
    write("late_one.py", "VALUE = 7\n")
    main = write(
        "main.py",
        "import blocks, gates.soft\n"
        "from blocks import WIDTH as same\n"
        "from gates import THRESHOLD, soft\n"
        "import gates.hard as hard\n"
        "def late():\n"
        "    import late_one\n"
        "    return late_one.VALUE\n",
    )
    module = load_file(main)
    assert (module.blocks.WIDTH, module.same, module.THRESHOLD) == (8, 8, 0.5)
    assert (module.gates.soft.SLOPE, module.soft.SLOPE, module.hard.THRESHOLD) == (3, 3, 0.5)
    assert module.late() == 7
    assert not {"blocks", "gates", "sizes", "late_one"} & sys.modules.keys(), "nobody else sees them"


def test_neighbours_of_one_name_do_not_meet(write: Write) -> None:
    files = []
    for folder in ("one", "two"):
        write(f"{folder}/blocks.py", f"NAME = {folder!r}\n")
        files.append(write(f"{folder}/main.py", "import blocks\n"))
    assert [load_file(file).blocks.NAME for file in files] == ["one", "two"]


def test_a_neighbour_that_changed_is_read_again(write: Write) -> None:
    main = write("main.py", "from blocks import NAME\n")
    for name in ("first", "second"):
        write("blocks.py", f"NAME = {name!r}  # {'x' * len(name)}\n")
        assert name == load_file(main).NAME


def test_what_is_installed_is_found_as_ever(write: Write) -> None:
    write("json.py", "raise RuntimeError\n")
    main = write("main.py", "import json, torch.nn\nTEXT = json.dumps([1])\n")
    assert load_file(main).TEXT == "[1]"


@pytest.mark.parametrize("name", ["random", "torch", "numpy", "routesearch"])
def test_what_plugins_are_written_with_is_never_a_neighbours(write: Write, name: str) -> None:
    file = write("plugin.py", f"import {name} as found")
    write(f"{name}.py", "raise SystemExit('imported from beside the plugin')")
    assert load_file(file).found is importlib.import_module(name)
    assert with_neighbours(file) == [file]


def test_classes_of_a_neighbour_can_be_pickled(write: Write) -> None:
    write("blocks.py", "class Block:\n    pass\n")
    block = load_file(write("main.py", "from blocks import Block\n")).Block()
    assert type(pickle.loads(pickle.dumps(block))) is type(block)  # noqa: S301


def test_an_error_in_a_neighbour_is_the_files_own(write: Write) -> None:
    write("blocks.py", "1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        load_file(write("main.py", "import blocks\n"))
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        load_file(write("other.py", "import nowhere\n"))


def test_neighbours_are_found_without_running_them(write: Write) -> None:
    write("sizes.py", "raise RuntimeError\n")
    write("blocks.py", "def late():\n    from sizes import HALF\n")
    write("gates/__init__.py", "")
    write("gates/hard.py", "")
    write("unused.py", "")
    main = write("main.py", "import blocks, gates.hard, torch, json\n")
    names = [path.relative_to(main.parent).as_posix() for path in with_neighbours(main)]
    assert sorted(names) == ["blocks.py", "gates/__init__.py", "gates/hard.py", "main.py", "sizes.py"]
    assert names[0] == "main.py"


def test_code_is_known_by_all_its_files(write: Write) -> None:
    main = write("main.py", "import blocks\n")
    alone = code_digest(main)
    write("blocks.py", "NAME = 1\n")
    first = code_digest(main)
    write("blocks.py", "NAME = 2\n")
    assert len({alone, first, code_digest(main)}) == 3
    assert first.startswith("main.py ")


def test_a_package_beside_a_file_reads_its_neighbours_too(write: Write) -> None:
    """Absolutely or relatively, from any of its modules, and afresh each time."""
    write("sizes.py", "HALF = 4\n")
    write("gates/__init__.py", "from gates.hard import WIDTH\n")
    write("gates/hard.py", "import sizes\nfrom . import soft\nWIDTH = sizes.HALF * soft.SLOPE\n")
    write("gates/soft.py", "SLOPE = 3\n")
    main = write("main.py", "import gates.soft\nfrom gates import WIDTH\nSLOPE = gates.soft.SLOPE\n")
    module = load_file(main)
    assert (module.WIDTH, module.SLOPE) == (12, 3)
    write("gates/soft.py", "SLOPE = 50\n")
    module = load_file(main)
    assert (module.WIDTH, module.SLOPE) == (200, 50)


def test_files_that_are_loaded_together_share_a_neighbour(write: Write) -> None:
    write("blocks.py", "class Block:\n    pass\n")
    loaded: dict[Path, ModuleType] = {}
    one, two = (load_file(write(name, "from blocks import Block\n"), loaded) for name in ("a.py", "b.py"))
    assert one.Block is two.Block
    assert type(pickle.loads(pickle.dumps(one.Block()))) is two.Block  # noqa: S301


def test_a_link_has_the_neighbours_of_what_it_points_at(write: Write, tmp_path: Path) -> None:
    write("real/blocks.py", "NAME = 1\n")
    write("blocks.py", "NAME = 2\n")
    link = tmp_path / "link.py"
    link.symlink_to(write("real/main.py", "from blocks import NAME\n"))
    assert load_file(link).NAME == 1
    assert [path.name for path in with_neighbours(link)] == ["main.py", "blocks.py"]
    assert with_neighbours(link)[1].parent.name == "real"
