"""Saved models for where routesearch is not: graphs in files, a list of steps, and a small runner.

``export_model`` writes such a folder; ``runner.py``, a copy of which lies in it, needs numpy and onnxruntime
(or torch) alone.
"""

from routesearch.export.engines import check_engine
from routesearch.export.exporter import Exported, export_model

__all__ = ["Exported", "check_engine", "export_model"]
