"""Local decoding gives what the model's own generate gives, each sample its own draws, and a killed batch again."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from benchmarks.models import KINDS
from insightv.config import LocalConfig, UserError
from insightv.images import encode_png
from insightv.models import decoding, local
from insightv.models import vlm as vlms
from insightv.models.chat import Delta, Image, Message, Reply, Sampling, Text, text_message
from insightv.models.local import LocalChat
from insightv.store import ImageStore, Journal

QUESTIONS = ("what colour is the square?", "is the red circle left of the blue square in the middle?", "B?", "the answer, please", "what is in the middle?")


@pytest.fixture
def images(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


@pytest.fixture
def llava(tiny_llava: Path) -> vlms.VLM:
    return vlms.load(tiny_llava, device="cpu")


def conversations(images: ImageStore) -> list[list[Message]]:
    """Questions of different lengths about pictures of different sizes, and one without a picture."""
    rng = np.random.default_rng(0)
    asked = []
    for place, question in enumerate(QUESTIONS):
        pixels = rng.integers(0, 255, (40 + 15 * place, 64, 3), dtype=np.uint8)
        digest = images.add(encode_png(Picture.fromarray(pixels)))
        asked.append([Message("user", (Image(digest), Text(question)))])
    return [*asked, [text_message("user", "no picture at all")]]


def chat(vlm: vlms.VLM, images: ImageStore, journal: Journal | None = None, batch_size: int = 8) -> LocalChat:
    return LocalChat(vlm, images, journal, LocalConfig(batch_size=batch_size))


def ask(bot: LocalChat, messages: list[list[Message]], *samplings: Sampling) -> list[list[Reply]]:
    """Ask everything at once; one sampling for all, or one each."""

    async def run() -> list[list[Reply]]:
        each = samplings * len(messages) if len(samplings) == 1 else samplings
        return await asyncio.gather(*(bot.complete(one, sampling) for one, sampling in zip(messages, each, strict=True)))

    return asyncio.run(run())


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_equals_generate(kind: str, tiny: Callable[[str], Path], images: ImageStore) -> None:
    vlm = vlms.load(tiny(kind), device="cpu")
    asked = conversations(images)
    replies = ask(chat(vlm, images), asked, Sampling(max_tokens=24))
    for messages, [reply] in zip(asked, replies, strict=True):
        encoded = vlms.encode(vlm, messages, images.get)
        ids = torch.tensor([encoded.input_ids])
        extra = {"mm_token_type_ids": (ids == vlm.processor.image_token_id).int()} if "image_grid_thw" in encoded.pixels else {}
        expected = vlm.model.generate(input_ids=ids, max_new_tokens=24, do_sample=False, **encoded.pixels, **extra)[0, ids.shape[1] :].tolist()
        assert reply.text == vlms.detokenize(vlm, expected)
        assert reply.usage.completion == len(expected)
        assert reply.usage.prompt == len(encoded.input_ids)


def test_a_sample_depends_on_its_seed_and_index_only(llava: vlms.VLM, images: ImageStore) -> None:
    asked = conversations(images)
    sampling = Sampling(n=4, seed=3, temperature=1.0, top_p=0.9, max_tokens=20)
    together = ask(chat(llava, images, batch_size=32), asked, sampling)
    texts = [reply.text for reply in together[0]]
    assert len(set(texts)) == 4
    for index in (0, 3):
        assert ask(chat(llava, images), asked[:1], sampling.only(index))[0][0].text == texts[index]
    assert [reply.text for reply in ask(chat(llava, images), asked[:1], replace(sampling, seed=4))[0]] != texts


def test_greedy_and_sampled_rows_share_a_batch(llava: vlms.VLM, images: ImageStore) -> None:
    asked = conversations(images)[:2]
    greedy, sampled = Sampling(max_tokens=12), Sampling(temperature=1.0, max_tokens=9)
    mixed = ask(chat(llava, images), asked, greedy, sampled)
    assert mixed[0] == ask(chat(llava, images), asked[:1], greedy)[0]
    assert mixed[1][0].text == ask(chat(llava, images), asked[1:], sampled)[0][0].text


def test_draws_follow_the_distribution_cut_at_top_p(llava: vlms.VLM) -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    prompt = vlms.Encoded([5], {})
    for top_p, expected in ((1.0, [0.5, 0.3, 0.15, 0.05]), (0.7, [0.625, 0.375, 0, 0]), (0.4, [1, 0, 0, 0])):
        samples = [decoding.Sample(prompt, Sampling(temperature=1.0, top_p=top_p, max_tokens=10), seed) for seed in range(400)]
        draws = decoding._Draws(samples, llava.device)
        drawn = torch.cat([draws.next(logits.expand(400, 4)) for _ in range(10)])
        shares = torch.bincount(drawn, minlength=4) / 4000
        torch.testing.assert_close(shares, torch.tensor(expected, dtype=torch.float), atol=0.03, rtol=0)


def test_logprobs_are_the_models_own(llava: vlms.VLM, images: ImageStore) -> None:
    [messages] = conversations(images)[:1]
    [[reply], [silent]] = ask(
        chat(llava, images), [messages] * 2, Sampling(max_tokens=8, temperature=0.7, logprobs=True), Sampling(max_tokens=8, temperature=0.7)
    )
    assert silent.logprobs == ()
    encoded = vlms.encode(llava, messages, images.get)
    sample = decoding.Sample(encoded, Sampling(max_tokens=8, temperature=0.7, logprobs=True), seed=1)
    decoding.decode(llava, [sample])
    ids = torch.tensor([encoded.input_ids + sample.ids])
    with torch.inference_mode():
        logits = llava.model(input_ids=ids, **encoded.pixels).logits[0, len(encoded.input_ids) - 1 : -1]
    expected = logits.log_softmax(-1).gather(1, torch.tensor(sample.ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(sample.logprobs), expected, atol=1e-4, rtol=0)
    assert len(reply.logprobs) == reply.usage.completion


def test_stop_strings_limits_and_prefill(llava: vlms.VLM, images: ImageStore) -> None:
    [messages] = conversations(images)[:1]
    [[whole]] = ask(chat(llava, images), [messages], Sampling(max_tokens=30))
    assert whole.finish == "length"
    stop = whole.text[8:11]
    [[cut]] = ask(chat(llava, images), [messages], Sampling(max_tokens=30, stop=("never said", stop)))
    assert cut.finish == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]
    head = whole.text[:4]
    [[rest]] = ask(chat(llava, images), [messages], Sampling(max_tokens=4, prefill=head))
    encoded = vlms.encode(llava, messages, images.get, prefill=head)
    assert rest.usage.prompt == len(encoded.input_ids) > whole.usage.prompt


def test_the_end_token_ends_a_reply_and_its_text(llava: vlms.VLM, images: ImageStore) -> None:
    """With the second greedy token as the end token, the reply is the first one alone."""
    [messages] = conversations(images)[:1]
    sample = decoding.Sample(vlms.encode(llava, messages, images.get), Sampling(max_tokens=5), seed=0)
    decoding.decode(llava, [sample])
    end = next(token for token in sample.ids if token != sample.ids[0])
    llava.model.generation_config.eos_token_id = [end, llava.tokenizer.pad_token_id]
    [[reply]] = ask(chat(llava, images), [messages], Sampling(max_tokens=5))
    before = sample.ids[: sample.ids.index(end)]
    assert (reply.finish, reply.text) == ("stop", vlms.detokenize(llava, before))
    assert reply.usage.completion == len(before) + 1


def test_finished_rows_leave_the_batch_without_touching_the_others(llava: vlms.VLM, images: ImageStore) -> None:
    asked = conversations(images)
    lengths = (2, 5, 30, 3, 17, 2)
    samplings = [Sampling(max_tokens=length) for length in lengths]
    for messages, sampling, [reply] in zip(asked, samplings, ask(chat(llava, images), asked, *samplings), strict=True):
        assert reply.text == ask(chat(llava, images), [messages], sampling)[0][0].text


def test_a_killed_run_decodes_the_same_batches_again(llava: vlms.VLM, images: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = conversations(images)
    sampling = Sampling(n=3, temperature=1.0, max_tokens=6)
    seen: list[list[tuple[list[int], int]]] = []
    real = decoding.decode

    def spy(vlm: vlms.VLM, samples: list[decoding.Sample]) -> None:
        if len(seen) == stop_at:
            raise RuntimeError("killed")
        seen.append([(sample.prompt.input_ids, sample.seed) for sample in samples])
        real(vlm, samples)

    monkeypatch.setattr(local, "decode", spy)
    stop_at = 99
    with Journal(tmp_path / "whole") as journal:
        whole = ask(chat(llava, images, journal, batch_size=5), asked, sampling)
    batches, seen = seen, []
    assert [len(batch) for batch in batches] == [5, 5, 5, 3]
    lengths = [len(ids) for batch in batches for ids, _ in batch]
    assert lengths == sorted(lengths)

    stop_at = 2
    with Journal(tmp_path / "killed") as journal:
        with pytest.raises(RuntimeError, match="killed"):
            ask(chat(llava, images, journal, batch_size=5), asked, sampling)
        stop_at = 99
        assert ask(chat(llava, images, journal, batch_size=5), asked[::-1], sampling)[::-1] == whole
        assert seen == batches
        assert ask(chat(llava, images, journal, batch_size=5), asked, sampling) == whole
        assert seen == batches


def test_cancelling_ends_the_sample_and_not_its_companions(llava: vlms.VLM, images: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[decoding.Sample] = []
    real = decoding.decode
    monkeypatch.setattr(local, "decode", lambda vlm, samples: (begun.extend(samples), real(vlm, samples)))
    asked = conversations(images)[:2]
    long, short = Sampling(max_tokens=1500), Sampling(max_tokens=40)

    async def run(bot: LocalChat) -> Reply:
        doomed, kept = asyncio.create_task(bot.complete(asked[0], long)), asyncio.create_task(bot.complete(asked[1], short))
        while not (begun and len(begun[0].ids) > 3):
            await asyncio.sleep(0.001)
        doomed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doomed
        [reply] = await kept
        await bot.close()
        return reply

    with Journal(tmp_path / "journal") as journal:
        bot = chat(llava, images, journal)
        reply = asyncio.run(run(bot))
        [cut] = [sample for sample in begun if sample.cancelled]
        assert cut.finish is None and len(cut.ids) < 1500
        assert reply.text == ask(chat(llava, images), asked[1:], short)[0][0].text
        assert ask(chat(llava, images, journal), asked[1:], short)[0] == [reply]


def test_streamed_pieces_join_to_the_reply(llava: vlms.VLM, images: ImageStore) -> None:
    asked = conversations(images)
    [[whole]] = ask(chat(llava, images), asked[:1], Sampling(max_tokens=30))
    stop = whole.text[12:15]

    async def pieces(sampling: Sampling) -> list[Delta]:
        stream: AsyncIterator[Delta] = chat(llava, images).stream(asked[0], sampling)
        return [delta async for delta in stream]

    for sampling, expected in ((Sampling(max_tokens=30), whole.text), (Sampling(max_tokens=30, stop=(stop,)), whole.text[: whole.text.index(stop)])):
        deltas = asyncio.run(pieces(sampling))
        assert "".join(delta.text for delta in deltas) == expected
        assert deltas[-1].kind == "usage"
        assert len(deltas) > 3


def test_what_does_not_fit_fails_alone_and_for_good(llava: vlms.VLM, images: ImageStore, tmp_path: Path) -> None:
    asked = conversations(images)[:1]
    with Journal(tmp_path / "journal") as journal:
        [[failed], [fine]] = ask(chat(llava, images, journal), [[text_message("user", "word " * 3000)], asked[0]], Sampling(max_tokens=3))
    assert (failed.finish, failed.text) == ("failed", "")
    assert "context length is 2048" in failed.error
    assert fine.finish == "length"
    with pytest.raises(UserError, match="is not in"):
        ask(chat(llava, images), [[Message("user", (Image("0" * 32),))]], Sampling())


def test_one_prompt_is_encoded_once_for_its_samples(llava: vlms.VLM, images: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = conversations(images)[:2]
    seen: list[int] = []
    features = llava.model.model.get_image_features

    def spy(pixel_values: torch.Tensor, **others: Any) -> Any:
        seen.append(len(pixel_values))
        return features(pixel_values=pixel_values, **others)

    monkeypatch.setattr(llava.model.model, "get_image_features", spy)
    ask(chat(llava, images, batch_size=32), asked, Sampling(n=6, temperature=1.0, max_tokens=3))
    assert seen == [2]


def test_a_chat_serves_one_event_loop_after_another(llava: vlms.VLM, images: ImageStore) -> None:
    asked = conversations(images)[:1]
    bot = chat(llava, images)
    assert ask(bot, asked, Sampling(max_tokens=3)) == ask(bot, asked, Sampling(max_tokens=3))
    asyncio.run(bot.close())
