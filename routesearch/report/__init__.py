"""The front for people: a table, a CSV file, a PNG and an interactive page.

matplotlib and plotly are imported where they draw, so that importing this costs nothing.
"""

from routesearch.report.chart import PALETTE
from routesearch.report.front_csv import write_csv
from routesearch.report.html_page import front_html
from routesearch.report.png_figure import front_figure_png
from routesearch.report.table import Table, front_table, short

__all__ = ["PALETTE", "Table", "front_figure_png", "front_html", "front_table", "short", "write_csv"]
