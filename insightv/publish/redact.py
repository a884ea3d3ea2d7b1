"""What stays at home: addresses of endpoints, keys and folders, taken out of settings and of texts."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel

from insightv.config import Config, EndpointConfig

Redact = Callable[[str], str]

REMOVED = "[removed]"
ROLES = ("generator", "judge", "scorer")

_SECRET_NAME = re.compile(r"(?i).*(api[_-]?key|secret|passw(or)?d|authorization|credentials?|bearer)|(.*[_-])?token")
_SECRET = re.compile(r"\b(?:sk|hf|gsk|ghp|xox[a-z])[-_][A-Za-z0-9_-]{16,}|(?i:\bbearer\s+[\w.~+/-]{8,}=*)")
_ADDRESS = re.compile(
    r"(?i)\b[a-z][a-z0-9+.-]*://[^\s\"'`<>\\]+"
    r"|(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?(?![\w.])"
    r"|\b(?:localhost|(?:[\w-]+\.)+[a-z]{2,}):\d{2,5}\b"
)
_WHOLE_ADDRESS = re.compile(r"(?i)[a-z][a-z0-9+.-]*://\S+")
_FOLDERS = re.compile(r"(?<![\w.~/:<-])~?/(?=[A-Za-z_.])(?:[^\s/\"'`\\:;,()<>\[\]]+/)+")


def redactor(config: Config, run: Path) -> Redact:
    """Takes out of a text what the config and this machine are known to hold: addresses, keys in the environment, the way to a folder.

    For texts of the user's own, such as prompts, which are otherwise to be published word for word.
    """
    roles = [getattr(config.models, role) for role in ROLES]
    named = {role.model for role in roles}
    words = {word.casefold(): REMOVED for word in (*_keys(roles), *_addresses(config)) if word not in named}
    folders = {str(way) for folder in _folders(config, run) for way in (folder.absolute(), folder.resolve()) if len(way.parts) > 1}
    words |= {f"{folder}/".casefold(): "" for folder in folders} | {folder.casefold(): Path(folder).name for folder in folders}
    # The longest first: an address holds its host. What ends in a slash may go on with a word.
    listed = "|".join(re.escape(word) + ("" if word.endswith("/") else r"(?![\w-])") for word in sorted(words, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w.-])(?:{listed})", re.IGNORECASE)
    return lambda text: pattern.sub(lambda match: words.get(match[0].casefold(), REMOVED), text)


def machine_text(text: str, redact: Redact) -> str:
    """A text that no user wrote, as the reason of a failure: besides what is known, whatever looks like an address, a key or a folder goes."""
    text = _SECRET.sub(REMOVED, _ADDRESS.sub(REMOVED, redact(text)))
    return _FOLDERS.sub("", text)


def clean(value: Any, redact: Redact, *, secrets: bool = True) -> Any:
    """A JSON value with its texts redacted and absolute paths cut to their last name; with `secrets` also without what is named like a secret."""
    if isinstance(value, dict):
        return {name: clean(part, redact, secrets=secrets) for name, part in value.items() if not (secrets and _SECRET_NAME.fullmatch(str(name)))}
    if isinstance(value, list):
        return [clean(part, redact, secrets=secrets) for part in value]
    if not isinstance(value, str):
        return value
    value = "" if _WHOLE_ADDRESS.fullmatch(value) else _SECRET.sub(REMOVED, redact(value))
    return Path(value).name if re.fullmatch(r"~?/\S*/\S*", value) else value


def settings(config: Config, run: Path) -> dict[str, Any]:
    """The config as it is published: it can be loaded again, once its reader has filled in addresses, files and a base of their own."""
    redact = redactor(config, run)
    values = config.model_dump(mode="json")
    values["run"] = f"runs/{re.sub(r'[^A-Za-z0-9_.+-]+', '-', run.resolve().name)}"
    values["problems"] = {split: path and Path(path).name for split, path in values["problems"].items()}
    values["models"]["base"] = values["models"]["base"] and Path(values["models"]["base"]).name
    for role in ROLES:
        for setting in ("url", "replicas", "api_key_env"):
            del values["models"][role][setting]
        values["models"][role]["extra"] = _free(values["models"][role]["extra"], redact)
    values["journal"] = None
    values["reuse"] = []
    # A command line may hold anything.
    values["dpo"]["server"] = None
    for training in ("reasoner", "summarizer", "single", "dpo"):
        values[training]["arguments"] = _free(values[training]["arguments"], redact)
    published: dict[str, Any] = clean(values, redact)
    return published


def _free(value: Any, redact: Redact) -> Any:
    """Settings that are passed through to a library or a server: who knows what stands there."""
    if isinstance(value, dict):
        return {name: _free(part, redact) for name, part in value.items()}
    if isinstance(value, list):
        return [_free(part, redact) for part in value]
    return machine_text(value, redact) if isinstance(value, str) else value


def _keys(roles: Iterable[EndpointConfig]) -> Iterator[str]:
    # A stand-in for a key, such as EMPTY, may be a word of any text.
    yield from (key for role in roles if len(key := os.environ.get(role.api_key_env, "")) >= 8)


def _addresses(value: Any) -> Iterator[str]:
    """Every address in settings, whatever setting it is, and its parts that tell where it leads."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _addresses(part)
    elif isinstance(value, str) and _WHOLE_ADDRESS.fullmatch(value):
        parts = urlsplit(value)
        found = (value, value.rstrip("/"), parts.netloc, parts.netloc.rpartition("@")[2], parts.hostname, parts.password)
        yield from (word for word in found if word)


def _folders(config: Config, run: Path) -> Iterator[Path]:
    yield from (Path.cwd(), Path.home(), run.absolute().parent, config.run.absolute().parent)
    yield from (path.absolute().parent for _, path in config.problems if path)
    yield from (path.absolute().parent for path in (config.models.base, config.journal) if path)
