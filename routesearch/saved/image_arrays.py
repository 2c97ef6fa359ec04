"""Images in a numpy file for a saved model: also what no image file holds, such as noise beyond white."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from routesearch.errors import Refusal, message_of

SUFFIX = ".npy"


def read_array(path: Path) -> npt.NDArray[Any]:
    """An array of images for :meth:`SavedModel.predict`, as ``numpy.save`` writes it.

    Raises:
        Refusal: the file is missing or no such array; names it.
    """
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise Refusal(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # numpy's reader raises nearly anything on a broken file
        reason = message_of(error)
        raise Refusal(f"{path} cannot be read as an array (numpy.save): {reason}") from error
