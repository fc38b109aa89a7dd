"""Grounding for MiniGrid and BabyAI levels: belief map, planner, situations, features."""

from coteach.grounding.minigrid.grounding import MiniGridGrounding

__all__ = ["MiniGridGrounding"]
