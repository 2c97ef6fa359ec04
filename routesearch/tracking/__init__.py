"""The MLflow view of a study: it follows the journal, is never the truth, and can be refilled at any time.

MLflow is imported here only, inside functions: it costs a second and about 100 MB.
"""

from routesearch.tracking.client import tracking_uri
from routesearch.tracking.publication import charts_link, publish
from routesearch.tracking.server import open_ui
from routesearch.tracking.tracker import Tracker

__all__ = ["Tracker", "charts_link", "open_ui", "publish", "tracking_uri"]
