"""The grounding of MiniGrid and BabyAI levels: belief map, planner, situations, options and features."""

from coteach.grounding.minigrid.grounding import MiniGridGrounding

__all__ = ["MiniGridGrounding"]
