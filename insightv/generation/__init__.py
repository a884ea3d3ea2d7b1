"""Chains and their assessment: what the teacher and the trained reasoner write, and how good it is."""
