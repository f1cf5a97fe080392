"""The parts of planner.compare: runs as facts, tests between them, verdicts, and changes over many runs."""
