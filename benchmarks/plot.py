# /// script
# dependencies = ["matplotlib==3.11.2"]
# ///
"""Draw requests per second and p95 at 32 clients: python plot.py RESULTS.json PLOT.svg

The same results give the same bytes.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

CLIENTS = 32
INK = "#7d8590"  # readable on white and on black
COLOURS = {"ours": "#2f81f7", "peer": "#8b949e", "ceiling": "#c69026"}


def main(results: Path, plot: Path) -> None:
    """Draw the systems measured with ten columns, the fastest at the top."""
    rows = []
    for system in json.loads(results.read_text())["systems"]:
        for load in () if system["failure"] else system["loads"]:
            if load["clients"] == CLIENTS and system["columns"] == 10:
                title = system["title"].replace("*", "").replace("`", "")
                rows.append((load["per_second"], load["p95"], title, COLOURS[system["kind"]]))
    if not rows:
        raise SystemExit(f"nothing was measured at {CLIENTS} clients")
    rows.sort()
    plt.rcParams |= {
        "svg.hashsalt": "serving",
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    figure, (left, right) = plt.subplots(
        1, 2, sharey=True, figsize=(9, 0.6 + 0.3 * len(rows)), layout="constrained"
    )
    rates, latencies, titles, colours = zip(*rows, strict=True)
    _bars(left, titles, rates, colours, f"requests/s, {CLIENTS} clients (more is better)")
    _bars(right, titles, latencies, colours, "p95 in ms (less is better)")
    figure.savefig(plot, metadata={"Date": None}, transparent=True)


def _bars(axes: Any, titles: Any, values: Any, colours: Any, label: str) -> None:
    places = range(len(titles))
    bars = axes.barh(places, values, color=colours, height=0.7)
    axes.set_yticks(places, titles)
    axes.bar_label(bars, [f"{v:,.0f}" if v >= 10 else f"{v:.1f}" for v in values], padding=3)
    axes.set_xscale("log")
    axes.margins(y=0.01)
    axes.set_xlim(min(values) / 2, max(values) * 6)  # room for the figures
    axes.set_title(label, fontsize=9)
    axes.tick_params(which="both", length=0, labelbottom=False)
    axes.spines[:].set_visible(False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
