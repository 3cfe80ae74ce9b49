#!/usr/bin/env python3
"""Expected statistics from scipy and statsmodels: python make_stats.py, in a venv with the packages of MANIFEST.

Random cases, each with the inputs beside what the packages say of them: Wilson intervals, McNemar's exact test, Holm's
correction, percentile bootstrap intervals (whose random draws differ from ours, so their Monte Carlo error is written
down too), smallest detectable differences as the power that scipy's exact binomial gives them, and divergences of
distributions over letters.
"""
import json
import pathlib

import numpy as np
from scipy import stats
from scipy.special import log_softmax, rel_entr
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

CASES = 60
RESAMPLES = 10000
LEVEL = 0.05
POWER = 0.8


def wilson(random):
    trials = int(random.integers(1, 20000))
    successes = int(random.integers(0, trials + 1))
    low, high = proportion_confint(successes, trials, alpha=LEVEL, method="wilson")
    return {"successes": successes, "trials": trials, "low": low, "high": high}


def exact_mcnemar(random):
    first, second = (int(v) for v in random.integers(0, 10 ** random.integers(1, 4), 2))
    table = [[7, first], [second, 5]]
    return {"only_first": first, "only_second": second, "p": float(mcnemar(table, exact=True).pvalue)}


def holm(random):
    p_values = (random.random(random.integers(1, 12)) ** random.integers(1, 6)).tolist()
    if len(p_values) > 3:
        p_values[2] = p_values[0]  # equal ones
    return {"p": p_values, "adjusted": multipletests(p_values, LEVEL, method="holm")[1].tolist()}


def bootstrap(random):
    """Two independent runs of scipy's tell how far bounds scatter by chance; ours must lie that near."""
    kind = random.integers(0, 2)
    count = int(random.integers(30, 400))
    values = random.choice([-1.0, 0.0, 1.0], count, p=[0.1, 0.75, 0.15]) if kind else random.exponential(1.0, count)
    bounds = []
    for seed in range(8):
        result = stats.bootstrap((values,), np.mean, n_resamples=RESAMPLES, method="percentile",
                                 rng=np.random.default_rng(seed), batch=200)
        bounds.append(result.confidence_interval)
    bounds = np.array(bounds)
    return {"values": values.tolist(), "low": bounds[:, 0].mean(), "high": bounds[:, 1].mean(),
            "scatter": float(bounds.std(axis=0, ddof=1).max())}


def exact_power(questions, discordant, difference, mid):
    """Chance that McNemar's exact test, or its mid-p form, is below the level."""
    favour = (discordant + difference) / (2 * discordant)
    counts = np.arange(questions + 1)
    weight = stats.binom.pmf(counts, questions, discordant)
    power = 0.0
    for differing in counts[weight > 1e-9]:
        wins = np.arange(differing + 1)
        fewer = np.minimum(wins, differing - wins)
        p = np.minimum(1, 2 * stats.binom.cdf(fewer, differing, 0.5))
        if mid:
            p = p - stats.binom.pmf(fewer, differing, 0.5)
        power += weight[differing] * stats.binom.pmf(wins, differing, favour)[p < LEVEL].sum()
    return float(power)


def detectable(random, few):
    """The formula inverted by scipy's root finder, and the exact power at that difference.

    Where the runs differ often the normal formula is that of the mid-p test; where they hardly differ, that of the exact.
    """
    from scipy.optimize import brentq
    questions = int(random.integers(200, 2000))
    discordant = float(random.uniform(0, 0.003) if few else random.uniform(0.05, 0.4))
    level, power = stats.norm.ppf(1 - LEVEL / 2), stats.norm.ppf(POWER)

    def lack(difference):
        differing = max(discordant, difference)
        root = level * np.sqrt(differing) + power * np.sqrt(max(0.0, differing - difference ** 2))
        return root ** 2 / difference ** 2 - questions

    difference = float(brentq(lack, 1e-6, 1.0))
    return {"questions": questions, "discordant": discordant, "difference": difference,
            "power": exact_power(questions, max(discordant, difference), difference, mid=not few)}


def letters(random):
    count = int(random.integers(2, 11))
    logits = random.normal(0, random.uniform(0.1, 6), (2, count))
    logprobs = (logits - random.uniform(0, 3)).astype(np.float32)  # other tokens take the rest
    p, q = (np.exp(log_softmax(row.astype(np.float64))) for row in logprobs)
    return {"reference": [float(v) for v in logprobs[0]], "other": [float(v) for v in logprobs[1]],
            "divergence": float(rel_entr(p, q).sum())}


def main():
    random = np.random.default_rng(7)
    cases = {"wilson": [wilson(random) for _ in range(CASES)],
             "mcnemar": [exact_mcnemar(random) for _ in range(CASES)],
             "holm": [holm(random) for _ in range(CASES)],
             "bootstrap": [bootstrap(random) for _ in range(12)],
             "detectable": [detectable(random, few=i >= 12) for i in range(24)],
             "letters": [letters(random) for _ in range(CASES)]}
    (pathlib.Path(__file__).parent / "stats.json").write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main()
