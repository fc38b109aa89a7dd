"""Evaluate an exported student on 200 fixed levels with onnxruntime, minigrid and coteach's grounding, without PyTorch.

`coteach export RUN --to DIR`, then `python examples/exported_student.py DIR/student`; needs `pip install onnxruntime`.
"""

import json
import sys
from pathlib import Path

import gymnasium
import minigrid  # noqa: F401  (registers its levels with Gymnasium)
import numpy as np
import onnxruntime

from coteach.grounding.base import Observation, Situations
from coteach.grounding.minigrid import MiniGridGrounding
from coteach.grounding.minigrid.raw import RawGrounding

folder = Path(sys.argv[1])
about = json.loads((folder / "student.json").read_text())
groundings = {kind.feature_layout(): kind for kind in (MiniGridGrounding, RawGrounding)}  # RawGrounding: of the arm ppo
assert about["feature_layout"] in groundings, "exported by another version of coteach"
student = onnxruntime.InferenceSession(folder / "student.onnx")
env = gymnasium.make(about["task"]).unwrapped
grounding = groundings[about["feature_layout"]](1, Situations(), env.action_space.n)
solved = 0
for seed in range(about["first_seed"], about["first_seed"] + 200):
    seen, earned, action, over = env.reset(seed=seed)[0], 0.0, None, False
    while not over:
        shown = Observation(seen["image"][None], [seen["mission"]], np.array([seen["direction"]]))
        now = grounding.observe(shown, action, np.array([action is None]))
        action = student.run(["logits"], {"features": now.features})[0].argmax(axis=1)
        seen, reward, terminated, truncated, _ = env.step(action[0])
        earned, over = earned + reward, terminated or truncated
    solved += earned > 0
print(f"{about['task']}: success {solved / 200:.3f} over 200 levels; when it was trained {about['success']:.3f}")
