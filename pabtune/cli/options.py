"""Options that several verbs share, and their conversion to values."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from pabtune.parallel.process import local_device
from pabtune.planning.costs.memory import parse_bytes
from pabtune.quality import scores
from pabtune.quality.scores import Score
from pabtune.records.errors import BudgetError, FileError, ModelError, PromptError
from pabtune.records.files import check_writable, parse_json
from pabtune.records.policies import STORES
from pabtune.records.prompts import SEEDS, Prompt, load_prompts
from pabtune.records.splits import Part, Split
from pabtune.vbench.environment import Environment

STEPS = click.IntRange(min=1, max=10_000)
"""Numbers of denoising steps: more are a slip of the finger."""

LARGEST_SEED = SEEDS // 2
"""Prompts without a seed of their own get this one plus their index."""

DTYPES = ("float32", "bfloat16", "float16")

TUNED, VALIDATED, TESTED, TESTED_PER_CONTENT = 24, 24, 720, 1440
"""Captions of the embedded model to tune on, to validate with, and to test with at most, where the user names no file; the
last for all of its three content classes together. Verdicts stop at what they need, about 330 with a budget of 1 point."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
batch_option = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Prompts in one call of the pipeline; default: 4 for `shapes`, else 1.",
)
seed_option = click.option(
    "--seed",
    type=click.IntRange(min=0, max=LARGEST_SEED),
    default=0,
    show_default=True,
    help="Seed of the first prompt's noise.",
)
any_steps_option = click.option(
    "--any-steps", is_flag=True, help="Run a policy that was found at nine steps or more in fewer than nine too."
)
vbench_option = click.option(
    "--vbench-home",
    type=click.Path(path_type=Path),
    help="Folder of VBench's environment, for its scores; default: ~/.cache/pabtune/vbench.",
)
device_option = click.option("--device", default="cpu", show_default=True, help="Device to run on, for example cuda.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How to load and run a model."""

    steps: int
    seed: int
    size: tuple[int, int, int] | None
    guidance_scale: float | None
    negative_prompt: str | None
    image: str | None
    pipeline_arg: tuple[tuple[str, Any], ...]
    device: str
    dtype: str
    attention: str

    def load(self, model: str) -> tuple[Any, dict[str, Any]]:
        """The pipeline on its device, and the arguments of its call that the user set.

        Raises:
            ModelError: there is no such model or device, or the pipeline does not take an argument.
        """
        pipeline = load_model(model, self.device, self.dtype)
        from pabtune.runtime.attention import use_attention
        from pabtune.tuning.generation import check_arguments, size_arguments

        use_attention(pipeline, self.attention)
        arguments: dict[str, Any] = size_arguments(pipeline, *self.size) if self.size else {}
        check_arguments(pipeline, arguments, "--size")
        for name in ("guidance_scale", "negative_prompt", "image"):
            if getattr(self, name) is not None:
                arguments[name] = getattr(self, name)
        arguments |= dict(self.pipeline_arg)
        check_arguments(pipeline, arguments)
        return pipeline, arguments


class Number(click.ParamType):
    """A finite number."""

    name = "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        number = click.FLOAT.convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return float(number)


class FiniteRange(click.FloatRange):
    """A finite number in a range; click's own takes `nan` for a number in any."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        return float(super().convert(Number().convert(value, param, ctx), param, ctx))


class Size(click.ParamType):
    """A video size, `FRAMESxHEIGHTxWIDTH`."""

    name = "FRAMESxHEIGHTxWIDTH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Three integers: frames, height, width; from 1 on."""
        match = re.fullmatch("x".join([r"([1-9][0-9]{0,4})"] * 3), str(value))
        if match is None:
            self.fail(f"{value!r} is not FRAMESxHEIGHTxWIDTH, from 1 to 99999 each, for example 81x480x832", param, ctx)
        return tuple(map(int, match.groups()))


class KeyValue(click.ParamType):
    """`key=value`, with the value as JSON where it parses, else as text."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Name and value."""
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not KEY=VALUE, for example max_sequence_length=256", param, ctx)
        try:
            return key, parse_json(text, key, ModelError)
        except ModelError:
            return key, text


class ImageFile(click.Path):
    """A readable image; its absolute path, which stays valid for a verb that runs in another folder."""

    name = "image"

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False, resolve_path=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, once the image has been opened."""
        path = super().convert(value, param, ctx)
        from pabtune.report.videos import is_image

        if not is_image(path):
            self.fail(f"{value}: not an image that can be read", param, ctx)
        return path


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of loading and running a model; passes them as one argument `run`."""
    names = [each.name for each in fields(RunOptions)]

    @wraps(command)
    def folded(*args: Any, **values: Any) -> Any:
        return command(*args, run=RunOptions(**{name: values.pop(name) for name in names}), **values)

    for option in reversed(
        [
            click.option("--steps", type=STEPS, default=30, show_default=True, help="Denoising steps."),
            seed_option,
            click.option("--size", type=Size(), help="Size of the video; default: the pipeline's own."),
            click.option("--guidance-scale", type=Number(), help="Guidance scale; default: the pipeline's own."),
            click.option("--negative-prompt", help="Prompt of the unconditional branch."),
            click.option("--image", type=ImageFile(), help="First frame, for image-to-video."),
            click.option(
                "--pipeline-arg",
                type=KeyValue(),
                multiple=True,
                help="Further argument of the pipeline's call; repeat for several.",
            ),
            click.option(
                "--dtype", type=click.Choice(DTYPES), default="float32", show_default=True, help="Precision of weights."
            ),
            device_option,
            click.option(
                "--attention",
                type=click.Choice(["auto", "sdpa", "flash", "flash3"]),
                default="auto",
                show_default=True,
                help="Attention kernel; auto: FlashAttention for pabtune's own models where available.",
            ),
        ]
    ):
        folded = option(folded)
    return folded


def batch_size_of(model: str, requested: int | None) -> int:
    """Prompts in one call: the requested number, or the default for the model."""
    return requested or (4 if model == "shapes" else 1)


def find_score(name: str, vbench_home: Path | None, device: str, prompts: Iterable[Prompt]) -> Score | None:
    """The score of a name, which has what it needs for videos of some prompts: it is told before a model is loaded.

    Raises:
        BudgetError: there is no such score, it lacks something, or it does not look at the folder of VBench that is given.
    """
    if vbench_home is not None and not scores.is_of_vbench(name):
        raise BudgetError(f"--vbench-home {vbench_home}: the score {name!r} is not VBench's; leave it out")
    if name == scores.NO_SCORE:
        return None
    environment = None if vbench_home is None else Environment(vbench_home.absolute())
    score = scores.find_score(name, environment, local_device(device))
    score.open([prompt.prompt for prompt in prompts])
    return score


class Bytes(click.ParamType):
    """An amount of memory, for example `8GiB`."""

    name = "BYTES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """A number of bytes."""
        return value if isinstance(value, int) else parse_bytes(value)


memory_option = click.option(
    "--memory", type=Bytes(), help="Limit of memory for outputs kept for later steps, for example 8GiB."
)


largest_loss_option = click.option(
    "--largest-loss",
    type=Number(),
    help="Points that one video can lose at most; default: all that the score has, 100, or more for the total of VBench. The "
    "verdict relies on it: with less, fewer prompts are needed.",
)


def store_option(default: str) -> Callable[..., Any]:
    """The option `--store`."""
    return click.option(
        "--store", type=click.Choice(STORES), help=f"How outputs are kept for later steps; default: {default}."
    )


def prompts_option(text: str) -> Callable[..., Any]:
    """The option `--prompts`."""
    return click.option("--prompts", "prompt_file", type=click.Path(path_type=Path), help=text)


def out_option(text: str, *, required: bool = True) -> Callable[..., Any]:
    """The option `--out`."""
    return click.option("--out", type=click.Path(path_type=Path), required=required, help=text)


def check_json_out(out: Path, *read: Path | None) -> None:
    """Refuses, before long work, a file that what a verb finds cannot be written to.

    What lies beside it is named like it, without its ending: `wan2.1` and `wan2.2` would share that.

    Args:
        out: the file.
        read: files that the verb reads; they stay as they are.

    Raises:
        FileError: its name does not end in `.json`, it is one of those that are read, or it cannot be written.
    """
    if out.suffix != ".json":
        raise FileError(f"--out {out}: the name of the file must end in .json")
    check_not_read(out, *read)
    check_writable(out)


def check_not_read(out: Path, *read: Path | None) -> None:
    """Refuses to write to a file that a verb reads.

    Args:
        out: the file.
        read: files that the verb reads; they stay as they are.

    Raises:
        FileError: it is one of those.
    """
    if any(path is not None and out.resolve() == path.resolve() for path in read):
        raise FileError(f"--out {out}: this file is read too, and would be lost; name another one")


def read_prompts(
    model: str, prompt_file: Path | None, count: int, sample_seed: int, seed: int = 0, part: Part | None = None
) -> list[Prompt]:
    """Prompts from a file, or without one, sampled captions of the embedded model.

    Args:
        model: name of the model.
        prompt_file: the file; None = captions.
        count: number of captions.
        sample_seed: which captions.
        seed: of the first prompt's noise, where the file names none.
        part: of the split that captions are taken from; None = any. What stands in a file is not left out.

    Raises:
        PromptError: the file is broken, or missing for a model without captions of its own.
    """
    if prompt_file is not None:
        return load_prompts(prompt_file, seed)
    if model != "shapes":
        raise PromptError(f"{model!r} needs prompts: --prompts FILE, one prompt per line or JSON lines")
    from pabtune.models.shapes.prompts import sample_prompts

    sampled = sample_prompts(count, sample_seed, part)
    return [Prompt(prompt=each.prompt, content=each.content, seed=seed + i) for i, each in enumerate(sampled)]


def sample_split(tuned: int, validated: int, tested: int, seed: int = 0) -> Split:
    """Captions of the embedded model, so many of each part, whose noise differs."""
    counts: Mapping[Part, int] = {"tune": tuned, "validate": validated, "test": tested}
    parts = {
        part: tuple(read_prompts("shapes", None, count, sample_seed=2, seed=seed + 10_000 * index, part=part))
        for index, (part, count) in enumerate(counts.items())
    }
    return Split(tune=parts["tune"], validate=parts["validate"], test=parts["test"])


def load_model(model: str, device: str, dtype: str) -> Any:
    """The pipeline on its device.

    Raises:
        ModelError: there is no such model, device or precision.
    """
    import torch
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    from pabtune.models.registry import load_pipeline

    if dtype not in DTYPES:
        raise ModelError(f"unknown precision {dtype!r}; known: {', '.join(DTYPES)}")
    of_diffusers.disable_progress_bar()
    of_transformers.disable_progress_bar()
    return load_pipeline(model, getattr(torch, dtype), find_device(device))


def find_device(name: str) -> str:
    """The device of this process.

    Raises:
        ModelError: there is no such device, or nothing can be computed on it.
    """
    import torch

    name = local_device(name)
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"unknown device {name!r}; use cpu, cuda or cuda:N") from error
    if device.type == "cpu":
        return "cpu"
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None or accelerator.type != device.type:
        raise ModelError(f"no {device.type.upper()} device is available for --device {name}; use --device cpu")
    if (device.index or 0) >= torch.accelerator.device_count():
        raise ModelError(f"there is no {name}: this machine has {torch.accelerator.device_count()} of {device.type}")
    return name
