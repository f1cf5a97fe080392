"""How long the report of a million samples takes and how large it is, beside plain plotly with every point.

    python benchmarks/report.py [SAMPLES] [--gaps-per-stream N] [--keep FOLDER]

The record is that of planner_scale.py: chat and streaming at 800 arrivals a second. `headroom report` plans it and
draws all figures; for a million samples the file must be below 8 MB, plotly.js (about 4.8 MB) included, and there
within 15 s. The peer is what one writes without a reduction: plotly's own write_html of six figures with all their
points (numpy arrays, which plotly packs as base64), of the same record and with nothing planned.
"""

from __future__ import annotations

import sys
from pathlib import Path

from planner_scale import CONSOLE, main, measured
from plotly.offline import get_plotlyjs
from rich.table import Table

MOST_S, MOST_MB = 15.0, 8.0
PEER = """
import sys, numpy as np, plotly.graph_objects as go, polars as pl
from plotly.offline import get_plotlyjs
rows = pl.read_parquet(f"{sys.argv[1]}/samples.parquet")
ok = rows.filter(pl.col("outcome").cast(pl.String) == "ok")
gaps = pl.read_parquet(f"{sys.argv[1]}/chunks.parquet")["gap_us"].to_numpy() / 1e3
found = {
    "ttft": ((ok["first_token_ns"] - ok["sent_ns"]) / 1e6).drop_nulls().to_numpy(),
    "itl": gaps,
    "service_time": ((ok["done_ns"] - ok["sent_ns"]) / 1e6).to_numpy(),
    "response_time": ((ok["done_ns"] - ok["due_ns"]) / 1e6).to_numpy(),
}
figures = [go.Figure(go.Scatter(x=np.sort(ms), y=np.arange(1, len(ms) + 1) / len(ms))) for ms in found.values()]
at_s = rows["sent_ns"].drop_nulls().sort().to_numpy() / 1e9
minute = np.arange(1, len(at_s) + 1) - np.searchsorted(at_s, at_s - 60, side="right")
figures.append(go.Figure(go.Scatter(x=at_s, y=minute)))
changes = pl.concat([rows.select(at="sent_ns", n=pl.lit(1)), rows.select(at="done_ns", n=pl.lit(-1))]).drop_nulls()
changes = changes.sort("at").with_columns(pl.col("n").cum_sum())
figures.append(go.Figure(go.Scatter(x=changes["at"].to_numpy() / 1e9, y=changes["n"].to_numpy())))
with open(sys.argv[2], "w") as page:
    page.write(f"<script>{get_plotlyjs()}</script>")
    page.writelines(figure.to_html(full_html=False, include_plotlyjs=False) for figure in figures)
"""


def compare(folder: Path, samples: int, rows: tuple[int, int]) -> bool:
    table = Table(box=None, pad_edge=False)
    table.add_column(f"{rows[0]:,} rows, {rows[1]:,} gaps", no_wrap=True)
    for column in ("wall s", "CPU s", "peak MB", "file MB", "verdict"):
        table.add_column(column, justify="right", no_wrap=True)
    ours, peers, said = (folder.parent / name for name in ("report.html", "plain.html", "said.txt"))
    took = measured([sys.executable, "-m", "headroom", "report", str(folder), "--out", str(ours)], said)
    peer = measured([sys.executable, "-c", PEER, str(folder), str(peers)], said)
    size_mb, peer_mb = (path.stat().st_size / 1e6 for path in (ours, peers))
    met = took[0] <= MOST_S and size_mb <= MOST_MB
    table.add_row("headroom report", *(f"{value:,.1f}" for value in (*took, size_mb)), "met" if met else "MISSED")
    table.add_row("  must take at most", f"{MOST_S:g}", "", "", f"{MOST_MB:g}", "for a million")
    table.add_row("  plotly.js itself", "", "", "", f"{len(get_plotlyjs()) / 1e6:.1f}", "")
    table.add_row("  plain plotly, six figures, all points", *(f"{value:,.1f}" for value in (*peer, peer_mb)), "")
    CONSOLE.print(table)
    peers.unlink()
    return met or samples < 1_000_000


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], compare, about=__doc__, samples=1_000_000))
