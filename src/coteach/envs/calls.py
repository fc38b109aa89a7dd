"""Calls of an environment's methods. What they raise, or return against Gymnasium's rules, becomes an error of one line."""

from __future__ import annotations

import contextlib
import numbers
from typing import Any

import numpy as np

from coteach.errors import RunFailed, first_line, note, raised

LARGEST = float(np.finfo(np.float32).max)
"""Rewards are stored as float32 numbers."""


def checked_reset(env: Any, task: str, seed: int) -> Any:
    """Reset `env` and return its observation. RunFailed, which names `task`, if that fails."""
    try:
        answer = env.reset(seed=seed)
    except Exception as error:  # whatever the environment raises
        raise raised(f"task {task!r}: reset(seed=...)", error) from error
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], dict)):
        raise RunFailed(f"task {task!r}: reset returned {_kind(answer)}: expected (observation, info), with info a dictionary")
    return answer[0]


def checked_step(env: Any, task: str, action: int) -> tuple[Any, float, bool, bool]:
    """Take a step; return observation, reward, terminated and truncated. RunFailed, which names `task`, if that fails."""
    try:
        answer = env.step(action)
    except Exception as error:  # whatever the environment raises
        raise raised(f"task {task!r}: step({action})", error) from error
    try:
        observation, reward, terminated, truncated, _ = answer
    except (TypeError, ValueError):
        raise RunFailed(
            f"task {task!r}: step returned {_kind(answer)}: expected (observation, reward, terminated, truncated, info), as "
            "Gymnasium's environments do"
        ) from None
    return observation, _number(reward, task), _flag(terminated, "terminated", task), _flag(truncated, "truncated", task)


def close(env: Any, task: str) -> None:
    """Close `env`; an error costs a note only, because the environment is not needed any more."""
    try:
        env.close()
    except Exception as error:  # whatever the environment raises
        note(f"task {task!r}: close raised {type(error).__name__}: {first_line(error)}")


def _number(reward: Any, task: str) -> float:
    array = isinstance(reward, np.ndarray | np.generic) and reward.size == 1 and reward.dtype.kind in "biuf"
    if (array or isinstance(reward, numbers.Real)) and not np.ma.is_masked(reward):
        with contextlib.suppress(OverflowError):  # a whole number beyond all floats
            number = float(reward.item() if isinstance(reward, np.ndarray) else reward)
            if abs(number) <= LARGEST or not np.isfinite(number):  # those are found and named with their round
                return number
        raise RunFailed(f"task {task!r}: a step's reward is larger than {LARGEST:.1e}, the largest float32 number; scale it down")
    raise RunFailed(f"task {task!r}: a step's reward is {reward!r} ({type(reward).__name__}): expected a number")


def _flag(value: Any, name: str, task: str) -> bool:
    if isinstance(value, bool | np.bool_ | numbers.Integral) or (isinstance(value, np.ndarray) and value.size == 1):
        return bool(value)
    raise RunFailed(f"task {task!r}: a step's {name} is {value!r} ({type(value).__name__}): expected True or False")


def _kind(answer: Any) -> str:
    return f"a tuple of {len(answer)}" if isinstance(answer, tuple) else f"a {type(answer).__name__}"
