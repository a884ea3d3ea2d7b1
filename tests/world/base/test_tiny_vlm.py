"""The shipped base sees and answers; its tokenizer loses nothing."""

import asyncio
from pathlib import Path

from insightv.agents import solve_direct
from insightv.config import LocalConfig, PromptsConfig, SamplingConfig, SystemsConfig
from insightv.evaluation.run import score
from insightv.models.local import LocalChat
from insightv.models.vlm import load
from insightv.records import Problem
from insightv.store import ImageStore
from insightv.world.base import tiny_vlm
from insightv.world.problems import make_split

BASE = Path(tiny_vlm.__file__).parent / "weights"


def test_the_shipped_base_is_small_and_can_be_served() -> None:
    weights = BASE / "model.safetensors"
    model = load(BASE).model
    assert weights.stat().st_size < 10 * 2**20
    for part in (model.config.text_config, model.config.vision_config):
        assert part.hidden_size // part.num_attention_heads >= 32


def test_the_shipped_base_sees(tmp_path: Path) -> None:
    images = ImageStore(tmp_path)
    problems = list(make_split(images, "development", 90, seed=5, difficulty=0.5))
    prompts = PromptsConfig(direct="{question}\nAnswer directly.")
    settings = SystemsConfig(answer=SamplingConfig(max_tokens=16))

    async def answer() -> dict[str, list[bool]]:
        chat = LocalChat(load(BASE), images, None, LocalConfig(batch_size=64))

        async def one(problem: Problem) -> tuple[str, bool]:
            solution = await solve_direct(problem, chat, settings, prompts, seed=0)
            return problem.meta["group"], bool(score(problem, solution).correct)

        found: dict[str, list[bool]] = {}
        for group, right in await asyncio.gather(*(one(problem) for problem in problems)):
            found.setdefault(group, []).append(right)
        await chat.close()
        return found

    found = asyncio.run(answer())
    share = {group: sum(rights) / len(rights) for group, rights in found.items()}
    assert share["perception"] > 0.85
    assert share["perception"] > share["multi-hop"] + 0.2


def test_the_tokenizer_gives_back_any_text() -> None:
    tokenizer = load(BASE).tokenizer
    for text in ("c3 holds a red circle.", "<thoughts>\n### Look\nb2 … 17 Größe 図\n</thoughts>", "  two  spaces\n\n#"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    words = ("a1", " d3", " red", " 12", "###", "<thoughts>", "</thoughts>")
    assert [len(tokenizer(word).input_ids) for word in words] == [1] * len(words)
