"""Arrays on disk: whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from routesearch.utils.arrays import read_arrays, write_arrays


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "w.safetensors"
    turned, one, whole = np.arange(6).reshape(2, 3).T, np.array(7), np.array([True, False])
    write_arrays(path, {"turned": turned, "one": one, "whole": whole}, {"accuracy": "0.5"})
    arrays, facts = read_arrays(path)
    assert facts == {"accuracy": "0.5"}
    for name, array in {"turned": turned, "one": one, "whole": whole}.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert (arrays[name].shape, arrays[name].dtype) == (array.shape, array.dtype)
    write_arrays(path, {"one": one})
    assert read_arrays(path) == ({"one": one}, {})


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    write_arrays(path, {"w": np.zeros(3)})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_arrays(path, {"w": np.zeros(1)})
    assert read_arrays(path)[0]["w"].shape == (3,)
    assert [f.name for f in tmp_path.iterdir()] == [path.name]


def test_no_file_and_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="none"):
        read_arrays(tmp_path / "none")
    (tmp_path / "odd").write_bytes(b"not arrays" * 20)
    with pytest.raises(ValueError, match="header"):
        read_arrays(tmp_path / "odd")
