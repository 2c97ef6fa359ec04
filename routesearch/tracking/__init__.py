"""The MLflow view of a study: it follows the journal, is never the truth, and can be refilled at any time.

MLflow is imported here only, inside functions: it costs a second and about 100 MB.
"""

from routesearch.tracking.client import default_uri, resolve_uri
from routesearch.tracking.experiment import link_of
from routesearch.tracking.server import open_ui
from routesearch.tracking.tracker import Tracker

__all__ = ["Tracker", "default_uri", "link_of", "open_ui", "resolve_uri"]
