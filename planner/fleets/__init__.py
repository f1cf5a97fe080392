"""The parts of planner.fleet: one instance, many of them over time, simulated and by theory."""
