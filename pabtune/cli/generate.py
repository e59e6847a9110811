"""`pabtune generate`: make videos."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import click

from pabtune.cli import options
from pabtune.cli.output import emit, is_first, progress_bar, say
from pabtune.cli.sharing import Sharing, sharing_options
from pabtune.planning.presets import find_policy
from pabtune.records.errors import PromptError
from pabtune.records.files import check_writable
from pabtune.records.policies import Store
from pabtune.records.prompts import Prompt

FRAMES_PER_SECOND = 8


@click.command()
@click.argument("model")
@click.option("--policy", "name", default="none", show_default=True, help="Preset or policy file.")
@click.option("--prompt", "texts", multiple=True, help="What to draw; repeat for several.")
@options.prompts_option("More to draw, from a file.")
@options.out_option("Video file (.mp4, .gif); several prompts are numbered NAME-000, NAME-001, …")
@click.option(
    "--content", help="Use the policy's variant for this content class; default: the one a prompt file names."
)
@click.option("--compare", is_flag=True, help="Also make the videos without the policy; tell time and fidelity.")
@options.memory_option
@options.store_option("as the policy says")
@options.run_options
@sharing_options
@options.json_option
def command(
    model: str,
    name: str,
    texts: tuple[str, ...],
    prompt_file: Path | None,
    out: Path,
    content: str | None,
    compare: bool,
    memory: int | None,
    store: Store | None,
    run: options.RunOptions,
    sharing: Sharing,
    as_json: bool,
) -> None:
    """Make videos with MODEL under a policy; say what was computed and what was broadcast."""
    from pabtune.report.videos import check_video_path
    from pabtune.runtime.engine import broadcast
    from pabtune.tuning.generation import Settings

    policy = find_policy(name, model)
    check_video_path(out)
    prompts = [Prompt(prompt=text, seed=run.seed + index) for index, text in enumerate(texts)]
    if prompt_file is not None:
        prompts += options.read_prompts(model, prompt_file, 0, 0, run.seed + len(prompts))
    if not prompts:
        raise PromptError("say what to draw: --prompt TEXT or --prompts FILE")
    check_writable(out)
    policy.rules_for(content)
    code = sharing.start()
    if code is not None:
        click.get_current_context().exit(code)
    pipeline, arguments = run.load(model)
    agreed = {
        "policy": policy.digest,
        "prompt": prompts,
        "options": (replace(run, device="", image=None), content, memory, store, compare),
        "image": run.image and sha256(Path(run.image).read_bytes()).hexdigest(),
    }
    with sharing.split(pipeline, run.device, agreed) as split, progress_bar("generate") as advance:
        rows = []
        for index, prompt in enumerate(prompts):
            path = out if len(prompts) == 1 else out.with_stem(f"{out.stem}-{index:03d}")
            own_content = content or (prompt.content if prompt.content in policy.variants else None)
            enabled = partial(broadcast, pipeline, policy, own_content, memory, store)
            settings = Settings(steps=run.steps, arguments=arguments)
            rows.append(_draw(pipeline, prompt, settings, enabled, path, compare, split.traffic if split else None))
            advance(index + 1, len(prompts))
    if not is_first():
        return
    for row in rows:
        say(describe(row))
    if as_json:
        emit({"videos": rows})


def _draw(
    pipeline: Any,
    prompt: Prompt,
    settings: Any,
    enabled: Callable[[], Any],
    path: Path,
    compare: bool,
    traffic: Any,
) -> dict[str, Any]:
    """Makes one video and saves it; what was computed, and with `compare` what it gained and cost."""
    from pabtune.quality.fidelity import psnr_db
    from pabtune.report.videos import save_video
    from pabtune.tuning.generation import generate

    if compare:
        generate(pipeline, [prompt], replace(settings, steps=1))
    if traffic is not None:
        traffic.clear()
    with enabled() as broadcasting:
        made = generate(pipeline, [prompt], settings)
    row = {"prompt": prompt.prompt, "seed": prompt.seed, "out": str(path), "seconds": made.seconds}
    row |= broadcasting.summary()
    if traffic is not None:
        row["sent_by_first_process"] = traffic.to_document()
    if compare:
        plain = generate(pipeline, [prompt], settings)
        row |= {
            "plain_seconds": plain.seconds,
            "speedup": plain.seconds / made.seconds,
            "psnr_db": psnr_db(made.videos[0], plain.videos[0]),
        }
    if is_first():
        save_video(path, made.videos[0], FRAMES_PER_SECOND)
    return row


def describe(row: dict[str, Any]) -> str:
    """One video in a line."""
    kinds = dict.fromkeys([*row["computed_calls"], *row["broadcast_calls"]])
    calls = ", ".join(
        f"{kind} {row['computed_calls'].get(kind, 0)} computed {row['broadcast_calls'].get(kind, 0)} broadcast"
        for kind in kinds
    )
    line = f"{row['out']}: {row['seconds']:.2f} s; {calls}"
    if "speedup" in row:
        line += f"; {row['speedup']:.2f}x against {row['plain_seconds']:.2f} s without a policy, PSNR {row['psnr_db']:.1f} dB"
    return line
