"""The parts of planner.capacity: curves fitted on load steps, closed by Little's law, with their uncertainty."""
