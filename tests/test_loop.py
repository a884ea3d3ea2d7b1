"""The plan of the method: what is made from what."""

from pathlib import Path

from insightv import loop
from insightv.config_file import load_config

SMALL = Path(__file__).parent / "small.yaml"


def test_own_chains_may_come_from_the_last_round_of_dpo() -> None:
    steps = loop.plan(load_config(SMALL, ["summary.own_chains=dpo", "dpo.rounds=2"])).steps
    assert steps["dpo-chains"].needs == ("problems", "dpo2")
    assert "dpo-chains" in steps["summary-data"].needs


def test_a_share_of_the_reasoning_set_keeps_epochs_and_leaves_the_whole_set_as_it_was() -> None:
    whole, half = (loop.plan(load_config(SMALL, settings)).steps for settings in ([], ["reasoning.share=0.5", "reasoner.max_steps=9", "single.max_steps=-1"]))
    assert whole["reasoning-data"].settings[0] == {"min_score": 60, "per_problem": 1} and len(whole["reasoning-data"].settings) == 2
    assert half["reasoning-data"].settings[1:3] == [0.5, 0] and half["single-fair-data"].settings[1] == 0.5
    assert half["reasoner"].settings["max_steps"] == 4 and half["single"].settings["max_steps"] == -1
    assert half["summary-data"].settings == whole["summary-data"].settings and half["dpo1"].settings == whole["dpo1"].settings


def test_the_agents_of_a_run_are_the_methods_own_however_many_controls_follow() -> None:
    assert [row for row in (*loop.ROWS, *loop.DPO_ROWS, "pair+dpo", "pair+dpo2", "pair+dpo-refreshed") if loop.is_method(row)] == [
        "pair",
        "pair+dpo",
        "pair+dpo2",
    ]
