"""Rules by which benchmarks score a reply, our own implementation of each, under named profiles."""
