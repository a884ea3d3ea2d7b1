"""A run's chains, judgements, data sets and pairs, to look through."""
