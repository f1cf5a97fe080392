"""The parts of planner.quota: a demand replayed at a deployment's door, and how many deployments it needs."""
