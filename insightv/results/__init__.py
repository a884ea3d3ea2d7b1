"""What one or several finished runs found, seed by seed and together: the page behind docs/results.md."""
