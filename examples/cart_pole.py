"""Gymnasium's CartPole in words: how the pole leans and falls, and where the cart is and rolls.

The student sees the four numbers, the teacher sees words. The words are few, so that situations recur, but enough that one
action is nearly always right in a situation. It runs for about two minutes.
"""

from bisect import bisect
from pathlib import Path
from tempfile import TemporaryDirectory

import coteach

TASK = "CartPole-v1"
SETTINGS = ("arm=no-tune", "guidance.weight=0.2")  # not tuned, to save time; the words are coarser than the student's input
WORDS = (
    ((-1.2, -0.4, 0.4, 1.2), ("far left", "left", "in the middle", "right", "far right")),
    ((-0.4, 0.4), ("rolls left", "stands", "rolls right")),
    ((-0.06, -0.02, 0.02, 0.06), ("leans far left", "leans left", "is upright", "leans right", "leans far right")),
    ((-0.8, -0.2, 0.2, 0.8), ("falls fast to the left", "falls left", "stays", "falls right", "falls fast to the right")),
)
"""For each number of the observation: limits, and the words for the intervals between them."""


def describe(observation):
    """Return a text with what matters for the next push. observation: cart position and velocity, pole angle and velocity."""
    place, rolling, lean, fall = (
        words[bisect(limits, number)] for (limits, words), number in zip(WORDS, observation, strict=True)
    )
    return f"Keep the pole upright. It {lean} and {fall}. The cart {rolling}, {place}."


def main(steps=40_000, *settings):
    """Train for `steps` steps; return the summary. settings: as for `coteach train`, for example "arm=student-only"."""
    coteach.register(
        TASK,
        describe=describe,
        actions=("push the cart to the left", "push the cart to the right"),
        scale=100,  # each step is rewarded with 1: with a discount of 0.99, the return is at most 100
        instruction="You balance a pole on a cart. Answer with the best next push.",
    )
    config = coteach.load(overrides=[f"tasks={TASK}", f"steps={steps}", *SETTINGS, *settings])
    with TemporaryDirectory() as folder, coteach.Run.create(Path(folder) / "pole", config) as run:
        return coteach.train(config, run)[0]


if __name__ == "__main__":
    result = main()
    print(f"{TASK}: the student alone keeps the pole up for {result['return']:.0f} of 500 steps after {result['steps']} steps,")
    print(f"and for more than 475 in {result['success']:.0%} of 200 episodes; {result['llm_queries']} LLM queries")
