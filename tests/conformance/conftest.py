"""Tiny checkpoints as our trainings write them, for servers that are not ours."""

from pathlib import Path

import pytest
import torch

from insightv.config import LoraConfig
from insightv.models import checkpoints
from insightv.models.vlm import load
from insightv.training import adapters


@pytest.fixture(scope="module", params=["tiny_llava_next", "tiny_qwen"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint as our trainings write one."""
    source: Path = request.getfixturevalue(request.param)
    if request.param == "tiny_qwen":
        # A published checkpoint has it. The server's own transformers asks for it, though no video is ever sent.
        (source / "video_preprocessor_config.json").write_text('{"video_processor_type": "Qwen2VLVideoProcessor"}')
    path = tmp_path_factory.mktemp("trained")
    checkpoints.save(load(source), path)
    return path


@pytest.fixture(scope="module")
def adapted(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters of both agents on it, as our trainings write them."""
    folders = {name: tmp_path_factory.mktemp("adapters") / name for name in ("reasoner", "summarizer")}
    for name, folder in folders.items():
        torch.manual_seed(len(name))
        wrapped = adapters.add(load(trained).model, LoraConfig(r=8), name)
        for weight_name, weights in wrapped.named_parameters():
            if "lora_B" in weight_name:
                torch.nn.init.normal_(weights, std=0.3)
        adapters.save(wrapped, folder, name)
    return folders
