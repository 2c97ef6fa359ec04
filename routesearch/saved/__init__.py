"""Models on disk: weights as safetensors, everything else as JSON; no pickle, no code that runs by itself.

``save`` writes one from a study's operating point, ``load`` rebuilds the network and predicts.
"""

from routesearch.saved.card import PLUGINS, Card
from routesearch.saved.folder import code_file, read
from routesearch.saved.image_files import files_in, read_files
from routesearch.saved.model import Prediction, SavedModel, load
from routesearch.saved.save import save

__all__ = [
    "PLUGINS",
    "Card",
    "Prediction",
    "SavedModel",
    "code_file",
    "files_in",
    "load",
    "read",
    "read_files",
    "save",
]
