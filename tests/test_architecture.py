"""The layers of docs/design.md, read from the source: who may import whom, where the heavy libraries may appear, and what `--help` loads."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "insightv"

LAYERS = (
    ("records", "config", "config_file", "images", "files", "cache", "sorting", "rules"),
    ("answers", "replies", "chain_text", "journal", "bookkeeping", "store", "corrections"),
    ("models.chat",),
    ("prompts",),
    ("models",),
    ("generation", "datasets", "agents", "negative", "scale"),
    ("training", "evaluation", "serving", "viewing"),
    ("world",),
    (
        "stages",
        "plan",
        "rounds",
        "controls",
        "progress",
        "reuse",
        "processes",
        "preflight",
        "estimates",
        "table",
        "calibrate",
        "loop",
        "showing",
        "hosting",
        "benchmarking",
        "scoring",
        "verbs",
        "ablation",
        "child",
        "results",
        "publish",
    ),
    ("cli",),
)
"""From the bottom up. A name stands for a module or for a folder; the longest that fits places a module."""

ALLOWED = {
    "torch": ("models.vlm", "models.checkpoints", "models.local", "models.decoding", "models.towers", "training", "world.base"),
    "transformers": ("models.vlm", "models.checkpoints", "models.local", "models.decoding", "training", "world.base"),
    "peft": ("models.vlm", "models.pair", "training"),
    "accelerate": ("training",),
    "trl": ("training.with_trl",),
    "huggingface_hub": ("publish",),
    "ray": ("scale.cluster",),
    "aiohttp.web": ("serving", "world.teacher"),
    "fastapi": ("serving", "world.teacher"),
    "starlette": ("serving", "world.teacher"),
    "uvicorn": ("serving", "world.teacher"),
    "prometheus_client": ("serving",),
    "flask": ("serving", "world.teacher"),
    "http.server": ("serving", "world.teacher"),
}
"""Library -> the only rooms that may import it."""


def modules(package: Path) -> dict[str, ast.Module]:
    """Dotted name below the package -> syntax tree; a folder's `__init__` has the folder's name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imports(tree: ast.Module) -> Iterator[str]:
    """Every dotted name that the module imports, at any depth: for `from a import b` both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import hides its layer, write insightv..."
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inside(name: str, place: str) -> bool:
    """Whether a dotted name is the place or below it."""
    return name == place or name.startswith(f"{place}.")


def layer(name: str) -> int | None:
    """Height of a module in `LAYERS`, None if it has no place there; the package itself lies lowest, so it imports nothing."""
    if not name:
        return -1
    fits = [(len(place), height) for height, places in enumerate(LAYERS) for place in places if inside(name, place)]
    return max(fits)[1] if fits else None


def own_imports(trees: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """Module -> the package's other modules that it imports; a folder counts only where the folder itself is meant."""
    graph = {}
    for name, tree in trees.items():
        named = {target.removeprefix("insightv.") for target in imports(tree) if target.startswith("insightv.")}
        known = {target for target in named if target in trees}
        graph[name] = {target for target in known if not any(other != target and inside(other, target) for other in known)} - {name}
    return graph


def violations(trees: Mapping[str, ast.Module]) -> list[str]:
    """Imports that go upwards, modules without a layer, libraries outside their rooms."""
    wrong = [f"{name} has no place in LAYERS" for name in trees if layer(name) is None]
    for name, targets in own_imports(trees).items():
        height = layer(name)
        for target in sorted(targets):
            above = layer(target)
            if height is not None and above is not None and above > height:
                wrong.append(f"{name} imports {target}, which lies above it")
    for name, tree in trees.items():
        for target in sorted(set(imports(tree))):
            for library, rooms in ALLOWED.items():
                if inside(target, library) and not any(inside(name, room) for room in rooms):
                    wrong.append(f"{name} imports {target}, allowed only in {', '.join(rooms) or 'tests'}")
    return wrong


def test_imports_go_downwards_and_libraries_keep_to_their_rooms() -> None:
    assert violations(modules(PACKAGE)) == []


def test_modules_form_no_cycle() -> None:
    try:
        TopologicalSorter(own_imports(modules(PACKAGE))).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        ("store", "from insightv.models.endpoint import Endpoint", "store imports models.endpoint, which lies above it"),
        ("models.endpoint", "def late():\n    import insightv.world.scenes", "models.endpoint imports world.scenes, which lies above it"),
        ("evaluation.run", "from insightv import loop", "evaluation.run imports loop, which lies above it"),
        (
            "answers",
            "import torch.nn",
            "answers imports torch.nn, allowed only in models.vlm, models.checkpoints, models.local, models.decoding, models.towers, training, world.base",
        ),
        ("models.endpoint", "from aiohttp import web", "models.endpoint imports aiohttp.web, allowed only in serving, world.teacher"),
        ("", "from insightv.config import UserError", " imports config, which lies above it"),
        ("attic", "import json", "attic has no place in LAYERS"),
    ],
)
def test_a_planted_violation_is_found(name: str, source: str, complaint: str) -> None:
    trees = {**dict.fromkeys(("config", "models.endpoint", "world.scenes", "loop"), ast.parse("")), name: ast.parse(source)}
    assert complaint in violations(trees)


def test_a_planted_cycle_is_found() -> None:
    trees = {"store": ast.parse("import insightv.journal"), "journal": ast.parse("from insightv.store import Run")}
    with pytest.raises(CycleError):
        TopologicalSorter(own_imports(trees)).prepare()


def test_no_module_is_a_drawer_for_everything() -> None:
    names = {part for path in PACKAGE.rglob("*") for part in path.relative_to(PACKAGE).with_suffix("").parts}
    assert names.isdisjoint({"utils", "util", "common", "helpers", "misc"})


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['insightv', '--help']\n"
        "from insightv.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'scipy', 'matplotlib', 'pandas', 'aiohttp', 'numpy', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, f'loaded {sorted(heavy)}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout


def test_a_stage_of_its_own_loads_no_model_library_before_it_needs_one() -> None:
    code = "import sys, insightv.child\nprint(sorted({'torch', 'transformers', 'scipy.stats', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
