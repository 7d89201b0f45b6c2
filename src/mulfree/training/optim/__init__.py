"""Optimisers, learning-rate schedules and the annealed exponent of adder layers."""
