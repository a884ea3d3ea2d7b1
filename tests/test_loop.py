"""The plan of the method: what is made from what."""

from pathlib import Path

from insightv import loop
from insightv.config_file import load_config

SMALL = Path(__file__).parent / "small.yaml"


def test_own_chains_may_come_from_the_last_round_of_dpo() -> None:
    steps = loop.plan(load_config(SMALL, ["summary.own_chains=dpo", "dpo.rounds=2"])).steps
    assert steps["dpo-chains"].needs == ("problems", "dpo2")
    assert "dpo-chains" in steps["summary-data"].needs
