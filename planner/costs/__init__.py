"""The parts of planner.cost_plan: each way to serve a demand, priced, with ranges."""
