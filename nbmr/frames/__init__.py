"""Frames: cutting a DataFrame or Series into partitions, and gathering results into one.

``partition`` cuts, ``gather`` holds the rules by which results become one object, ``concat`` joins
frames within bounded memory. pandas is imported when first needed, since ``import nbmr`` is fast.
"""

from nbmr.frames.gather import check_how, gather
from nbmr.frames.partition import check_partitions, row_bounds, row_labels, take

__all__ = ["check_how", "check_partitions", "gather", "row_bounds", "row_labels", "take"]
