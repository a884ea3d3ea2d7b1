"""What the reference of DPO says of preference pairs, once and for all: `python -m insightv.training.reference JOB.json` scores them.

In DPO (arXiv 2305.18290, equation 7) the reference never changes, so log p_ref(y | x) of both completions is computed when the pairs are made,
lies beside them under the hash of the model that gave it, and serves every epoch and every training on these pairs. No training holds a second model.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader

from insightv.config import DpoConfig, TrainConfig, UserError
from insightv.files import replacing
from insightv.models.vlm import VLM, load, weights_hash
from insightv.training import attention, job
from insightv.training.packing import answer_logprobs, collate, moved
from insightv.training.prepared import Rows, prepare_rows
from insightv.training.ranks import together
from insightv.training.run import Report, in_bfloat16, loader_workers, tell

Reference = Mapping[str, Sequence[float]]
"""By row id: the reference's log-probabilities of the chosen and of the rejected completion."""

FILE = "reference.parquet"
_IDENTITY = b"reference"
"""Key of the file's metadata under which the scoring model's identity stands."""


def identity(model: Path, adapter: Path | None, config: TrainConfig) -> str:
    """What log-probabilities depend on: the hash of weights, adapter, tokenizer and processor, and the precision that they are computed in."""
    return weights_hash(model, adapter) + ("-bfloat16" if in_bfloat16(config) else "")


def score(model: Path, data: Path, out: Path, config: DpoConfig, work: Path, *, adapter: Path | None = None, report: Report | None = None) -> dict[str, Any]:
    """Compute the log-probabilities of the pairs in `data` under the checkpoint `model` (with `adapter` on it) and write them to `out`.

    `out`/reference.parquet has the columns `id`, `pair` (a hash of the tokens), `ref_chosen_logps` and `ref_rejected_logps`. Every process computes
    its share of the batches, each once; `work` keeps them, so that a scoring that was killed goes on from there.
    """
    work.mkdir(parents=True, exist_ok=True)
    vlm = load(model, adapter=adapter)
    attention.choose(vlm.model, half=in_bfloat16(config))
    rows, dropped = prepare_rows(vlm, data, config, work, report)
    name, processes = identity(model, adapter, config), together()
    ids, widths = rows.ids, rows.widths.tolist()
    ordered = sorted(range(len(rows)), key=widths.__getitem__)
    batches = [ordered[start : start + config.batch_size] for start in range(0, len(ordered), config.batch_size)]
    known = _kept(work, name)
    owed = [batch for batch in batches[processes.process_index :: processes.num_processes] if ids[batch[0]] not in known]
    # Unbuffered: a batch counts once its line is written.
    with (work / f"{name}-{processes.process_index}.jsonl").open("ab", buffering=0) as file:
        for done, sums in enumerate(log_probabilities(vlm, rows, owed, config), start=1):
            # The leading line break ends a line that a kill left half-written.
            file.write(b"\n" + json.dumps(sums).encode())
            if processes.is_main_process:
                tell({"step": len(batches) - (len(owed) - done) * processes.num_processes, "of": len(batches)}, work, report)
    processes.wait_for_everyone()
    if processes.is_main_process:
        _write(out, name, rows, _kept(work, name))
    processes.wait_for_everyone()
    return {"rows": len(rows), "dropped": dropped, "reference": name}


def read(folder: Path, name: str, rows: Rows) -> Reference:
    """The log-probabilities that `score` wrote to `folder`, for these rows.

    Those of another model than the one of identity `name`, or of other pairs, are a `UserError`.
    """
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"no log-probabilities of a reference at {path}; score the pairs first")
    table = pq.read_table(path)
    made_by = (table.schema.metadata or {}).get(_IDENTITY, b"an unnamed model").decode()
    if made_by != name:
        raise UserError(f"{path} holds log-probabilities of the reference {made_by}, but this training's is {name}: score the pairs again with it")
    known = {row["id"]: row for row in table.to_pylist()}
    strange = [name for name, pair in zip(rows.ids, rows.digests, strict=True) if known.get(name, {}).get("pair") != pair]
    if strange:
        some = f"{len(strange)} of {len(rows)} are not in it as they are now, {', '.join(strange[:5])} among them"
        raise UserError(f"{path} is of other pairs, or of a reference with another vocabulary: {some}")
    return {name: (known[name]["ref_chosen_logps"], known[name]["ref_rejected_logps"]) for name in rows.ids}


def _kept(work: Path, name: str) -> dict[str, list[float]]:
    known: dict[str, list[float]] = {}
    for path in work.glob(f"{name}-*.jsonl"):
        for line in path.read_bytes().splitlines():
            with suppress(ValueError):
                known |= json.loads(line)
    return known


def _write(out: Path, name: str, rows: Rows, known: Reference) -> None:
    chosen, rejected = zip(*(known[row_id] for row_id in rows.ids), strict=True)
    table = pa.table({"id": rows.ids, "pair": rows.digests, "ref_chosen_logps": chosen, "ref_rejected_logps": rejected})
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / FILE) as file:
        pq.write_table(table.replace_schema_metadata({_IDENTITY: name}), file)


@torch.no_grad()
def log_probabilities(vlm: VLM, rows: Rows, batches: Sequence[list[int]], config: TrainConfig) -> Iterator[dict[str, list[float]]]:
    """Yield, for batches of places in `rows`, the sums [chosen, rejected] of each pair by its row id."""
    gather = partial(collate, pad_id=vlm.tokenizer.pad_token_id)
    for batch in DataLoader(rows, batch_sampler=batches, collate_fn=gather, num_workers=loader_workers(config)):
        with torch.autocast(vlm.device.type, torch.bfloat16, enabled=in_bfloat16(config)):
            sums = answer_logprobs(vlm.model, moved(batch, vlm.device)).sums
        yield dict(zip(batch["row_ids"], sums.tolist(), strict=True))


if __name__ == "__main__":
    job.main(score, DpoConfig)
