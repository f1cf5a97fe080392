"""Numbers from runs: metrics, demand, quota, capacity, cost, and the plan made of them."""
