"""Whom to ask: calls to the LLM are rationed to the situations where its answer would matter, the most visited first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coteach.method.advice_table import AdviceTable


@dataclass
class QueryBudget:
    """Situations about which the teacher may still be asked in this round.

    reserved: how many of these are kept for the rungs that have their turn later in the round.
    """

    left: int = 0
    reserved: int = 0

    def begin_round(self, queries: int, prior_trust: float, least_share: float) -> None:
        """Allow a share of `queries`: fewer, the less the teacher's answers have proved right, but at least `least_share`."""
        self.left = round(queries * max(prior_trust, least_share))

    def reserve_for(self, others: int) -> None:
        """Keep equal parts of what is left for so many rungs that have their turn later in the round."""
        self.reserved = self.left * others // (others + 1)

    def spend(self, queries: int) -> None:
        """Count situations that were asked about."""
        self.left -= queries

    @property
    def available(self) -> int:
        """Situations about which may be asked now."""
        return max(self.left - self.reserved, 0)


def choose_queries(table: AdviceTable, numbers: NDArray[np.int64], most: int, least_weight: float) -> NDArray[np.int64]:
    """Choose at most `most` of the situations `numbers` (N,) to ask about, the most visited first.

    Left out is where the answer would not matter: one option only, asked already, or evidence that outweighs any prior
    (`least_weight`: lambda_N down to which the prior counts).
    """
    matters = table.has_choice()[numbers] & ~table.asked[numbers] & (table.prior_weight[numbers] > least_weight)
    waiting: NDArray[np.int64] = numbers[matters]
    return waiting[np.argsort(-table.visits[waiting], kind="stable")][:most]
