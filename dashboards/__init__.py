"""Drawings of runs and plans: figures, the offline report, the terminal. Their numbers come from planner/."""
