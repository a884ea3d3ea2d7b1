"""Vision-language models of the real classes with random weights, of any size, and their processors: for tests and benchmarks.

The tokenizer is byte-level, so that it reads any text, and its special tokens have the first ids. Sizes of the vision side are fixed and tiny.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GotOcr2ImageProcessorPil,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    SiglipVisionConfig,
)

import insightv.models.vlm  # noqa: F401 - makes processors of video-capable models work without torchvision

Made = tuple[Any, Any]
"""A model and its processor."""

_PARTS = (
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
)
_LLAVA = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}] "
    + _PARTS
    + "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    + _PARTS
    + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_PINPOINTS = [[32, 64], [64, 32], [64, 64]]


def llava(**sizes: Any) -> Made:
    """LLaVA: a CLIP tower at 32 pixels (4 features an image) and a Llama."""
    tokenizer = _llava_tokenizer()
    config = LlavaConfig(
        vision_config=_clip(),
        text_config=LlamaConfig(**_text(tokenizer, sizes)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
    )
    images = CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    return LlavaForConditionalGeneration(config), LlavaProcessor(image_processor=images, **_llava_settings(tokenizer))


def llava_next(**sizes: Any) -> Made:
    """LLaVA-NeXT: anyres tiles of 32 pixels and a Llama."""
    tokenizer = _llava_tokenizer()
    config = LlavaNextConfig(
        vision_config=_clip(),
        text_config=LlamaConfig(**_text(tokenizer, sizes)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=_PINPOINTS,
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
    )
    images = LlavaNextImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=_PINPOINTS)
    return LlavaNextForConditionalGeneration(config), LlavaNextProcessor(image_processor=images, **_llava_settings(tokenizer))


def llava_onevision(**sizes: Any) -> Made:
    """LLaVA-OneVision: a SigLIP tower at 32 pixels, anyres, and a Qwen2."""
    tokenizer = _chatml_tokenizer("<image>", "<video>")
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16),
        text_config=Qwen2Config(**_text(tokenizer, sizes)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=_PINPOINTS,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessorPil(size={"height": 32, "width": 32}, image_grid_pinpoints=_PINPOINTS),
        tokenizer=tokenizer,
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=_CHATML.replace("IMAGE", "<image>\n"),
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


def qwen2_vl(**sizes: Any) -> Made:
    """Qwen2-VL: multimodal RoPE, images of any size in patches of 14 pixels merged by two."""
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": sizes.get("hidden_size", 64), "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
    tokenizer, config = _qwen(Qwen2VLConfig, vision, sizes)
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112})
    return Qwen2VLForConditionalGeneration(config), Qwen2VLProcessor(image_processor=images, tokenizer=tokenizer, chat_template=_qwen_template())


def qwen2_5_vl(**sizes: Any) -> Made:
    """Qwen2.5-VL: as Qwen2-VL, with windows in the tower."""
    vision = _qwen_tower(sizes) | {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]}
    tokenizer, config = _qwen(Qwen2_5_VLConfig, vision, sizes)
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112})
    return Qwen2_5_VLForConditionalGeneration(config), Qwen2_5_VLProcessor(image_processor=images, tokenizer=tokenizer, chat_template=_qwen_template())


def qwen3_vl(**sizes: Any) -> Made:
    """Qwen3-VL: interleaved multimodal RoPE, patches of 16 pixels, features of deeper tower layers added inside the language model."""
    vision = _qwen_tower(sizes) | {"patch_size": 16, "deepstack_visual_indexes": [0], "num_position_embeddings": 64}
    tokenizer, config = _qwen(Qwen3VLConfig, vision, {"head_dim": 32, **sizes}, mrope_interleaved=True)
    images = Qwen2VLImageProcessorPil(patch_size=16, size={"shortest_edge": 64 * 64, "longest_edge": 128 * 128})
    return Qwen3VLForConditionalGeneration(config), Qwen3VLProcessor(image_processor=images, tokenizer=tokenizer, chat_template=_qwen_template())


def idefics3(**sizes: Any) -> Made:
    """Idefics3: tiles of 32 pixels with their rows and columns spelt out, and a Llama."""
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    marks = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *places]
    tokenizer = byte_tokenizer(["<pad>", "<s>", "</s>", *marks], pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    config = Idefics3Config(
        vision_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
        text_config=LlamaConfig(**_text(tokenizer, sizes)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=_LLAVA.replace("IMAGE", "<image>"),
    )
    return Idefics3ForConditionalGeneration(config), processor


def internvl(**sizes: Any) -> Made:
    """InternVL in transformers' form: tiles of 32 pixels, pixel shuffle, and a Qwen2."""
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}
    tokenizer = _chatml_tokenizer(*names.values(), extra_special_tokens=names)
    config = InternVLConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": [32, 32],
            "patch_size": [8, 8],
        },
        text_config=Qwen2Config(**_text(tokenizer, sizes)),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        downsample_ratio=0.5,
    )
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=4),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=_CHATML.replace("IMAGE", "<IMG_CONTEXT>\n"),
    )
    return InternVLForConditionalGeneration(config), processor


KINDS: dict[str, Callable[..., Made]] = {
    "llava": llava,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "idefics3": idefics3,
    "internvl": internvl,
}


def save(kind: str, folder: Path, **sizes: Any) -> Path:
    """Write a checkpoint of a class of `KINDS`, the same one each time; `sizes` are settings of its language model."""
    torch.manual_seed(0)
    model, processor = KINDS[kind](**sizes)
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        setattr(model.generation_config, name, getattr(processor.tokenizer, name))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _text(tokenizer: PreTrainedTokenizerFast, sizes: dict[str, Any]) -> dict[str, Any]:
    """Settings of a language model, `sizes` over the tiny ones."""
    tiny = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {"vocab_size": len(tokenizer), **tiny, **tokens, **sizes}


def _qwen(kind: Any, vision: dict[str, Any], sizes: dict[str, Any], **rope: Any) -> tuple[PreTrainedTokenizerFast, Any]:
    marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = _chatml_tokenizer(*marks)
    text = _text(tokenizer, sizes)
    half = text["hidden_size"] // text["num_attention_heads"] // 2
    sections = [half // 4, half * 3 // 8, half * 3 // 8]
    text["rope_parameters"] = {"rope_type": "default", "mrope_section": [half - sum(sections[1:]), *sections[1:]], "rope_theta": 10000.0, **rope}
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(marks))
    return tokenizer, kind(
        text_config=text, vision_config=vision, image_token_id=image, video_token_id=video, vision_start_token_id=start, vision_end_token_id=end
    )


def _qwen_tower(sizes: dict[str, Any]) -> dict[str, Any]:
    return {"depth": 2, "hidden_size": 32, "out_hidden_size": sizes.get("hidden_size", 64), "intermediate_size": 64, "num_heads": 2}


def _qwen_template() -> str:
    return _CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")


def _clip() -> CLIPVisionConfig:
    return CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16, projection_dim=32)


def _llava_settings(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "tokenizer": tokenizer,
        "patch_size": 16,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "chat_template": _LLAVA.replace("IMAGE", "<image>\n"),
    }


def _llava_tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer(["<pad>", "<s>", "</s>", "<image>"], pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def _chatml_tokenizer(*marks: str, **settings: Any) -> PreTrainedTokenizerFast:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *marks]
    return byte_tokenizer(special, pad_token="<|endoftext|>", eos_token="<|im_end|>", **settings)


def byte_tokenizer(special: list[str], **settings: Any) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on two sentences."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment] # the stub calls it read-only
    bpe.decoder = decoders.ByteLevel()  # type: ignore[assignment] # as above
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["what colour is the square in the middle?", "the red circle is left of the blue square, so the answer is B."], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **settings)
