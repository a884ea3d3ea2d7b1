"""A generator that misreads everything still says a step whenever it is asked for one."""

import json
from pathlib import Path

import numpy as np

from insightv.config import TeacherDials
from insightv.images import decode
from insightv.models.chat import Text
from insightv.prompts import generator_messages
from insightv.records import Problem, Step
from insightv.store import ImageStore
from insightv.world.perception import perceive
from insightv.world.problems import make_problem
from insightv.world.roles import Picture, Turn, reply

DIALS = TeacherDials(misperception=1, skipped_step=0.5, arithmetic=0.5, thin_detail=0, malformed=0, repetition=0)


def test_a_generator_that_misreads_everything_comes_to_an_end(tmp_path: Path) -> None:
    images = ImageStore(tmp_path)
    rng = np.random.default_rng(1)
    for seed in range(60):
        problem = make_problem(rng, images, "train", "relative", 0.6, choice=False)
        scene, contrast = perceive(decode(images.get(problem.images[0])))
        for again in range(12):
            steps = chain(problem, Picture(problem.images[0], scene, contrast), 100 * seed + again)
            assert steps[-1].action == "summary", (problem.question, steps)


def chain(problem: Problem, picture: Picture, seed: int) -> list[Step]:
    """Up to ten steps, each asked for with those before it."""
    steps: list[Step] = []
    while len(steps) < 10 and not (steps and steps[-1].action == "summary"):
        turns = [
            Turn(message.role, "".join(part.text for part in message.parts if isinstance(part, Text)), () if message.role != "user" or turn > 1 else (picture,))
            for turn, message in enumerate(generator_messages(problem, [step.model_dump_json() for step in steps]))
        ]
        steps.append(Step.model_validate(json.loads(reply(turns, seed + len(steps), 0.7, DIALS))))
    return steps
