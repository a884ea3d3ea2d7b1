"""Evaluation: run systems over problems, compare them with intervals and tests, and write the report."""
