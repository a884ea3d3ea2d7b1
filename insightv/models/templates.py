"""Chat templates of the language models below LLaVA-NeXT, with the system prompts that its authors trained with."""

from collections.abc import Collection

_PARTS = (
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
)
_VICUNA = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
_LLAMA3 = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)


def _system(text: str) -> str:
    """The system prompt where the conversation brings none."""
    return "{% if messages[0].role != 'system' %}" + text + "{% endif %}"


TEMPLATES = {
    "llama3": "{{ bos_token }}"
    + _system(f"<|start_header_id|>system<|end_header_id|>\n\n{_LLAMA3}<|eot_id|>")
    + "{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    + _PARTS
    + "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    "chatml": _system("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")
    + "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    + _PARTS
    + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "mistral": "{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %} "
    + _PARTS
    + "{{ eos_token }}{% elif message.role == 'user' %}[INST] "
    + _PARTS
    + " [/INST]{% else %}"
    + _PARTS
    + "\n{% endif %}{% endfor %}",
    "vicuna": "{{ bos_token }}"
    + _system(f"{_VICUNA} ")
    + "{% for message in messages %}{% if message.role == 'user' %}USER: "
    + _PARTS
    + " {% elif message.role == 'assistant' %}ASSISTANT: "
    + _PARTS
    + "{{ eos_token }}{% else %}"
    + _PARTS
    + " {% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}",
}
"""By the name of the language model's family."""


def family(vocabulary: Collection[str]) -> str:
    """Which template a tokenizer was made for, by its special tokens."""
    if "<|start_header_id|>" in vocabulary:
        return "llama3"
    return "chatml" if "<|im_start|>" in vocabulary else "mistral" if "[INST]" in vocabulary else "vicuna"
