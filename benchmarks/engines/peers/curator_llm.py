"""curator's LLM with its online OpenAI processor and its files of requests and responses; a chain is a call per step, since it has no other."""

import importlib.util
import json
import logging
import os
import tempfile
from pathlib import Path

_SCRATCH = tempfile.TemporaryDirectory()
_LITELLM = importlib.util.find_spec("litellm")
assert _LITELLM and _LITELLM.origin
os.environ |= {
    # It brings the tokenizer with which curator guesses at tokens, and which is otherwise fetched.
    "TIKTOKEN_CACHE_DIR": str(Path(_LITELLM.origin).parent / "litellm_core_utils" / "tokenizers"),
    "HOME": _SCRATCH.name,
    "CURATOR_CACHE_DIR": f"{_SCRATCH.name}/cache",
    "CURATOR_DISABLE_RICH_DISPLAY": "1",
    "TELEMETRY_ENABLED": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "HF_HUB_OFFLINE": "1",
    "OPENAI_API_KEY": "none",
}

from bespokelabs import curator  # noqa: E402 - it reads the environment when it is imported

from benchmarks.engines import payload  # noqa: E402
from benchmarks.engines.measure import Meter, say  # noqa: E402
from benchmarks.engines.peers import arguments  # noqa: E402


class Ask(curator.LLM):  # type: ignore[misc]
    """One request a row."""

    def prompt(self, input: dict[str, str]) -> list[dict[str, object]]:
        """The conversation so far; the steps are JSON, since a column has one type."""
        return payload.messages(int(input["row"]), json.loads(input["steps"]))

    def parse(self, input: dict[str, str], response: str) -> dict[str, str]:
        """The row with one step more."""
        return {"row": input["row"], "steps": json.dumps([*json.loads(input["steps"]), response])}


def main() -> None:
    """One run; the result is the last line."""
    given = arguments.read(__doc__)
    logging.disable(logging.INFO)
    model = Ask(
        model_name="gpt-4o-mini",
        backend="openai",
        generation_params={"temperature": 0.7, "top_p": 0.95, "max_tokens": 1024},
        backend_params={
            "base_url": given.url,
            "max_requests_per_minute": 10**7,
            "max_tokens_per_minute": 10**10,
            "max_concurrent_requests": given.slots,
            "require_all_responses": False,
        },
    )
    payload.data_url()
    rows: object = [{"row": str(row), "steps": "[]"} for row in range(given.rows)]
    with Meter() as meter:
        for _ in range(given.steps):
            rows = model(rows).dataset
    say(done=len(rows), **meter.result)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
