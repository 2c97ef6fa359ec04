"""What runs in worker processes, called here without Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from routesearch.errors import Refusal
from routesearch.search import ray_tasks
from routesearch.search.last_words import last_words
from routesearch.search.ray_tasks import obstacle, read_set_up, versions


def test_versions_must_be_those_of_the_driver() -> None:
    own = versions()
    assert set(own) == {"Python", "routesearch", "torch"}
    ray_tasks._check_versions(own, dict(own))
    with pytest.raises(
        Refusal, match=r"^versions must be the same as where the search runs, got torch 2\.0, not "
    ):
        ray_tasks._check_versions(own, own | {"torch": "2.0"})
    with pytest.raises(Refusal, match=r"got Python 3\.9, not [0-9.]+; torch none, not "):
        ray_tasks._check_versions(own, own | {"Python": "3.9", "torch": "none"})


FOUND: dict[str, Any] = {"node": "n1", "host": "h", "log": None, "missing": {}, "problem": None}


def test_what_a_worker_says_of_itself_arrives() -> None:
    found = FOUND | {"missing": {"two": "cannot be loaded"}}
    assert read_set_up(json.dumps(found)) == found
    assert obstacle(found, "one") is None
    assert obstacle(found, "two") == "cannot be loaded"
    assert obstacle(FOUND | {"problem": "no torch"}, "one") == "no torch"


@pytest.mark.parametrize(
    "answer",
    [None, "", "{", "[]", "{}", json.dumps(FOUND | {"missing": 3}), json.dumps(FOUND | {"problem": 1})],
)
def test_what_another_version_says_of_itself_is_a_problem(answer: Any) -> None:
    found = read_set_up(answer)
    assert str(obstacle(found, "one")).startswith("its answer cannot be read: ")


ENDS = {
    "import os; os._exit(3)": "the process called os._exit(3) (end.py:3)",
    "import ctypes; ctypes.string_at(0)": "the process crashed: Segmentation fault (end.py:3)",
    "import os; os.abort()": "the process crashed: Aborted (end.py:3)",
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)": "the process was killed from outside",
    "import os; os.fork() or os._exit(0); os.wait(); os.kill(os.getpid(), 9)": "the process was killed from",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_process_says_why_it_ends_where_it_can(end: str, tmp_path: Path) -> None:
    script, log = tmp_path / "end.py", tmp_path / "log"
    script.write_text(f"from routesearch.search.last_words import announce\nannounce()\n{end}\n")
    with log.open("w") as stderr:
        assert subprocess.run([sys.executable, str(script)], stderr=stderr, check=False).returncode
    assert str(last_words(str(log))).startswith(ENDS[end])
    assert last_words(str(tmp_path / "gone")) is None
