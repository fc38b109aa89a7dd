"""Chooses the situations about which the LLM is queried: those where its answer matters, the most visited first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coteach.method.advice_table import AdviceTable


@dataclass
class QueryBudget:
    """The number of situations about which the teacher may be queried in a round.

    left:     remaining queries of the round.
    reserved: how many of these are reserved for rungs that are played later in the round.
    """

    left: int = 0
    reserved: int = 0

    def begin_round(self, queries: int, prior_trust: float, least_share: float) -> None:
        """Allow a share of `queries` for this round: the trust in the prior, but at least `least_share`."""
        self.left = round(queries * max(prior_trust, least_share))

    def reserve_for(self, others: int) -> None:
        """Reserve equal parts of the remaining queries for so many rungs that are played later in the round."""
        self.reserved = self.left * others // (others + 1)

    def spend(self, queries: int) -> None:
        """Count situations that were asked about."""
        self.left -= queries

    @property
    def available(self) -> int:
        """The number of queries allowed now."""
        return max(self.left - self.reserved, 0)


def choose_queries(table: AdviceTable, numbers: NDArray[np.int64], most: int, least_weight: float) -> NDArray[np.int64]:
    """Choose at most `most` of the situations `numbers` (N,) for queries, the most visited first; return their numbers.

    Situations where the answer does not matter are left out: those with a single option, those already asked about, and those
    with so much evidence that the weight of the prior, lambda_N, is at most `least_weight`.
    """
    matters = table.has_choice()[numbers] & ~table.asked[numbers] & (table.prior_weight[numbers] > least_weight)
    waiting: NDArray[np.int64] = numbers[matters]
    return waiting[np.argsort(-table.visits[waiting], kind="stable")][:most]
