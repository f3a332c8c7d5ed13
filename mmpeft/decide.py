"""From an estimate to a decision: is it different from zero, by enough to matter, and could we have seen it?

    p_value(estimate)               how often so large a value comes from chance alone
    holm(p_values)                  the same, corrected for how many comparisons were made
    verdict(estimate, margin)       higher, lower, equal or undecided
    verdicts(estimates, margin)     the same for the differences of one table, of which none may be called higher by chance
    minimum_detectable_difference   the smallest true difference that runs like these would find

All of it rests on the t statistic of an :class:`~mmpeft.stats.Estimate`: its mean over its standard error, with its
degrees of freedom.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from mmpeft.errors import MmpeftError
from mmpeft.stats import Estimate, Floats

Verdict = Literal["higher", "lower", "equal", "undecided"]
K = TypeVar("K")

ERROR_RATE = 0.05
"""How often a family of comparisons may hold one that is called a difference by chance alone."""


def p_value(estimate: Estimate, null: float = 0.0) -> float:
    """Two-sided p-value of the estimate against a true value of ``null``; nan if the estimate is.

    ``2 P(t(df) > |mean - null| / SE)``. The interval of an estimate has the same width as this test but may lie
    off center where the draws are skewed, so close to the limit the two can disagree. With no spread at all the
    p-value is 1 at ``null`` itself and 0 elsewhere.
    """
    distance = abs(estimate.mean - null)
    if estimate.standard_error == 0:
        return math.nan if math.isnan(distance) else float(distance == 0)
    return float(2 * stats.t.sf(distance / estimate.standard_error, estimate.degrees_of_freedom))


def holm(p_values: ArrayLike) -> Floats:
    """Adjusted p-values, in the order given: those at most α may be called found, all of them together.

    The chance that any true null hypothesis among them is called false stays at most α, however they depend on
    each other. Sorted upwards, the k-th of m becomes ``max_{j ≤ k} min(1, (m - j + 1) p_j)``. A nan stays nan and
    does not count as a comparison.

    Args:
        p_values: Of any shape; all of them are one family.

    Raises:
        MmpeftError: A value outside [0, 1].

    Source: Holm 1979, Scandinavian Journal of Statistics 6.
    """
    given = np.asarray(p_values, dtype=float)
    known = ~np.isnan(given)
    values = given[known]
    if ((values < 0) | (values > 1)).any():
        raise MmpeftError("p_values: a p-value lies between 0 and 1; give nan where there is none.")
    order = np.argsort(values, kind="stable")
    times = np.arange(len(values), 0, -1)
    adjusted = np.full(given.shape, np.nan)
    stepped = np.empty(len(values))
    stepped[order] = np.minimum(1, np.maximum.accumulate(times * values[order]))
    adjusted[known] = stepped
    return adjusted


def verdict(estimate: Estimate, margin: float) -> Verdict:
    """What a difference comes to, where differences up to ``margin`` are called none in practice.

    - ``equal``: its 90 % t interval lies inside ±margin, which is two one-sided tests at 5 % each. This is asked
      first: a difference that is surely there, and surely too small to matter, is equal. (The claims ledger asks its own
      95 % interval, or a wider one, for what it calls near: its rules were written down before any run, and it is the
      stricter of the two. What is near there is equal here.)
    - ``higher``, ``lower``: not equal, and the estimate's own 95 % interval lies above or below zero. By how much
      is not said: such a difference may still be smaller than the margin.
    - ``undecided``: neither. The runs allow for a difference that matters and for none; so does any nan.

    A margin of 0 asks for the sign alone.

    Args:
        estimate: A difference, with a 95 % interval.
        margin: At least 0, in the estimate's units; to be fixed before looking.

    Raises:
        MmpeftError: A negative margin or none at all.

    Source: Schuirmann 1987, doi:10.1007/BF01068419.
    """
    if not margin >= 0:
        raise MmpeftError(f"margin: the largest difference that does not matter is at least 0, got {margin}.")
    low, high = t_interval(estimate, 0.90)
    if -margin <= low and high <= margin:
        return "equal"
    if estimate.low > 0:
        return "higher"
    return "lower" if estimate.high < 0 else "undecided"


def verdicts(estimates: Mapping[K, Estimate | None], margin: float) -> dict[K, Verdict]:
    """What each of a family of differences comes to: as :func:`verdict` has it, but higher or lower only after Holm.

    A difference whose p-value exceeds ERROR_RATE once corrected for all of the family is ``undecided``, as is one that is
    not known. ``equal`` is said of each by itself.

    Args:
        estimates: The differences, for example all those of a table.
        margin: As for :func:`verdict`.
    """
    adjusted = holm([math.nan if e is None else p_value(e) for e in estimates.values()])
    found: dict[K, Verdict] = {}
    for (name, e), p in zip(estimates.items(), adjusted, strict=True):
        alone = "undecided" if e is None else verdict(e, margin)
        found[name] = "undecided" if alone in ("higher", "lower") and p > ERROR_RATE else alone
    return found


def t_interval(estimate: Estimate, level: float) -> tuple[float, float]:
    """The estimate's t interval at another level than its own: ``mean ± t(df) SE``.

    Raises:
        MmpeftError: A level outside (0, 1).
    """
    if not 0 < level < 1:
        raise MmpeftError(f"level: a coverage between 0 and 1 is needed, got {level}.")
    half = float(stats.t.ppf((1 + level) / 2, estimate.degrees_of_freedom)) * estimate.standard_error
    return estimate.mean - half, estimate.mean + half


def minimum_detectable_difference(
    sd_of_difference: float,
    n: int,
    alpha: float = 0.05,
    power: float = 0.8,
    degrees_of_freedom: float | None = None,
) -> float:
    """The smallest true difference that a two-sided paired t-test finds with the given power, in sd's units.

    ``sd / √n * δ`` with δ solving ``P(t'(df, δ) > t_{1 - alpha/2}(df)) = power`` (noncentral t). With many
    degrees of freedom δ = z_{1 - alpha/2} + z_{power} = 2.80; with three pairs it is 5.65, twice that.

    Args:
        sd_of_difference: Standard deviation of the n paired differences.
        n: Number of pairs, for example seeds.
        alpha: Two-sided error rate.
        power: Chance of finding it.
        degrees_of_freedom: n - 1 unless given. For an :class:`Estimate` of a difference, whose standard error
            is that of a mean already: ``(e.standard_error, 1, degrees_of_freedom=e.degrees_of_freedom)``.

    Raises:
        MmpeftError: Fewer than two pairs and no degrees of freedom, or rates outside (0, 1).

    Source: Cohen 1988, Statistical Power Analysis, ch. 2.
    """
    if not (0 < alpha < 1 and alpha / 2 < power < 1):
        raise MmpeftError(
            f"alpha, power: need 0 < alpha < 1 and alpha / 2 < power < 1, got {alpha} and {power}."
        )
    freedom = n - 1 if degrees_of_freedom is None else degrees_of_freedom
    if n < 1 or freedom <= 0:
        raise MmpeftError(f"n: at least two pairs are needed to know what could be detected, got {n}.")
    return sd_of_difference / math.sqrt(n) * _detectable_effect(freedom, alpha, power)


@lru_cache
def _detectable_effect(freedom: float, alpha: float, power: float) -> float:
    """The noncentrality δ at which a t-test has the given power."""
    normal = float(special.ndtri(1 - alpha / 2) + special.ndtri(power))
    if math.isinf(freedom):
        return normal
    threshold = stats.t.ppf(1 - alpha / 2, freedom)
    upper = threshold + normal + 10 * threshold  # far beyond any solution, also for one degree of freedom
    return float(optimize.brentq(lambda delta: stats.nct.sf(threshold, freedom, delta) - power, 1e-9, upper))
