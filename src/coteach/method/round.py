"""One round of the game between a teacher (an LLM) and a student (PPO): the whole idea on one screen.

Notation: x is what the student observes, a its action; c is a situation (a short text) with its options o; pi_o is the
controller that carries out option o, p_LLM(o|c) the LLM's advice. Both players get the same return, and each improves the
other: the student's experience corrects the LLM's advice, and the improved advice guides the student and tunes the LLM. An arm
switches parts of this off. The round implements the framework of arXiv 2401.06603; `steps` has the details of each step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from coteach.method import steps
from coteach.method.players import Players
from coteach.method.rung import Rung, blamed

UNLIMITED = 2**31
"""The number of queries allowed to a teacher without costs."""


def play_round(players: Players, rungs: Sequence[Rung], show: Callable[[str], None]) -> list[dict[str, Any]]:
    """Play one round on a rung, or on several side by side; return the metrics of each. show: called with the phase."""
    advice, arm, config = players.advice, players.arm, players.config

    # 1. Collect. The student acts in most environments, a ~ pi(a|x). In a share that shrinks as the student catches up the
    #    teacher controls: it draws an option, o ~ p+(o|c), and follows it to its end, a = pi_o(x).
    advice.begin_round(config.teacher.queries_per_round if arm.prior == "llm" else UNLIMITED)
    turns = [steps.collect(players, rung, others=len(rungs) - number) for number, rung in enumerate(rungs, start=1)]

    # 2. Advise. The LLM is queried for p_LLM(o|c) in the most visited situations; elsewhere its advice is looked up.
    advice.count_visits(turn.rollout.situation for turn in turns)
    if arm.has_teacher:
        show("advise")
        advice.query_most_visited()

    # 3. Evidence. The outcomes of options are counted, whoever chose the actions: N(c, o), R(c, o), N(c, o, c').
    for turn in turns:
        players.add_outcomes(turn.rollout.outcomes)

    # 4. Reweigh (student -> teacher, at once). Optimistic value iteration on the counts gives Q(c, o); then
    #    p+ = argmax_y  sum_o y(o) Q(c, o) - lambda_N KL(p_LLM || y),   lambda_N = c sqrt(N + 1) / (N + K).
    with blamed(*rungs):
        advice.improve()

    # 5. Guide (teacher -> student). With p^ the sharpened improved advice, q(a|x) = sum_o p^(o|c) pi_o(a|x):
    #    the student minimises L_PPO + lambda KL(q || pi) on its own rows, and KL(q || pi) on replayed ones.
    rows = [steps.guide(players, turn) for turn in turns]

    # 6. Tune (student -> teacher, every few rounds). The LLM gets in-context feedback, and its LoRA weights are tuned:
    #    minimise KL(p+ || p_LLM) + beta KL(p_untuned || p_LLM).
    tuned = steps.teach(players, show) if steps.teaches(players, rungs) else {}
    return [row | tuned | turn.shares | {"prior_trust": advice.prior_trust} for row, turn in zip(rows, turns, strict=True)]
