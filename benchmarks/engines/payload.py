"""What is sent: one noise image of 49 KB, the marker that names a row, and the messages of those engines that bring no prompts of their own.

The standard library alone, as in weather.py.
"""

import base64
import functools
import random
import struct
import zlib
from typing import Any

MARK = b"row-"
DIGITS = 9
MODEL = "teacher"
INSTRUCTION = (
    "You are a visual reasoning expert who solves a problem in explicit steps.\n"
    "You are given an image and a question. Write one reasoning step at a time, each as one JSON object and nothing else:\n"
    '{"summary": "a brief title of the step", "reasoning": "the detailed reasoning of this step", "action": "continue" or "summary"}\n'
    'Choose the action "continue" while more reasoning is needed, and "summary" when the reasoning suffices for the answer.\n'
    "Take at least two steps. Look at the image closely, state what you see before you draw conclusions from it, and verify doubtful points.\n"
    "When asked for the conclusion, write one JSON object and nothing else:\n"
    '{"summary": "what the reasoning has shown", "answer": "the final answer alone"}'
)
NEXT_STEP, CONCLUDE = "Write the next step.", "Write the conclusion."


@functools.cache
def image() -> bytes:
    """A PNG of 128 x 128 random pixels, which nothing compresses: 49 KB, or 66 KB of base64."""
    noise = random.Random(0).randbytes(128 * 128 * 3)
    lines = b"".join(b"\0" + noise[start : start + 128 * 3] for start in range(0, len(noise), 128 * 3))
    header = struct.pack(">IIBBBBB", 128, 128, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(lines, 1)) + _chunk(b"IEND", b"")


@functools.cache
def data_url() -> str:
    """The image as it is sent."""
    return f"data:image/png;base64,{base64.b64encode(image()).decode()}"


def question(row: int) -> str:
    """A row's question, whose marker the stub finds."""
    return f"How many of the squares are darker than their left neighbours? ({MARK.decode()}{row:0{DIGITS}d})"


def messages(row: int, steps: list[str]) -> list[dict[str, Any]]:
    """The conversation that asks for the step after these (the assistant's own texts), or after the fourth for the conclusion."""
    opening = [{"type": "image_url", "image_url": {"url": data_url()}}, {"type": "text", "text": f"{question(row)}\n\n{NEXT_STEP}"}]
    turns: list[dict[str, Any]] = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": opening}]
    for number, text in enumerate(steps, 1):
        turns += [{"role": "assistant", "content": text}, {"role": "user", "content": CONCLUDE if number == 4 else NEXT_STEP}]
    return turns


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
