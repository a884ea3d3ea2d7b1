"""Tiny checkpoints of the real model classes: random weights, a byte-level tokenizer that reads any text, a chat template.

Beside them a teacher that counts what it is asked, and a way to run a plan's stages in this process.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
)

import insightv.models.vlm  # noqa: F401 - makes processors of video-capable models work without torchvision
from insightv import processes
from insightv.config import TeacherDials
from insightv.images import digest
from insightv.plan import make
from insightv.world import teacher

LLAVA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}] "
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _tokenizer(special: list[str], **names: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on two sentences; the special tokens have the first ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment] # the stub calls it read-only
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment] # as above
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["what colour is the square in the middle?", "the red circle is left of the blue square, so the answer is B."], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _text_sizes(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _save(folder: Path, model: Any, processor: Any) -> Path:
    tokenizer = processor.tokenizer
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _llava_tokenizer() -> PreTrainedTokenizerFast:
    return _tokenizer(["<pad>", "<s>", "</s>", "<image>"], pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def _vision() -> CLIPVisionConfig:
    return CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16, projection_dim=32)


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA checkpoint: CLIP tower at 32 pixels (4 features an image) and a two-layer Llama."""
    torch.manual_seed(0)
    tokenizer = _llava_tokenizer()
    config = LlavaConfig(
        vision_config=_vision(),
        text_config=LlamaConfig(**_text_sizes(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
    )
    images = CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    return _save(tmp_path_factory.mktemp("models") / "llava", LlavaForConditionalGeneration(config), processor)


@pytest.fixture(scope="session")
def tiny_llava_next(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA-NeXT checkpoint with anyres tiles of 32 pixels."""
    torch.manual_seed(0)
    tokenizer = _llava_tokenizer()
    grid = [[32, 64], [64, 32], [64, 64]]
    config = LlavaNextConfig(
        vision_config=_vision(),
        text_config=LlamaConfig(**_text_sizes(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grid,
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
    )
    images = LlavaNextImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=grid)
    processor = LlavaNextProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    return _save(tmp_path_factory.mktemp("models") / "llava_next", LlavaNextForConditionalGeneration(config), processor)


@pytest.fixture(scope="session")
def tiny_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2.5-VL checkpoint: multimodal RoPE, images of any size in patches of 14 pixels merged by two."""
    torch.manual_seed(0)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = _tokenizer(special, pad_token="<|endoftext|>", eos_token="<|im_end|>")
    sizes = _text_sizes(tokenizer) | {"rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0}}
    config = Qwen2_5_VLConfig(
        text_config=sizes,
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112})
    processor = Qwen2_5_VLProcessor(image_processor=images, tokenizer=tokenizer, chat_template=QWEN_TEMPLATE)
    return _save(tmp_path_factory.mktemp("models") / "qwen", Qwen2_5_VLForConditionalGeneration(config), processor)


Asked = Counter[str]
"""How often a teacher answered each request, by the digest of its body."""


@contextmanager
def _counting(dials: TeacherDials) -> Iterator[tuple[str, Asked]]:
    asked: Asked = Counter()

    @web.middleware
    async def count(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        response: web.StreamResponse = await handler(request)
        # The probes of a check are not journalled and hold grey pictures or none; the rest is a role's instruction.
        if request.method == "POST" and b'"system"' in (body := await request.read()):
            asked[digest(body)] += 1
        return response

    async def serve(url: "Future[str]", end: asyncio.Event) -> None:
        app = teacher.application(dials)
        app.middlewares.append(count)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url.set_result(f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
        await end.wait()
        await runner.cleanup()

    loop, url, end = asyncio.new_event_loop(), Future[str](), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(url, end)))
    thread.start()
    try:
        yield url.result(30), asked
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()


@pytest.fixture
def counting_teacher() -> Iterator[Callable[[TeacherDials], tuple[str, Asked]]]:
    """Start a teacher with these dials in this process; gives its URL and how often it answered each request."""
    with ExitStack() as stack:
        yield lambda dials: stack.enter_context(_counting(dials))


@pytest.fixture(scope="module")
def in_this_process() -> Iterator[None]:
    """Stages that would be processes of their own run here: loading the libraries a dozen times is most of a tiny run."""

    def alone(*arguments: Any) -> None:
        torch.set_num_threads(1)  # as the processes have it: two threads sum in another order, and the last bit of a weight differs
        make(*arguments)

    async def apart(conductor: Any, name: str, report: Any) -> None:
        await asyncio.to_thread(alone, conductor._plan, conductor._run, name, report, conductor._retry_failed)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(processes._Conductor, "_apart", apart)
        yield
