"""What another trainer makes of a data set that was exported for it: `PYTHON loaders.py LAYOUT FOLDER`, in an environment that holds that trainer.

Prints a JSON list, for each row the texts and how many images came with them.
"""

import json
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

Rows = list[dict[str, Any]]


def llama_factory(folder: str) -> Rows:
    """Its loader and the converter of ShareGPT's form."""
    from benchmarks.trainers.llama_factory import import_for_images_alone

    import_for_images_alone()
    from llamafactory.data.loader import _load_single_dataset
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.hparams import DataArguments

    [attributes] = get_dataset_list(["insightv"], folder)
    data = DataArguments(dataset_dir=folder, template="default", overwrite_cache=True)
    model = SimpleNamespace(cache_dir=None, hf_hub_token=None)
    loaded = _load_single_dataset(attributes, model, data, SimpleNamespace(local_process_index=0, dataloader_num_workers=0))
    return [
        {
            "texts": [turn["content"] for turn in row["_prompt"] + row["_response"]],
            "images": sum(os.path.isfile(path) for path in row["_images"] or ()),
        }
        for row in loaded
    ]


def ms_swift(folder: str) -> Rows:
    """Its loader, which also brings columns into order."""
    from swift.dataset import load_dataset

    loaded, _ = load_dataset([f"{folder}/data.jsonl"])
    return [
        {
            "texts": [turn["content"] for turn in row["messages"]] + ([row["rejected_response"]] if row.get("rejected_response") else []),
            "images": sum(os.path.isfile(f"{folder}/{image['path']}") for image in row["images"] or ()),
        }
        for row in loaded
    ]


def verl(folder: str) -> Rows:
    """Its data set for RL, which cuts prompts at the marks of images."""
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    config = OmegaConf.create({"filter_overlong_prompts": False, "cache_dir": f"{folder}/cache"})
    # Without a processor it refuses images; which one it is matters only to what is filtered.
    loaded = RLHFDataset(f"{folder}/train.parquet", tokenizer=None, config=config, processor=SimpleNamespace())
    rows = []
    for row in (loaded[place] for place in range(len(loaded))):
        contents = [turn["content"] for turn in row["raw_prompt"]]
        parts = [part for content in contents for part in ([{"type": "text", "text": content}] if isinstance(content, str) else content)]
        texts = [part["text"] for part in parts if part["type"] == "text"] + [row["reward_model"]["ground_truth"]]
        rows.append({"texts": texts, "images": sum(part["image"].size == (2, 2) for part in parts if part["type"] == "image")})
    return rows


LOADERS: dict[str, Callable[[str], Rows]] = {"llama-factory": llama_factory, "ms-swift": ms_swift, "verl": verl}

if __name__ == "__main__":
    found = LOADERS[sys.argv[1]](sys.argv[2])
    print("\n" + json.dumps(found))
