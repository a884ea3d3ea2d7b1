"""datatrove's InferenceRunner against an endpoint, with its cache of requests in SQLite and its checkpoints; a rollout is a row."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceRunner
from datatrove.pipeline.writers import JsonlWriter

from benchmarks.engines import payload
from benchmarks.engines.measure import Meter, say
from benchmarks.engines.peers import arguments


def main() -> None:
    """One run; the result is the last line."""
    given = arguments.read(__doc__)

    async def rollout(document: Document, generate: Any) -> str:
        steps: list[str] = []
        for _ in range(given.steps):
            steps.append((await generate({"messages": payload.messages(int(document.id), steps)})).text)
        return steps[-1]

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        config = InferenceConfig(
            server_type="endpoint",
            endpoint_url=given.url.removesuffix("/v1"),
            model_name_or_path=payload.MODEL,
            max_concurrent_generations=given.slots,
            max_concurrent_documents=given.slots + given.slots // 2,
            default_generation_params={"temperature": 0.7, "top_p": 0.95, "max_tokens": 1024},
            request_timeout=300.0,
        )
        writer = JsonlWriter(str(folder / "out"), output_filename="${rank}_chunk_${chunk_index}.jsonl", compression=None)
        runner = InferenceRunner(rollout, config, writer, checkpoints_local_dir=str(folder / "checkpoints"), records_per_chunk=500)
        payload.data_url()
        documents = (Document(text="", id=str(row)) for row in range(given.rows))
        with Meter() as meter:
            asyncio.run(runner.run_async(documents, rank=0))
        done = sum(len(path.read_bytes().splitlines()) for path in (folder / "out").rglob("*.jsonl"))
    say(done=done, **meter.result)


if __name__ == "__main__":
    main()
