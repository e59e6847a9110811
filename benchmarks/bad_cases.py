"""Cases of bad input, at random from a seed: policies, profiles, links, layouts, prompts, models, options, scores.

Knows what users may get wrong; knows nothing of how it is answered (`bad_input.py`).
"""

import copy
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np
from safetensors.numpy import load_file, save

from pabtune.engines.engine import ENGINES
from pabtune.records.interconnects import INTERCONNECTS
from pabtune.records.policies import SCHEMA as POLICY_SCHEMA
from pabtune.records.policies import MadeFor, Policy
from pabtune.records.profiles import SCHEMA as PROFILE_SCHEMA
from pabtune.records.profiles import Profile, checksum_of
from pabtune.records.rules import Rule

ROOT = Path(__file__).parent.parent
PROFILE = ROOT / "profiles" / "shapes-30steps.json"
ARRAYS = load_file(PROFILE.with_suffix(".safetensors"))
POLICY = Policy(
    name="every key",
    rules=(
        Rule(kind="spatial", range=2, window=(4, 26), anchor="start"),
        Rule(kind="cross", range=6, noise_window=(0.45, 0.93), layers=(0, 1)),
        Rule(kind="cross", compute=(0, 1, 5, 9), layers=(2,)),
        Rule(kind="mlp", count=12, first=3, last=2, transformer="transformer", payload="linear", damping=0.5),
    ),
    variants={"still": (Rule(kind="spatial", range=4, first=2, last=2),)},
    made_for=MadeFor(
        steps=30, sigmas=tuple(round(1 - step / 30, 6) for step in range(30)), settings={"size": "8x24x24"}
    ),
    evidence={"verdict": "accept", "prompts": 72},
)

MODEL_INDEX = {
    "_class_name": "WanPipeline",
    "_diffusers_version": "0.42.1",
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
}
WAN_CONFIG = {
    "_class_name": "WanTransformer3DModel", "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 12,
    "in_channels": 16, "out_channels": 16, "text_dim": 32, "freq_dim": 32, "ffn_dim": 32, "patch_size": [1, 2, 2],
}  # fmt: skip

RAW = (
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    "9" * 5000,
    "-" + "9" * 30,
    "1e308",
    "1.0",
    "[" * 2000,
    '{"a":' * 2000,
    '"\\ud800"',
)
"""Values that only JSON's text can hold."""

VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 7, 0.5, 2.0, 1e30, 1e-320, 2**63, 2**64 - 1, "", "x" * 100_000, "../../x", "a\x00b",
    "\n", "é", [], {}, [1], ["a"], [[]], {"a": 1}, [1.0, 9.0], [0, 2.0], [[1] * 1000] * 20, ["a", 1] * 500,
)  # fmt: skip

TEXTS = (
    "", " ", "-1", "0", "1", "2", "3.0", "1e3", "nan", "inf", "-inf", "1e400", "1e-320", "9" * 20, "9" * 400,
    "9" * 5000, "٣", "x" * 300, "x" * 100_000, "../" * 2000, "/dev/null", "/dev/zero", "/proc/self/mem", ".", "/",
    "\udcff", "\x1b[31m", "meta", "cuda:99", "cpu:1", "mps", "0x0x0", "1x1x1", "٩x٩x٩", "99999x99999x99999", "2x16x16",
    "os:system", "sys:exit", "math:pi", ":x", "a:", ".a:b", "shapes>=-1", "shapes>=-9e9", "os:system>=-1", "prompt=x",
    "generator=1", "return_dict=false", "output_type=latent", "num_inference_steps=3", "latents=5",
    "guidance_scale=high", "guidance_scale=1e999", "x=" + "[" * 3000, "callback_on_step_end=1", "1,2,4", "1,99999",
    "1," * 3000, "8GiB", "1B", "a red square", "{}", "[]", "nvlink", "steps:22", "every:2", "every:9:linear:9",
    "postgresql://u:pass-word@h/d", "postgresql://u:pass-word@h:port/d", "sqlite:////dev/null/x",
    "sqlite:///" + "x" * 300, "x" * 300 + ".journal", "x" * 300 + ".mp4", "x" * 250 + ".gif", "x.gif", "{folder}",
    "{folder}/a.json",
)  # fmt: skip
"""Values of options."""

SCORE_BODIES = (
    "return 50.0", "return 50", "import numpy as np; return np.float32(50)",
    "import numpy as np; return np.array([[50.0]])", "import torch; return torch.tensor([50.0], requires_grad=True)",
    "return float('nan')", "return float('inf')", "return None", "return 'much'", "return '50'", "return b'5'",
    "return [50.0]", "return {'a': 1}", "return video", "import torch; return torch.ones(3)", "return 10**400",
    "return 1j", "raise ValueError('no\\nnot at all')", "raise SystemExit(0)", "import sys; sys.exit('x' * 10000)",
    "1 / 0", "return missing", "raise KeyError", "video[:] = 0; return 50.0", "def f(): return f()\n    return f()",
    "raise RuntimeError('x' * 100000)", "return object()", "return video.mean",
    "import numpy as np; return np.array([])", "return True",
)  # fmt: skip
SCORE_FILES = (
    "def score(video, prompt):\n    {body}\n", "def score():\n    {body}\n", "score = 5\n", "def score(video, prompt:\n",
    "raise SystemExit(3)\n", "raise RuntimeError('at import')\n", "import not_there\n", "\x00", "class score:\n    pass\n",
)  # fmt: skip

Words = tuple[str, ...]
COMMANDS: Mapping[str, Words] = {
    "export": ("export", "pab246", "--to", "diffusers"),
    "cost": ("cost", str(PROFILE), "--policy", "pab246"),
    "cost of a model": ("cost", "shapes", "--policy", "none"),
    "prompts": ("prompts", "shapes", "--count", "3", "--out", "{folder}/p.jsonl"),
    "models": ("models",),
    "policies": ("policies",),
    "generate": (
        "generate", "shapes", "--prompt", "a red square", "--steps", "4", "--out", "{folder}/v.gif", "--split-samples", "2",
    ),
    "evaluate": ("evaluate", "shapes", "--policy", "none", "--prompts", "{folder}/one.txt", "--steps", "4"),
    "profile": ("profile", "shapes", "--prompts", "{folder}/one.txt", "--steps", "4", "--out", "{folder}/p.json"),
    "search": ("search", str(PROFILE), "--budget", "shapes>=-1", "--out", "{folder}/o.json", "--trials", "1", "--floor", "x"),
    "bench-links": ("bench-links", "--out", "{folder}/link.json", "--device", "meta"),
    "demo": ("demo", "--out", "{folder}/one.txt", "--trials", "0"),
    "demo-parallel": ("demo-parallel", "--policy", "none of them"),
}  # fmt: skip
"""A quick command of each verb: where it would take long or start processes, one that is refused in the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Something to try.

    Attributes:
        kind: what was spoiled.
        words: of the command line; `{folder}` stands for the folder with the files.
        files: by name.
        record: makes a record of a document instead, which its JSON Schema must allow.
        document: for `record`.
        schema: of that document.
    """

    kind: str
    words: Words = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    record: Callable[[Any], object] | None = None
    document: Any = None
    schema: str = ""


def cases(seed: int, count: int) -> Iterator[Case]:
    """The same cases for the same seed."""
    rng = random.Random(seed)
    makers, weights = zip(*MAKERS.items(), strict=True)
    for _ in range(count):
        yield rng.choices(makers, weights)[0](rng)


def policy_case(rng: random.Random) -> Case:
    words = rng.choice(
        [
            ("export", "{folder}/f.json", "--to", rng.choice(list(ENGINES))),
            ("cost", str(PROFILE), "--policy", "{folder}/f.json", "--json"),
            ("cost", "shapes", "--policy", "{folder}/f.json", "--gpus", "1,2", "--steps", rng.choice(["30", "12"])),
            ("evaluate", "shapes", "--policy", "{folder}/f.json", "--prompts", "{folder}/one.txt", "--device", "meta"),
        ]
    )
    content = spoiled_text(rng, POLICY.to_document())
    return Case(kind="policy", words=words + options_at_times(rng, "--content", "still"), files={"f.json": content})


def profile_case(rng: random.Random) -> Case:
    document, arrays = json.loads(PROFILE.read_text()), dict(ARRAYS)
    if rng.random() < 0.5:
        name = rng.choice(sorted(arrays))
        arrays[name] = spoiled_array(rng, arrays[name])
        document["arrays"]["checksum"] = checksum_of(arrays)
        content = json.dumps(document).encode()
    else:
        content = spoiled_text(rng, document)
    words = rng.choice(
        [
            ("cost", "{folder}/f.json", "--policy", "pab246", "--gpus", "1,2,8", "--json"),
            ("cost", "shapes", "--policy", "none", "--profile", "{folder}/f.json"),
            ("search", "{folder}/f.json", "--budget", "shapes>=-1", "--out", "{folder}/o.json", "--floor", "x"),
        ]
    )
    return Case(kind="profile", words=words, files={"f.json": content, PROFILE.stem + ".safetensors": save(arrays)})


def link_case(rng: random.Random) -> Case:
    content = spoiled_text(rng, {**INTERCONNECTS["pcie"].to_document(), "provenance": {"processes": 2}})
    words = ("cost", str(PROFILE), "--policy", "pab246", "--gpus", "1,2", "--link", "{folder}/f.json", "--json")
    return Case(kind="link", words=words, files={"f.json": content})


def layout_case(rng: random.Random) -> Case:
    document = {
        "schema": "pabtune.layout/1",
        "samples": 1,
        "branches": 2,
        "sequence": 2,
        "axis": "frames",
        "exchange": "dsp",
    }
    words = (*COMMANDS["search"], "--layout", "{folder}/f.json")
    return Case(kind="layout", words=words, files={"f.json": spoiled_text(rng, document)})


def prompts_case(rng: random.Random) -> Case:
    lines = [{"prompt": f"a {color} square", "content": "any", "seed": 3} for color in ("red", "blue")]
    form = rng.randrange(6)
    if form == 0:
        content = json.dumps(lines, indent=rng.choice([None, 2])).encode()
    elif form == 1:
        content = "".join(f"- prompt: {line['prompt']}\n  seed: 1\n" for line in lines).encode()
    elif form == 2:
        content = b"\xef\xbb\xbf" + b"\n".join(json.dumps(line).encode() for line in lines)
    else:
        content = b"\n".join([spoiled_text(rng, lines[0]), json.dumps(lines[1]).encode()])
    device = rng.choice(["cpu", "meta", "meta", "meta"])
    words = (
        "evaluate",
        "shapes",
        "--policy",
        "none",
        "--prompts",
        "{folder}/f.json",
        "--steps",
        "4",
        "--device",
        device,
    )
    return Case(kind="prompts", words=words, files={"f.json": content})


def model_case(rng: random.Random) -> Case:
    index, config = json.dumps(MODEL_INDEX).encode(), json.dumps(WAN_CONFIG).encode()
    if rng.random() < 0.7:
        index = spoiled_text(rng, MODEL_INDEX)
    else:
        config = spoiled_text(rng, {**WAN_CONFIG, "num_layers": 1})
    words = rng.choice(
        [("models", "--sites", "{folder}/m"), ("generate", "{folder}/m", "--prompt", "x", "--out", "v.gif")]
    )
    return Case(kind="model", words=words, files={"m/model_index.json": index, "m/transformer/config.json": config})


def option_case(rng: random.Random) -> Case:
    """One argument or option of any verb with another value."""
    verb = rng.choice(sorted(COMMANDS))
    words = list(COMMANDS[verb])
    command = import_module(f"pabtune.cli.{words[0].replace('-', '_')}").command
    for word in words[1:2]:  # `prompts shapes`
        command = getattr(command, "commands", {}).get(word, command)
    parameters = command.params
    parameter, value = rng.choice(parameters), rng.choice(TEXTS)
    if isinstance(parameter, click.Argument):
        words[1] = value
    elif parameter.opts[0] in words:
        words[words.index(parameter.opts[0]) + 1] = value
    else:
        words += [parameter.opts[0]] if parameter.is_flag else [parameter.opts[0], value]
    return Case(kind=f"option {words[0]}", words=tuple(words))


def score_case(rng: random.Random) -> Case:
    """A score of the user's own; modules are kept by name, so that each has one of its own."""
    module = f"score_{rng.getrandbits(64):x}"
    content = rng.choices(SCORE_FILES, [20] + [1] * (len(SCORE_FILES) - 1))[0].replace(
        "{body}", rng.choice(SCORE_BODIES)
    )
    words = (*COMMANDS["evaluate"], "--score", f"{module}:score", "--json")
    return Case(kind="score", words=words, files={f"{module}.py": content.encode()})


def document_case(rng: random.Random) -> Case:
    if rng.random() < 0.5:
        document = spoiled(rng, POLICY.to_document())
        return Case(kind="document", record=Policy.from_document, document=document, schema=POLICY_SCHEMA)
    document = spoiled(rng, json.loads(PROFILE.read_text()))
    record = lambda document: Profile.from_document(document, ARRAYS)  # noqa: E731
    return Case(kind="document", record=record, document=document, schema=PROFILE_SCHEMA)


MAKERS: Mapping[Callable[[random.Random], Case], float] = {
    policy_case: 5, profile_case: 3, link_case: 1.5, layout_case: 0.5, prompts_case: 2, model_case: 1, option_case: 6,
    score_case: 0.5, document_case: 2,
}  # fmt: skip
"""What makes cases, and how many of all, in proportion."""


def options_at_times(rng: random.Random, *words: str) -> Words:
    return words if rng.random() < 0.2 else ()


def places(document: Any) -> list[tuple[Any, Any]]:
    """Every container of a document with each of its keys."""
    found, level = [], [document]
    while level:
        each = level.pop()
        keys = list(each) if isinstance(each, dict) else list(range(len(each))) if isinstance(each, list) else []
        found += [(each, key) for key in keys]
        level += [each[key] for key in keys]
    return found


def spoiled(rng: random.Random, document: Any) -> Any:
    """A copy with one to three changes."""
    document = json.loads(json.dumps(document))
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        container, key = rng.choice(places(document))
        value, change = container[key], rng.randrange(6)
        if change == 0:
            del container[key]
        elif change == 1 and isinstance(container, dict):
            container[rng.choice(["colour", "x" * 1000, "", "kind", "window"])] = copy.deepcopy(rng.choice(VALUES))
        elif change == 2 and isinstance(value, int | float):
            container[key] = rng.choice(
                [float(value), -value, value + 1, value * 1_000_000_007, value + 0.5, str(value), value * 1e30]
            )
        elif change == 3 and isinstance(container, list):
            container.append(copy.deepcopy(value))
        elif change == 4:
            container[key] = copy.deepcopy(rng.choice(places(document))[0])
        else:
            container[key] = copy.deepcopy(rng.choice(VALUES))
    return document


def spoiled_text(rng: random.Random, document: Any) -> bytes:
    """A document as JSON, spoiled as a document or as text."""
    change = rng.randrange(8)
    if change < 4:
        return json.dumps(spoiled(rng, document)).encode()
    container, key = rng.choice(places(document := json.loads(json.dumps(document))))
    if change < 6:
        container[key] = "SPOILED"
        return json.dumps(document).replace('"SPOILED"', rng.choice(RAW)).encode()
    text = bytearray(json.dumps(document).encode())
    at = rng.randrange(len(text))
    if change == 6:
        return bytes(text[:at])
    text[at : at + rng.randrange(3)] = bytes(rng.choices(range(256), k=rng.randrange(4)))
    return bytes(text)


def spoiled_array(rng: random.Random, array: np.ndarray) -> np.ndarray:
    """Another shape or type, or a value that cannot be."""
    change = rng.randrange(4)
    if change == 0:
        return array[..., : rng.randrange(array.shape[-1])]
    if change == 1:
        with np.errstate(invalid="ignore"):  # NaN in whole numbers: any will do
            return array.astype(rng.choice([np.int32, np.float64, np.float16, np.uint8, np.bool_]))
    array = array.copy()
    value = rng.choice([np.nan, np.inf, -np.inf, -1.0, 0.0, 3e38, 1e-45])
    if change == 2:
        array[...] = value
    else:
        array.flat[rng.randrange(array.size)] = value
    return array
