"""Gymnasium's CartPole in words: how the pole leans and falls, and where the cart rolls.

The student sees the four numbers themselves, the teacher words: few enough that each situation recurs, and many enough that
what is right in one is nearly always right in it. Run it: about two minutes.
"""

from bisect import bisect
from pathlib import Path
from tempfile import TemporaryDirectory

import coteach

TASK = "CartPole-v1"
SETTINGS = ("arm=no-tune", "guidance.weight=0.2")  # no time to tune the LLM; words are coarser than what the student sees
WORDS = (
    ((-1.2, -0.4, 0.4, 1.2), ("far left", "left", "in the middle", "right", "far right")),
    ((-0.4, 0.4), ("rolls left", "stands", "rolls right")),
    ((-0.06, -0.02, 0.02, 0.06), ("leans far left", "leans left", "is upright", "leans right", "leans far right")),
    ((-0.8, -0.2, 0.2, 0.8), ("falls fast to the left", "falls left", "stays", "falls right", "falls fast to the right")),
)
"""For each number of the observation: limits, and the words between them."""


def describe(observation):
    """What matters for the next push."""
    place, rolling, lean, fall = (
        words[bisect(limits, number)] for (limits, words), number in zip(WORDS, observation, strict=True)
    )
    return f"Keep the pole upright. It {lean} and {fall}. The cart {rolling}, {place}."


def main(steps=40_000, *settings):
    """Train for `steps` steps; `settings` as `coteach train` takes them, for example "arm=student-only"."""
    coteach.register(
        TASK,
        describe=describe,
        actions=("push the cart to the left", "push the cart to the right"),
        scale=100,  # each step is rewarded with 1: discounted by 0.99, they come to 100 at most
        instruction="You balance a pole on a cart. Answer with the best next push.",
    )
    config = coteach.load(overrides=[f"tasks={TASK}", f"steps={steps}", *SETTINGS, *settings])
    with TemporaryDirectory() as folder, coteach.Run.create(Path(folder) / "pole", config) as run:
        return coteach.train(config, run)[0]


if __name__ == "__main__":
    result = main()
    print(f"{TASK}: the student alone keeps the pole up for {result['return']:.0f} of 500 steps after {result['steps']} steps,")
    print(f"and for more than 475 in {result['success']:.0%} of 200 episodes; {result['llm_queries']} questions to the LLM")
