"""`pabtune generate`: generating videos, with or without a policy."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import click

from pabtune.cli import options
from pabtune.cli.engine_files import HELP, check_content_of, find_choice, made_for_pipeline
from pabtune.cli.layout import LayoutOptions, check_batches, layout_options, start_processes
from pabtune.cli.output import emit, progress_bar, say
from pabtune.parallel.process import is_first, is_launched, world_size
from pabtune.records.errors import PromptError
from pabtune.records.files import check_writable, digest
from pabtune.records.policies import AUTO_CONTENT, Policy, Store
from pabtune.records.prompts import Prompt


@click.command()
@click.argument("model")
@click.option("--policy", "name", default="none", show_default=True, help=HELP)
@click.option("--prompt", "texts", multiple=True, help="Prompt; repeat for several.")
@options.prompts_option("File with further prompts.")
@options.out_option("Video file (.mp4, .gif); several prompts are numbered NAME-000, NAME-001, …")
@click.option(
    "--content",
    help="Use the policy's variant for this content class; `auto`: the one that the policy tells by the prompt or "
    "the first steps; default: the one a prompt file names.",
)
@click.option("--compare", is_flag=True, help="Also generate without the policy; report speedup and PSNR.")
@click.option(
    "--fps",
    type=click.IntRange(1, 240),
    help="Frames per second of the files; default: what the pipeline is called with, or what its model usually has.",
)
@options.memory_option
@options.store_option("as the policy says")
@options.any_steps_option
@options.run_options
@layout_options
@options.json_option
def command(
    model: str,
    name: str,
    texts: tuple[str, ...],
    prompt_file: Path | None,
    out: Path,
    content: str | None,
    compare: bool,
    fps: int | None,
    memory: int | None,
    store: Store | None,
    any_steps: bool,
    run: options.RunOptions,
    layout_options: LayoutOptions,
    as_json: bool,
) -> None:
    """Generate videos with MODEL under a policy; report what was computed and what was broadcast."""
    from pabtune.report.videos import check_video_path
    from pabtune.tuning.generation import batches

    choice = find_choice(name, model, run.steps)
    check_video_path(out)
    prompts = [Prompt(prompt=text, seed=run.seed + index) for index, text in enumerate(texts)]
    if prompt_file is not None:
        prompts += options.read_prompts(model, prompt_file, 0, 0, run.seed + len(prompts))
    if not prompts:
        raise PromptError("no prompt given: use --prompt TEXT or --prompts FILE")
    check_writable(numbered(out, len(prompts) - 1, len(prompts)))
    check_content_of(choice, content)
    layout = layout_options.layout(world_size() if is_launched() else None)
    plan = list(batches(prompts, layout.samples))
    check_batches(plan, layout.samples)
    code = start_processes(layout.gpus)
    if code is not None:
        click.get_current_context().exit(code)
    pipeline, arguments = run.load(model)
    (policy,) = made_for_pipeline([choice], pipeline, run.steps)
    agreement = {
        "policy": digest(choice.to_document()),
        "prompt": prompts,
        "options": (replace(run, device="", image=None), content, memory, store, compare),
        "image": run.image and sha256(Path(run.image).read_bytes()).hexdigest(),
    }
    from pabtune.parallel.session import parallelize
    from pabtune.runtime.engine import broadcast
    from pabtune.tuning.generation import Settings, frame_rate
    from pabtune.tuning.layouts import layout_for

    paths_by_prompt = {prompt: numbered(out, index, len(prompts)) for index, prompt in enumerate(prompts)}
    rows: list[dict[str, Any]] = []
    planned = None if content == AUTO_CONTENT else content  # one layout for all prompts
    planning = (
        policy if isinstance(policy, Policy) else Policy(name=name)
    )  # one that decides in the run sends as any other
    layout = layout_for(pipeline, layout, planning, planned, run.steps)
    with (
        parallelize(pipeline, layout, device=run.device, agreement=agreement) as parallel,
        progress_bar("generate") as advance,
    ):
        if layout.gpus > 1:
            say(str(parallel))
        for batch in plan:
            batch_content = content or (batch[0].content if batch[0].content in policy.variants else None)
            enabled = partial(broadcast, pipeline, policy, batch_content, memory, store, any_steps=any_steps)
            settings = Settings(steps=run.steps, arguments=arguments)
            paths = [paths_by_prompt[prompt] for prompt in batch]
            traffic = parallel.traffic if layout.gpus > 1 else None
            rate = fps or frame_rate(pipeline, arguments)
            rows += _generate(pipeline, batch, settings, enabled, paths, compare, traffic, rate)
            advance(len(rows), len(prompts))
    rows.sort(key=lambda row: row["out"])
    if not is_first():
        return
    for row in rows:
        say(describe(row))
    if as_json:
        emit({"videos": rows})


def _generate(
    pipeline: Any,
    prompts: Sequence[Prompt],
    settings: Any,
    enabled: Callable[[], Any],
    paths: Sequence[Path],
    compare: bool,
    traffic: Any,
    frames_per_second: int,
) -> list[dict[str, Any]]:
    """Generates and saves the videos of one call; returns a row per video, with speedup and PSNR under `compare`."""
    from pabtune.quality.fidelity import psnr_db
    from pabtune.report.videos import save_video
    from pabtune.tuning.generation import WARM_UP_STEPS, generate

    if compare:
        generate(pipeline, prompts, replace(settings, steps=WARM_UP_STEPS))
    if traffic is not None:
        traffic.clear()
    with enabled() as broadcasting:
        generation = generate(pipeline, prompts, settings.under(broadcasting.policy))
    shared = {"seconds": generation.seconds, **broadcasting.summary()}
    if traffic is not None:
        shared["sent_by_first_process"] = traffic.to_document()
    plain = generate(pipeline, prompts, settings) if compare else None
    if plain is not None:
        shared |= {"plain_seconds": plain.seconds, "speedup": plain.seconds / generation.seconds}
    rows = []
    for index, (prompt, path) in enumerate(zip(prompts, paths, strict=True)):
        row = {"prompt": prompt.prompt, "seed": prompt.seed, "out": str(path), **shared}
        if plain is not None:
            row["psnr_db"] = psnr_db(generation.videos[index], plain.videos[index])
        if is_first():
            save_video(path, generation.videos[index], frames_per_second)
        rows.append(row)
    return rows


def numbered(out: Path, index: int, count: int) -> Path:
    """The file of one of several videos; a single one is not numbered."""
    return out if count == 1 else out.with_stem(f"{out.stem}-{index:03d}")


def describe(row: dict[str, Any]) -> str:
    """One line about a video."""
    kinds = dict.fromkeys([*row["computed_calls"], *row["broadcast_calls"]])
    calls = ", ".join(
        f"{kind} {row['computed_calls'].get(kind, 0)} computed {row['broadcast_calls'].get(kind, 0)} broadcast"
        for kind in kinds
    )
    content = f" as {row['content']}" if row.get("content") else ""
    line = f"{row['out']}: {row['seconds']:.2f} s{content}; {calls}"
    if "speedup" in row:
        line += (
            f"; {row['speedup']:.2f}x over {row['plain_seconds']:.2f} s without a policy, PSNR {row['psnr_db']:.1f} dB"
        )
    return line
