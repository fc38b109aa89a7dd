"""Evaluates either player alone: greedy and reference evaluations, films, and rollouts of the LLM alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from coteach.envs import tasks
from coteach.evaluation.episodes import (
    SEED,
    Evaluation,
    StudentAlone,
    TeacherAlone,
    evaluate_student,
    evaluate_teacher,
    film_student,
    film_teacher,
    play_first_episodes,
)
from coteach.grounding.base import Situations
from coteach.method.players import Players

Who = Literal["student", "teacher"]


class Examiner:
    """Plays episodes with one player alone; no player learns from them.

    The situations of greedy evaluations are numbered separately, because they are not part of the experience.
    """

    def __init__(self, players: Players) -> None:
        self.players, self.config = players, players.config
        self._situations = Situations()

    def evaluate(self, who: Who, task: str, episodes: int | None = None, seed: int = SEED) -> Evaluation:
        """Play the reference environments with the greedy student, or with the teacher's own advice, without evidence."""
        players, ground = self.players, partial(self.players.ground, task)
        episodes = episodes or self.config.episodes
        if who == "student":
            return evaluate_student(players.student_of(task).learner, task, ground, episodes, seed)
        return evaluate_teacher(players.teacher.advise, task, ground, self.config.collect.option_patience, episodes, seed)

    def success_and_return(self, who: Who, task: str) -> dict[str, float]:
        """Return `success` and `return` of `evaluate`; empty for the teacher of an arm without one."""
        if who == "teacher" and not self.players.arm.has_teacher:
            return {}
        result = self.evaluate(who, task)
        return {"success": result.success, "return": result.mean_return}

    def greedy_success(self, task: str) -> float:
        """Return the success of the greedy student on the levels kept for it, with the engine that is used in training."""
        settings = self.config.evaluation
        environments = tasks.make(task, self.config.engine, settings.levels, settings.level_seed)
        grounding = self.players.ground(task, settings.levels, environments.num_actions, situations=self._situations)
        return play_first_episodes(StudentAlone(self.players.student_of(task).learner), environments, grounding)

    def film(self, who: Who, task: str, seed: int = SEED) -> list[NDArray[np.uint8]]:
        """Return the frames of one episode of `evaluate`, (H, W, 3) uint8 each."""
        players, ground = self.players, partial(self.players.ground, task)
        if who == "student":
            return film_student(players.student_of(task).learner, task, ground, seed)
        return film_teacher(players.teacher.advise, task, ground, self.config.collect.option_patience, seed)

    def roll_out_teacher(self, climbed: Sequence[str]) -> tuple[float, NDArray[np.float64]]:
        """Play the tasks `climbed` with the LLM's advice alone, on newly drawn levels.

        Returns the mean success in [0, 1], and how often the LLM chose an option in each situation (S,).
        """
        players, config = self.players, self.config
        successes, chosen = [], Counter[int]()
        for task in climbed:
            levels = min(config.teacher.schooling_levels, config.episodes)
            environments = tasks.make(task, config.engine, levels, players.draw_seed())
            grounding = players.ground(task, levels, environments.num_actions)
            patience = config.collect.option_patience
            alone = TeacherAlone(players.teacher.advise, grounding, environments, patience, players.draw_seed())
            successes.append(play_first_episodes(alone, environments, grounding))
            chosen += alone.chosen
        players.advice.initialise(np.array(sorted(chosen), dtype=np.int64))
        met = np.zeros(len(players.situations))
        met[list(chosen)] = list(chosen.values())
        return sum(successes) / len(successes), met
