"""Drawings of runs and plans: the figures, the offline report, the terminal. Numbers come from planner/, ready to show."""
