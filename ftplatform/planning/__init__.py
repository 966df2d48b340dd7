"""The planner: model shapes, memory, duration and price in closed form, without torch."""
