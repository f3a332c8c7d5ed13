"""Scores of one task from a matrix, for tests of statistics."""

import numpy as np

from mmpeft import stats


def task_of(scores, pictures=None, seeds=None):
    """TaskScores from a matrix, one picture an item unless given."""
    matrix = np.atleast_2d(np.asarray(scores, dtype=float))
    num_seeds, num_items = matrix.shape
    return stats.TaskScores(
        scores=matrix,
        seeds=np.arange(num_seeds) if seeds is None else np.asarray(seeds),
        examples=np.arange(num_items),
        pictures=np.arange(num_items) if pictures is None else np.asarray(pictures),
    )
