"""Trust in the prior: the power to which the LLM's answers are raised, estimated from the evidence.

A power of 1 uses the LLM's answers as they are; a power of 0 makes them uniform.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coteach.config import EvidenceConfig
from coteach.method.abstract_model import AbstractModel
from coteach.method.advice_table import AdviceTable
from coteach.method.improvement import prior_weight, reweigh
from coteach.student.guidance import sharpen

Array = NDArray[np.float64]


def judge(
    trust: float, table: AdviceTable, model: AbstractModel, pessimistic_q: Array, outcomes: Array, settings: EvidenceConfig
) -> float:
    """Return the new trust in the prior: it moves towards the power that fits the evidence where a way to a reward is known.

    trust: the present one; pessimistic_q: (S, K); outcomes: (S,) number of outcomes in each situation. Situations that the LLM
    was tuned on are left out. While there are too few situations with a known way to a reward, an LLM that misleads loses
    trust.
    """
    judged = table.asked & ~table.taught & table.has_choice()
    promising = (table.visits >= settings.recent_visits) & (pessimistic_q.max(axis=1, initial=0.0) > settings.least_promise)
    numbers = np.flatnonzero(judged & promising)
    if len(numbers) < settings.judged_situations:
        asked = np.flatnonzero(judged)
        found_out = misleads(table.prior[asked], model.tries[asked], model.wasted()[asked], settings)
        return trust * (1.0 - settings.prior_trust_rate * found_out)
    prior = table.prior[numbers]
    weight = prior_weight(outcomes[numbers], (prior > 0).sum(axis=1).astype(float), settings.trust)
    target = reweigh(sharpen(prior, 0.0), pessimistic_q[numbers], weight)
    return trust + settings.prior_trust_rate * (prior_power(prior, target, settings) - trust)


def prior_power(prior: Array, target: Array, settings: EvidenceConfig) -> float:
    """Return the power of the prior that best predicts what works, out of `settings.prior_powers`.

    prior: (N, K) the LLM's answers; target: (N, K) the policy that follows from the evidence alone. Powers are compared by the
    lower bound of their gain in log-likelihood over a uniform prior: the mean gain minus `clear_errors` standard errors.
    """
    powers = settings.prior_powers
    likelihood = np.array([(target * np.log(np.maximum(sharpen(prior, power), 1e-12))).sum(axis=1) for power in powers])
    gain = likelihood - likelihood[0]
    surely = gain.mean(axis=1) - settings.clear_errors * gain.std(axis=1) / np.sqrt(len(prior))
    return powers[int(np.argmax(surely))]


def misleads(prior: Array, tries: Array, wasted: Array, settings: EvidenceConfig) -> bool:
    """Return whether the LLM's first choices fail significantly more often than other options.

    prior: (N, K) its answers; tries: (N, K) number of outcomes; wasted: (N, K) how many of them failed or ended the episode
    without a reward. Significantly: by more than `clear_errors` standard errors of the difference.
    """
    first = np.arange(prior.shape[1]) == prior.argmax(axis=1)[:, None]
    share = wasted / np.maximum(tries, 1.0)
    chosen, others = share[(tries > 0) & first], share[(tries > 0) & ~first]
    if min(len(chosen), len(others)) < settings.judged_situations:
        return False
    error = np.sqrt(chosen.var() / len(chosen) + others.var() / len(others))
    return bool(chosen.mean() - others.mean() > settings.clear_errors * error)
