"""The tiny base model: a LLaVA built from `transformers` classes and trained in the order of the real recipe.

First the vision tower learns to see (a dense classifier over patches), then, with the tower frozen, projector and language model
learn captions, grounding, bare facts of language and arithmetic, and direct answers (compare LLaVA, arXiv 2304.08485, section 4.2).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from insightv.files import replacing
from insightv.world.lessons import ALIGNMENT, INSTRUCTION, Course, Lesson, draw_lesson, vocabulary_corpus
from insightv.world.problems import draw_item
from insightv.world.questions import FAMILIES
from insightv.world.scenes import COLOURS, COLUMNS, NAMES, PATCH, ROWS, SHAPES, SIZE, Chart, Scene, Table, draw, draw_style

Report = Callable[[dict[str, Any]], None]

PAD, USER, ASSISTANT, END, IMAGE = "<pad>", "<|user|>", "<|assistant|>", "<|end|>", "<image>"
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}"
    "{% set text %}{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|end|>{% endset %}"
    "{% if m.role == 'assistant' %}{% generation %}{{ text }}{% endgeneration %}{% else %}{{ text }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WIDTH, HEADS, VISION_LAYERS, LANGUAGE_LAYERS, VOCABULARY = 192, 6, 3, 4, 640


def train_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that holds the world's words, cells and numbers as single tokens and can spell anything else."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r"</?\w+>|#+| ?[a-d][1-3]\b| ?\p{L}+| ?\d+| ?[^\s\p{L}\d]|\s+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = [PAD, USER, ASSISTANT, END, IMAGE, "<|system|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(vocabulary_corpus(), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, additional_special_tokens=special[1:])
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_processor() -> LlavaProcessor:
    """Tokenizer and image processor: 64 x 64 pixels as they are, 16 image tokens."""
    size = {"height": SIZE, "width": SIZE}
    image_processor = CLIPImageProcessorPil(size=size, crop_size=size, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=train_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token=IMAGE,
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(processor: LlavaProcessor, seed: int) -> LlavaForConditionalGeneration:
    """The untrained model, 3.3 million parameters; attention heads 32 wide, the least that vLLM serves."""
    torch.manual_seed(seed)
    tokenizer = processor.tokenizer
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=HEADS,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=WIDTH,
    )
    language = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LANGUAGE_LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=language,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(SIZE // PATCH) ** 2,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


NOISE = 0.5
"""Standard deviation of what is added to the tower's normalised features in its own training. A head can read the faintest trace, a language model
cannot: noise makes the tower say everything with strength."""


def to_pixels(scene: Scene, rng: np.random.Generator, difficulty: float) -> torch.Tensor:
    """A drawn scene as the image processor would give it: (3, 64, 64) in -1..1."""
    image = draw(scene, draw_style(rng, difficulty), rng)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)


GLYPHS = ("", *map(str, range(10)), *NAMES)
_HEADS = {"colour": len(COLOURS) + 1, "shape": len(SHAPES) + 1, "glyph": len(GLYPHS), "height": 13, "place": (ROWS + 1) * COLUMNS}
"""What is read off each patch. Without `place` the tower forgets where a patch is, and no language model can then say where a thing was found."""


def patch_targets(scene: Scene) -> np.ndarray:
    """What each of the 16 patches shows, (16, 5): colour, shape, glyph, height of the column's bar, 0 being none; and its place."""
    targets = np.zeros((ROWS + 1, COLUMNS, len(_HEADS)), np.int64)
    targets[..., 4] = np.arange((ROWS + 1) * COLUMNS).reshape(ROWS + 1, COLUMNS)
    colours = ["", *COLOURS]
    if isinstance(scene, Chart):
        for column, (colour, height) in enumerate(scene.bars):
            targets[:ROWS, column, 0] = colours.index(colour)
            targets[:ROWS, column, 3] = height
        for column, (name, colour) in enumerate(scene.legend):
            targets[ROWS, column, [0, 2]] = colours.index(colour), GLYPHS.index(name)
    elif isinstance(scene, Table):
        targets[:ROWS, :, 2] = np.reshape([GLYPHS.index(str(d)) for d in scene.digits], (ROWS, COLUMNS))
    else:
        for place, thing in enumerate(scene.cells):
            if thing:
                targets[place // COLUMNS, place % COLUMNS, :2] = colours.index(thing.colour), ["", *SHAPES].index(thing.shape)
    return targets.reshape(-1, len(_HEADS))


STEPS = {"vision": 1600, "alignment": 3600, "instruction": 3000}
"""Updates of the three phases with which the shipped base was trained."""


def train_base(out: Path, scratch: Path, seed: int, steps: dict[str, int], report: Report) -> None:
    """Train the base from nothing and save it in transformers' layout, bfloat16, under 10 MB; goes on from the last checkpoint in `scratch`."""
    steps = STEPS | steps
    scratch.mkdir(parents=True, exist_ok=True)
    processor = build_processor()
    model = build_model(processor, seed)
    train_vision(model, steps=steps["vision"], seed=seed, report=report, checkpoint=scratch / "vision")
    for name, course, peak in (("alignment", ALIGNMENT, 1e-3), ("instruction", INSTRUCTION, 7e-4)):
        train_language(model, processor, course, steps=steps[name], seed=seed, report=report, checkpoint=scratch / name, peak=peak)
    model.bfloat16().save_pretrained(out)
    processor.save_pretrained(out)


def train_vision(model: LlavaForConditionalGeneration, *, steps: int, seed: int, report: Report, checkpoint: Path, batch_size: int = 64) -> None:
    """Teach the vision tower to say what every patch shows, under all difficulties; in place."""
    tower = model.model.vision_tower
    torch.manual_seed(seed)
    heads = torch.nn.ModuleDict({name: torch.nn.Linear(WIDTH, size) for name, size in _HEADS.items()})
    learner = torch.nn.ModuleList([tower, heads])

    def loss_of(rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        pixels, targets = [], []
        for _ in range(batch_size):
            difficulty = float(rng.random())
            scene, _ = draw_item(rng, "base", str(rng.choice(list(FAMILIES))), difficulty)
            pixels.append(to_pixels(scene, rng, difficulty))
            targets.append(patch_targets(scene))
        wanted = torch.from_numpy(np.stack(targets))
        seen = functional.layer_norm(tower(torch.stack(pixels)).last_hidden_state[:, 1:], (WIDTH,))
        features = seen + torch.from_numpy(rng.normal(0, NOISE, seen.shape).astype(np.float32))
        outputs = [head(features) for head in heads.values()]
        losses = [functional.cross_entropy(output.flatten(0, 1), wanted[..., i].flatten()) for i, output in enumerate(outputs)]
        right = torch.stack([output.argmax(-1) == wanted[..., i] for i, output in enumerate(outputs)]).all(0).float().mean()
        return torch.stack(losses).sum(), {"patches_right": round(right.item(), 4)}

    _train(learner, loss_of, np.random.default_rng([seed, 1]), steps, report, checkpoint)


def train_language(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    course: Course,
    *,
    steps: int,
    seed: int,
    report: Report,
    checkpoint: Path,
    peak: float = 1e-3,
    batch_size: int = 32,
) -> None:
    """Teach projector and language model a course of lessons about frozen vision features; in place."""
    model.model.vision_tower.requires_grad_(False)
    batches: list[_Batch] = []

    def loss_of(rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        if not batches:
            batches.extend(_lesson_batches(processor.tokenizer, rng, course, batch_size, _GROUP))
        inputs, weights = batches.pop()
        weights = weights[:, 1:]
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.model(**inputs).last_hidden_state
            logits = model.lm_head(hidden[:, :-1][weights > 0])
        losses = functional.cross_entropy(logits.float(), inputs["input_ids"][:, 1:][weights > 0], reduction="none")
        return losses @ weights[weights > 0] / weights.sum(), {}

    model.set_attn_implementation("eager")  # bfloat16 SDPA has a slow backward on CPU: 1.7 times the step's whole time
    _train(model, loss_of, np.random.default_rng([seed, 3 if course.balance else 2]), steps, report, checkpoint, peak)
    model.set_attn_implementation("sdpa")


_Batch = tuple[dict[str, torch.Tensor], torch.Tensor]
_GROUP = 8
"""Batches drawn at once, so that rows of like length come together."""
SAVE_EVERY = 400
"""Steps between checkpoints: a multiple of `_GROUP`, since batches that are drawn and not yet used are in no checkpoint."""

Loss = Callable[[np.random.Generator], tuple[torch.Tensor, dict[str, float]]]


def _train(learner: torch.nn.Module, loss_of: Loss, rng: np.random.Generator, steps: int, report: Report, checkpoint: Path, peak: float = 1e-3) -> None:
    """AdamW with 5% warm-up and a cosine to a tenth, in place; a checkpoint every `SAVE_EVERY` steps, from which a killed training goes on."""
    parameters = [p for p in learner.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    warmup = max(1, steps // 20)
    for step in range(_load_state(checkpoint, learner, optimizer, rng) + 1, steps + 1):
        fraction = max(0.0, (step - warmup) / max(1, steps - warmup))
        for group in optimizer.param_groups:
            group["lr"] = peak * min(step / warmup, 0.55 + 0.45 * float(np.cos(np.pi * fraction)))
        loss, figures = loss_of(rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps:
            report({"step": step, "of": steps, "loss": round(loss.item(), 4), **figures})
        if step % SAVE_EVERY == 0 or step == steps:
            _save_state(checkpoint, step, learner, optimizer, rng)


def _save_state(path: Path, step: int, learner: torch.nn.Module, optimizer: torch.optim.Optimizer, rng: np.random.Generator) -> None:
    state = {"step": step, "learner": learner.state_dict(), "optimizer": optimizer.state_dict(), "rng": json.dumps(rng.bit_generator.state)}
    with replacing(path) as file:
        torch.save(state, file)


def _load_state(path: Path, learner: torch.nn.Module, optimizer: torch.optim.Optimizer, rng: np.random.Generator) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    learner.load_state_dict(state["learner"])
    optimizer.load_state_dict(state["optimizer"])
    rng.bit_generator.state = json.loads(state["rng"])
    return int(state["step"])


def _lesson_batches(tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator, course: Course, batch_size: int, count: int) -> list[_Batch]:
    """`count` batches of model inputs and the weight of each token in the loss, (B, T); rows of like length together."""
    rows = []
    for _ in range(batch_size * count):
        difficulty = float(rng.random())
        lesson = draw_lesson(rng, difficulty, course)
        tokens, weights = _lesson_tokens(tokenizer, lesson, course.balance)
        rows.append((tokens, weights, to_pixels(lesson.scene, rng, difficulty) if lesson.scene else None))
    rows.sort(key=lambda row: len(row[0]))
    groups = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return [_collate(groups[i], tokenizer.pad_token_id) for i in rng.permutation(len(groups))]


def _collate(rows: list[tuple[list[int], list[float], torch.Tensor | None]], pad: int) -> _Batch:
    width = max(len(tokens) for tokens, _, _ in rows)
    ids = torch.full((len(rows), width), pad)
    weights = torch.zeros((len(rows), width))
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, (tokens, weighed, _) in enumerate(rows):
        ids[i, : len(tokens)] = torch.tensor(tokens)
        weights[i, : len(tokens)] = torch.tensor(weighed)
        mask[i, : len(tokens)] = 1
    pixels = [p for _, _, p in rows if p is not None]
    inputs = {"input_ids": ids, "attention_mask": mask}
    return (inputs | {"pixel_values": torch.stack(pixels)} if pixels else inputs), weights


def _lesson_tokens(tokenizer: PreTrainedTokenizerFast, lesson: Lesson, balance: float) -> tuple[list[int], list[float]]:
    tokens: list[int] = []
    weights: list[float] = []
    picture = IMAGE * (SIZE // PATCH) ** 2 + "\n" if lesson.scene else ""
    for index, (question, answer) in enumerate(lesson.turns):
        asked = tokenizer(f"{USER}{picture if index == 0 else ''}{question}{END}{ASSISTANT}").input_ids
        said = tokenizer(f"{answer}{END}").input_ids
        tokens += asked + said
        weights += [0.0] * len(asked) + [float(len(said) ** -balance)] * len(said)
    return tokens, weights
