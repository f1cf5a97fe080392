"""What a figure leaves out of a long series, no eye would have seen: extremes and ends stay."""

from __future__ import annotations

import math
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from planner.metrics import load_over_time
from planner.pictured import in_flight_over_time
from planner.reduced import reduced, tail_place, tail_ranks
from tests.runs import answered, make_run


@given(
    st.lists(st.tuples(st.floats(0, 1e4), st.integers(-1_000, 1_000) | st.none()), min_size=1, max_size=400),
    st.sampled_from([1, 2, 10]),
)
@example([(7.0, i) for i in range(60)], 10)  # all at one instant
@example([(0.0, None)] * 60, 10)
@example([(1e-300 * (i == 59), i) for i in range(60)], 10)
def test_ends_and_extremes_stay_and_no_row_is_made_up(rows, pixels):
    frame = pl.DataFrame(rows, schema={"at": pl.Float64, "y": pl.Int64}, orient="row").sort("at")
    frame = frame.with_columns(z=-pl.col("y")).with_row_index()
    kept = reduced(frame, "at", "y", "z", pixels=pixels)
    assert kept.height <= 4 * 2 * pixels + 2
    assert kept["index"].is_sorted() and kept["index"].is_unique().all()
    assert kept.rows() == [frame.row(index) for index in kept["index"]]
    assert (kept["index"][0], kept["index"][-1]) == (0, frame.height - 1)
    for extreme in ("min", "max"):
        assert getattr(kept["y"], extreme)() == getattr(frame["y"], extreme)()


@given(st.lists(st.integers(-1_000, 1_000), min_size=101, max_size=900))
def test_each_column_of_pixels_keeps_its_own_extremes(values):
    columns = 25
    frame = pl.DataFrame({"at": [float(i) for i in range(len(values))], "y": values})
    kept = reduced(frame, "at", "y", pixels=columns)
    width = (len(values) - 1) / columns
    for column in range(columns):  # but for its edge, which lies in either of two
        inside = (pl.col("at") > column * width + 1e-6) & (pl.col("at") < (column + 1) * width - 1e-6)
        near = (pl.col("at") >= column * width - 1e-6) & (pl.col("at") <= (column + 1) * width + 1e-6)
        own = frame.filter(inside)["y"]
        if len(own):
            assert kept.filter(near)["y"].max() >= own.max()
            assert kept.filter(near)["y"].min() <= own.min()


@given(st.integers(1, 3_000_000))
def test_ranks_of_an_ecdf_go_from_the_first_to_the_last_and_are_dense_in_both_tails(n):
    ranks = tail_ranks(n)
    assert (ranks[0], ranks[-1]) == (1, n) and ranks == sorted(set(ranks)) and len(ranks) <= 720
    places = [tail_place((rank - 0.5) / n) for rank in ranks]
    neighbours = [(rank, beyond) for rank, beyond in pairwise(ranks) if beyond - rank > 1]
    far = [tail_place((beyond - 0.5) / n) - tail_place((rank - 0.5) / n) for rank, beyond in neighbours]
    assert max(far, default=0) < 0.1  # of a decade: three pixels or so
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("share", "place"),
    [(0.5, 0), (0.9, math.log10(5)), (0.99, math.log10(50)), (0.1, -math.log10(5)), (0.001, -math.log10(500))],
)
def test_each_nine_is_as_far_from_the_next(share, place):
    assert tail_place(share) == pytest.approx(place)


def test_the_fullest_second_of_a_long_run_is_drawn(tmp_path):
    """Two hours at one every four seconds, and one moment with a hundred at once."""
    samples = [answered(i, i * 4.0, service_s=0.5) for i in range(1_800)]  # each changes what is in flight twice
    samples += [answered(2_000 + i, 4_321.0, service_s=0.25) for i in range(100)]
    run = make_run(tmp_path, samples)
    flying = in_flight_over_time(run)
    assert flying.height < 2_410  # of 3,602 changes
    assert flying["in_flight"].max() == 100 and flying["in_flight"].min() == 0
    load = load_over_time(run)
    assert load.height < 7_205 and load["requests_per_minute"].max() == 115
