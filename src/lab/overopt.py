"""Over-optimisation: the two curves of gold reward against distance by Gao, Schulman and Hilton (2022), and their fit.

With d = sqrt(KL(pi || pi_ref)) and the gold reward counted from the reference, R(0) = 0:

    best-of-n    R(d) = d (alpha - beta d)
    RL           R(d) = d (alpha - beta log d)

Here beta is the paper's, a coefficient of the curve, and not the price of the KL divergence.
"""

import math
from typing import NamedTuple

import numpy as np


def best_of_n_curve(d, alpha, beta):
    """d (alpha - beta d). Equation eq-gao-bon. d: (N,) -> (N,).

    >>> best_of_n_curve([0.0, 1.0, 2.0], alpha=1.0, beta=0.25).tolist()
    [0.0, 0.75, 1.0]
    """
    d = np.asarray(d, float)
    return d * (alpha - beta * d)


def rl_curve(d, alpha, beta):
    """d (alpha - beta log d), and 0 at d = 0, its limit. Equation eq-gao-rl. d: (N,) -> (N,).

    >>> rl_curve([0.0, 1.0], alpha=1.0, beta=0.5).tolist()
    [0.0, 1.0]
    """
    d = np.asarray(d, float)
    return d * (alpha - beta * np.log(np.where(d > 0, d, 1.0)))


class Fit(NamedTuple):
    """A fitted curve: its coefficients, the share of the variance that it explains, and its mean error.

    r2    1 - (squared error) / (squared distance from the mean). Below zero where the mean alone would do better.
    rmse  root mean squared error, in units of the reward
    """

    curve: object
    alpha: float
    beta: float
    r2: float
    rmse: float

    def __call__(self, d):
        return self.curve(d, self.alpha, self.beta)

    @property
    def peak(self):
        """The distance d >= 0 at which the curve is highest: 0 if it only falls, inf if it rises for ever.

        With beta < 0 the RL form falls at first and rises in the end, so it has no highest point either.
        """
        if self.curve is best_of_n_curve:
            return max(0.0, self.alpha / (2 * self.beta)) if self.beta > 0 else math.inf if self.alpha > 0 else 0.0
        return math.exp(self.alpha / self.beta - 1) if self.beta > 0 else math.inf


def fit(curve, d, gain):
    """Least squares. Both curves are linear in alpha and beta, so there is one solution and no starting point.

    curve: best_of_n_curve or rl_curve. d, gain: (N,), the distances and the gold rewards above the reference.

    >>> round(fit(best_of_n_curve, [0.5, 1.0, 2.0], [0.4375, 0.75, 1.0]).alpha, 6)
    1.0
    """
    d, gain = np.asarray(d, float), np.asarray(gain, float)
    if d.shape != gain.shape or d.ndim != 1 or len(set(d[d > 0].tolist())) < 2:
        raise ValueError(f"a fit of two coefficients needs a gain for each distance, and two distances above 0: {d.shape}, {gain.shape}")
    if not (np.isfinite(d).all() and np.isfinite(gain).all() and (d >= 0).all()):
        raise ValueError("a distance is negative, or a value is not finite: an estimate of the KL below 0 has no square root")
    columns = np.stack([curve(d, 1.0, 0.0), curve(d, 0.0, 1.0)], 1)  # (N, 2)
    alpha, beta = np.linalg.lstsq(columns, gain, rcond=None)[0].tolist()
    error = gain - curve(d, alpha, beta)
    spread = ((gain - gain.mean()) ** 2).sum()
    return Fit(curve, alpha, beta, float(1 - (error**2).sum() / spread) if spread > 0 else math.nan, math.sqrt((error**2).mean()))
