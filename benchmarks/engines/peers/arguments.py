"""The command line that every peer's run has in common. The standard library alone."""

import argparse


def read(about: str | None) -> argparse.Namespace:
    """`url`, `rows`, `steps` (1: single requests, else a chain) and `slots`, the requests wanted in flight."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--url", required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--slots", type=int, default=64)
    return parser.parse_args()
