"""Insight-V: long-chain visual reasoning with two agents (arXiv 2411.14432)."""

__version__ = "0.1.0"
