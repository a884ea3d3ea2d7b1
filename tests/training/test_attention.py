import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from insightv.models.vlm import load
from insightv.training import attention
from insightv.training.packing import Answer, Row, answer_logprobs, collate


def rows(lengths: list[list[int]]) -> list[Row]:
    """Rows of a prompt's length and its answers' lengths."""
    draw = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        return torch.randint(50, 300, (count,), generator=draw).tolist()

    return [Row(str(place), tokens(prompt), {}, [Answer(tokens(n), [1] * n) for n in answers]) for place, (prompt, *answers) in enumerate(lengths)]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Queries and keys of each call of the library's attention."""
    calls: list[tuple[int, int]] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def noted(query: Any, key: Any, value: Any, **settings: Any) -> Any:
        calls.append((query.shape[0] * query.shape[2], key.shape[2]))
        return real(query, key, value, **settings)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", noted)
    return calls


def test_only_what_is_seen_is_computed(tiny_llava: Path, seen: list[tuple[int, int]]) -> None:
    vlm = load(tiny_llava)
    batch = collate(rows([[40, 7, 9, 3], [37, 9, 2, 4]]), 0)
    with torch.no_grad():
        vlm.model.set_attn_implementation({"text_config": "sdpa"})
        expected = answer_logprobs(vlm.model, batch).sums
        vlm.model.set_attn_implementation({"text_config": attention.SHARED})
        torch.testing.assert_close(answer_logprobs(vlm.model, batch).sums, expected, atol=1e-4, rtol=0)
    # In each of two layers: two prompts of 40 positions at most among themselves, then six answers of 9 at most, which see a prompt and themselves.
    assert seen == [(2 * 40, 40), (6 * 9, 40 + 9)] * 2


def test_the_machine_chooses(tiny_llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(tiny_llava).model
    for half, kind in ((True, "eager"), (False, attention.SHARED)):
        attention.choose(model, half=half)
        assert model.config.text_config._attn_implementation == kind
    monkeypatch.setattr(torch.nn.Parameter, "is_cuda", True, raising=False)
    attention.choose(model, half=True)
    assert model.config.text_config._attn_implementation == "flex_attention"
    # The vision tower keeps its own.
    assert model.config.vision_config._attn_implementation == "sdpa"


@pytest.mark.skipif(not shutil.which("g++"), reason="FlexAttention is compiled")
def test_flex_attention_gives_the_same(tiny_llava: Path) -> None:
    # On a CPU it has no backward pass; that one, and the speed, are for a GPU.
    vlm = load(tiny_llava)
    batch = collate(rows([[120, 20, 33], [90, 41, 5]]), 0)
    with torch.no_grad():
        expected = answer_logprobs(vlm.model, batch).sums
        vlm.model.set_attn_implementation({"text_config": "flex_attention"})
        torch.testing.assert_close(answer_logprobs(vlm.model, batch).sums, expected, atol=1e-3, rtol=0)
