"""Load a vision-language model with its processor, and turn messages into its tokens and pixels: the same way in training and inference."""

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import PIL.Image
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.processing_utils import ProcessorMixin
from transformers.utils.import_utils import is_torchvision_available

from insightv.config import UserError
from insightv.images import decode
from insightv.models.chat import Image, Message, Text

TAGS = ("<thoughts>", "</thoughts>", "<output>", "</output>")
"""Tags that a chain is written with; a tokenizer may have them as special tokens, and they are part of the text all the same."""

Part = Literal["vision", "projector", "language"]

_HASHED = ("*.safetensors", "*config.json", "tokenizer*.json", "vocab.json", "merges.txt", "chat_template*")
_PROJECTOR = re.compile(r"\b(multi_modal_projector|connector|merger|deepstack_merger_list|image_newline)\b")
_VISION = re.compile(r"\b(vision_tower|vision_model|visual)\b")


@dataclass
class VLM:
    """A model with its processor."""

    model: Any
    """An instance of a class behind `AutoModelForImageTextToText`, in eval mode."""
    processor: Any
    identity: str
    """Hash of weights, adapter and processor, with the precision unless it is float32: what has the same identity answers the same."""
    device: torch.device
    path: Path
    """Where it was loaded from."""
    sized: dict["Sizes", "Sized"] = field(default_factory=dict)
    """What is known of images by their sizes: those of one, or of several that are prepared together."""

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @cached_property
    def control(self) -> dict[str, int]:
        """Special tokens with their ids, but for the tags of a chain."""
        tokenizer = self.tokenizer
        added = {str(token): number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        named = {str(token): tokenizer.convert_tokens_to_ids(str(token)) for token in (*tokenizer.all_special_tokens, self.processor.image_token)}
        return {token: number for token, number in (added | named).items() if token not in TAGS}

    @cached_property
    def control_ids(self) -> frozenset[int]:
        """Ids of the special tokens that are no part of a text."""
        return frozenset(self.control.values())

    @cached_property
    def control_pattern(self) -> re.Pattern[str]:
        """Matches a special token written out in a text."""
        names = sorted((name for name in self.control if len(name) > 1), key=lambda name: (-len(name), name))
        return re.compile("|".join(map(re.escape, names)) or r"(?!)")


Sizes = tuple[tuple[int, int], ...]
"""Width and height of each image."""


@dataclass(frozen=True, slots=True)
class Sized:
    """What images of some sizes have in common."""

    ids: list[list[int]]
    """The tokens of each."""
    pixels: list[str]
    """Names of their tensors where the image processor alone makes them, else none: the processor then runs whole, text and all."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a model is given for one conversation."""

    input_ids: list[int]
    """The tokens, each image's placeholders expanded to as many as the model has features for it."""
    pixels: dict[str, Tensor]
    """The processor's tensors of all images of the conversation, ready for `collate_pixels`; empty without images."""


def load(path: Path, *, adapter: Path | None = None, dtype: str = "float32", device: str | None = None) -> VLM:
    """Load a checkpoint in transformers' layout, an adapter merged into it, onto `device` (this process's GPU where there is one, else the CPU).

    Nothing is fetched and no code of a checkpoint runs; a folder that is not a usable checkpoint is a `UserError`.
    """
    _require(path, "config.json", "model")
    if not any(path.glob("*.safetensors")):
        raise UserError(f"model {path} has no *.safetensors; convert its weights (other formats can run code and are not read)")
    if adapter:
        _require(adapter, "adapter_model.safetensors", "adapter")
    place = torch.device(device or (f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"))
    processors: Any = AutoProcessor
    models: Any = AutoModelForImageTextToText
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = processors.from_pretrained(path, **options)
        model, report = models.from_pretrained(path, dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise UserError(f"model {path} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    if missing := sorted(report["missing_keys"]):
        # The library would go on with random weights.
        raise UserError(f"model {path} lacks {len(missing)} of its weights, {missing[0]} among them; save it again with the class that it was made with")
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    identity = weights_hash(path, adapter) + ("" if dtype == "float32" else f"-{dtype}")
    return VLM(model.to(place).eval(), processor, identity, place, path)


def weights_hash(path: Path, adapter: Path | None = None) -> str:
    """32 hex digits over the bytes of weights, configuration, tokenizer and processor of a checkpoint and of its adapter."""
    files = [file for folder in (path, adapter) if folder for pattern in _HASHED for file in folder.glob(pattern)]
    stamps = tuple((file, (stat := file.stat()).st_mtime_ns, stat.st_size) for file in sorted(set(files)))
    return _hash_files(stamps, adapter)


def render(vlm: VLM, messages: Sequence[Message], *, generation_prompt: bool, prefill: str = "") -> str:
    """Write a conversation as the model's chat template has it, one placeholder per image: the one renderer of training and inference.

    `prefill` begins the turn that the generation prompt opens. Special tokens that stand in a text are broken up by a space, so that no
    question or chain can end a turn or pose as an image.
    """
    conversation = [{"role": message.role, "content": [_content(vlm, part) for part in message.parts]} for message in messages]
    text: str = vlm.processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=generation_prompt)
    return text + _defused(vlm, prefill)


def encode(vlm: VLM, messages: Sequence[Message], images: Callable[[str], bytes], *, generation_prompt: bool = True, prefill: str = "") -> Encoded:
    """Turn a conversation, its images read by digest, into what the model is given."""
    text = render(vlm, messages, generation_prompt=generation_prompt, prefill=prefill)
    return encode_text(vlm, text, [images(digest) for digest in image_digests(messages)])


def image_digests(messages: Sequence[Message]) -> list[str]:
    """Digests of a conversation's images in their order."""
    return [part.digest for message in messages for part in message.parts if isinstance(part, Image)]


def encode_text(vlm: VLM, text: str, images: Sequence[bytes] = ()) -> Encoded:
    """Tokenize a rendered conversation and put the tokens of each encoded image where its placeholder stands.

    The same as the processor's own output, but the text is tokenized once and images are prepared by themselves. A text whose
    placeholders are not as many as its images is a `ValueError`.
    """
    return expand(vlm, tokenize(vlm, text), prepare(vlm, images))


@dataclass(frozen=True, slots=True)
class Prepared:
    """The images of one conversation as the processor makes them."""

    ids: list[list[int]]
    """The tokens of each."""
    pixels: dict[str, Tensor]


def prepare(vlm: VLM, images: Sequence[bytes]) -> Prepared:
    """Decode and prepare the encoded images of one conversation; damaged ones are an `ImageError`."""
    return _prepare(vlm, [decode(data) for data in images])


def expand(vlm: VLM, tokens: Sequence[int], prepared: Prepared) -> Encoded:
    """Put the tokens of each image where its placeholder stands in a tokenized conversation."""
    marker, places = vlm.processor.image_token_id, iter(prepared.ids)
    if tokens.count(marker) != len(prepared.ids):
        raise ValueError(f"the chat template wrote {tokens.count(marker)} image placeholders for {len(prepared.ids)} images")
    return Encoded([one for token in tokens for one in (next(places) if token == marker else (token,))], prepared.pixels)


def count_image_tokens(vlm: VLM, sizes: Sequence[tuple[int, int]]) -> list[int]:
    """How many tokens images of these sizes (width, height) have in one conversation: found once for each size, by preparing a grey one."""
    found: list[int] = []
    for group in _together(vlm, sizes):
        if tuple(group) not in vlm.sized:
            # Not of one colour, whose pixels would be the same however they are resized.
            _prepare_together(vlm, [PIL.Image.linear_gradient("L").convert("RGB").resize(size) for size in group])
        found += [len(ids) for ids in vlm.sized[tuple(group)].ids]
    return found


def tokenize(vlm: VLM, text: str) -> list[int]:
    """Tokens of a rendered text; the tokenizer's own start token is added unless the chat template wrote it already."""
    bos = vlm.tokenizer.bos_token
    ids: list[int] = vlm.tokenizer(text, add_special_tokens=bos is None or not text.startswith(bos))["input_ids"]
    return ids


def detokenize(vlm: VLM, ids: Sequence[int]) -> str:
    """The text of generated tokens: special tokens left out, the tags of a chain kept."""
    kept = [token for token in ids if token not in vlm.control_ids]
    text: str = vlm.tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def collate_pixels(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Join the image tensors of a batch's rows along their first dimension; other dimensions are padded with zeros to the largest."""
    return {name: _join([row[name] for row in rows if name in row]) for name in {name: None for row in rows for name in row}}


def positions(model: Any, input_ids: Tensor, attention_mask: Tensor, pixels: Mapping[str, Tensor]) -> Tensor:
    """Position ids of padded prompts [B, L]: [B, L], or [3, B, L] for a model with multimodal RoPE, which places images in a grid."""
    grid = pixels.get("image_grid_thw")
    if grid is None:
        return (attention_mask.cumsum(-1) - 1).clamp(min=0)
    types = (input_ids == model.config.image_token_id).int()
    placed: Tensor = model.model.get_rope_index(input_ids, mm_token_type_ids=types, image_grid_thw=grid, attention_mask=attention_mask)[0]
    return placed


def parts(model: Any) -> dict[Part, list[str]]:
    """Names of the parameters of the vision tower, of the projector behind it, and of the language model with its head."""
    found: dict[Part, list[str]] = {"vision": [], "projector": [], "language": []}
    for name, _ in model.named_parameters():
        part: Part = "projector" if _PROJECTOR.search(name) else "vision" if _VISION.search(name) else "language"
        found[part].append(name)
    return found


def freeze(model: Any, train: Collection[Part] = ("projector", "language")) -> None:
    """Let only the named parts have gradients; the paper keeps the vision tower frozen."""
    trained = {name for part, names in parts(model).items() if part in train for name in names}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


def _construct_without_video() -> None:
    """Let processor classes that demand a video processor be built without one: video processors exist only with torchvision, images do without."""
    mixin: Any = ProcessorMixin
    original = mixin.get_attributes.__func__
    mixin.get_attributes = classmethod(lambda cls: [name for name in original(cls) if "video" not in name])


if not is_torchvision_available():
    _construct_without_video()


def _require(folder: Path, name: str, what: str) -> None:
    if not (folder / name).is_file():
        raise UserError(f"no {what} at {folder}: {name} is missing; give the folder of a checkpoint in transformers' layout")


@lru_cache(maxsize=64)
def _hash_files(stamps: tuple[tuple[Path, int, int], ...], adapter: Path | None) -> str:
    """Hash files that are known by path, time and size; an adapter's files do not collide with its base's."""
    total = hashlib.sha256()
    for file, _, _ in stamps:
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{'adapter/' if file.parent == adapter else ''}{file.name} {content}\n".encode())
    return total.hexdigest()[:32]


def _content(vlm: VLM, part: Text | Image) -> dict[str, str]:
    return {"type": "image"} if isinstance(part, Image) else {"type": "text", "text": _defused(vlm, part.text)}


def _defused(vlm: VLM, text: str) -> str:
    return vlm.control_pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


def _together(vlm: VLM, images: Sequence[Any]) -> list[Sequence[Any]]:
    """Groups of images that are prepared together: LLaVA-OneVision cuts one into tiles, but not several; elsewhere each is by itself."""
    return [images] if len(images) > 1 and "batch_num_images" in vlm.processor.image_processor.model_input_names else [[image] for image in images]


def _prepare(vlm: VLM, images: Sequence[PIL.Image.Image]) -> Prepared:
    groups = [_prepare_together(vlm, group) for group in _together(vlm, images)]
    return Prepared([ids for group in groups for ids in group.ids], collate_pixels([group.pixels for group in groups]))


def _prepare_together(vlm: VLM, images: Sequence[PIL.Image.Image]) -> Prepared:
    """As the processor has it, which reads the text of all the images' tokens anew each time; where sizes are known, the image processor is enough."""
    sizes = tuple(image.size for image in images)
    known = vlm.sized.get(sizes)
    if known and known.pixels:
        given = vlm.processor.image_processor(images=[list(images)], return_tensors="pt")
        return Prepared(known.ids, {name: given[name] for name in known.pixels})
    prepared = _process(vlm, images)
    if not known:
        given = vlm.processor.image_processor(images=[list(images)], return_tensors="pt")
        same = all(name in given and torch.equal(given[name], value) for name, value in prepared.pixels.items())
        vlm.sized[sizes] = Sized(prepared.ids, list(prepared.pixels) if same else [])
    return prepared


def _process(vlm: VLM, images: Sequence[PIL.Image.Image]) -> Prepared:
    processor = vlm.processor
    given = processor(images=[list(images)], text=[processor.image_token * len(images)], add_special_tokens=False, return_tensors="pt")
    pixels = {name: value for name, value in given.items() if name not in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")}
    ids = given["input_ids"][0].tolist()
    # Several images that are prepared together are not cut into tiles, and have as many tokens each.
    each = len(ids) // len(images)
    return Prepared([ids[start : start + each] for start in range(0, len(ids), each)], pixels)


def _join(tensors: Sequence[Tensor]) -> Tensor:
    shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    if all(list(tensor.shape[1:]) == shape for tensor in tensors):
        return torch.cat(list(tensors))
    missing = [[want - have for want, have in zip(shape, tensor.shape[1:], strict=True)] for tensor in tensors]
    # `pad` wants pairs (before, after) from the last dimension on.
    return torch.cat([functional.pad(tensor, [n for after in reversed(lacks) for n in (0, after)]) for tensor, lacks in zip(tensors, missing, strict=True)])
