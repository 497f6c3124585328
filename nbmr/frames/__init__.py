"""Frames: cutting a DataFrame or Series into partitions, and gathering results into one.

``partition`` cuts, ``gather`` holds the rules by which results become one object. ``dispatch`` finds the
library of a frame: ``of_pandas``, ``of_polars`` and ``of_arrow`` hold what each has of its own, ``concat``
how pandas' frames are joined within bounded memory. None of these is imported before it is needed, since
``import nbmr`` is fast.
"""

from nbmr.frames.dispatch import FRAMES, are_frames, is_frame, kind_of, library_of
from nbmr.frames.gather import check_how, gather
from nbmr.frames.partition import check_partitions, row_bounds, row_labels, snapshot, take

__all__ = [
    "FRAMES",
    "are_frames",
    "check_how",
    "check_partitions",
    "gather",
    "is_frame",
    "kind_of",
    "library_of",
    "row_bounds",
    "row_labels",
    "snapshot",
    "take",
]
