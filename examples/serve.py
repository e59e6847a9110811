"""Serve videos under a policy: the policy is enabled once, requests come one after the other, monitoring reads the counts.

    python examples/serve.py --port 8000
    curl -X POST localhost:8000/generate -H 'content-type: application/json' \
        -d '{"prompt": "a red square moves slowly to the left"}' -o video.gif
    curl localhost:8000/metrics

A pipeline draws one video at a time. A request that comes meanwhile waits; those beyond `--waiting` get 503 at once. Put
your own pipeline in the place of `pabtune.load_pipeline("shapes")`. Needs `pip install fastapi uvicorn`.
"""

import io
import json
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import imageio.v3 as imageio
import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel, Field

import pabtune

POLICY = Path(__file__).parents[1] / "policies" / "shapes-30steps-front" / "shapes-30steps-15of30.json"


class Request(BaseModel):
    """What `/generate` takes."""

    prompt: str
    steps: int = Field(default=30, ge=1, le=100)
    guidance_scale: float = 4.0
    seed: int = 0


class Metrics:
    """What all requests added up to, in the text form of Prometheus."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: Counter[str] = Counter()
        self._summary: Mapping[str, Any] | None = None

    def note(self, outcome: str, summary: Mapping[str, Any] | None = None) -> None:
        """Adds a request, and the summary of its run if it has had one."""
        with self._lock:
            self._totals[f'requests_total{{outcome="{outcome}"}}'] += 1
            if summary is None:
                return
            self._summary = summary
            for what in ("computed", "broadcast"):
                for kind, calls in summary[f"{what}_calls"].items():
                    self._totals[f'{what}_calls_total{{kind="{kind}"}}'] += calls

    def text(self, stored_bytes: int) -> str:
        """All of it; `stored_bytes` is what calls in progress hold now."""
        with self._lock:
            lines, latest = [f"pabtune_{name} {value}" for name, value in sorted(self._totals.items())], self._summary
        lines.append(f"pabtune_stored_bytes {stored_bytes}")
        if latest is not None:
            lines.append(f"pabtune_most_stored_bytes {latest['most_stored_bytes']}")
            labels = {"policy": latest["policy"], "digest": latest["policy_digest"]}
            labels |= {f"steps_{kind}": line for kind, line in latest["step_pattern"].items()}
            told = ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
            lines.append(f"pabtune_policy_info{{{told}}} 1")
        return "\n".join(lines) + "\n"


def server(policy: pabtune.Policy, waiting: int) -> FastAPI:
    """The application.

    Args:
        policy: that all videos are drawn under.
        waiting: requests that may wait while another one is drawn.
    """
    app, metrics = FastAPI(), Metrics()
    pipeline = pabtune.load_pipeline("shapes")
    pipeline.set_progress_bar_config(disable=True)
    run = pabtune.enable(pipeline, policy)
    places, drawing = threading.BoundedSemaphore(waiting + 1), threading.Lock()

    @app.post("/generate")
    def generate(request: Request) -> Response:
        """A GIF of the prompt; a plain function, so that FastAPI calls it in a thread and `/metrics` still answers."""
        if not places.acquire(blocking=False):
            metrics.note("busy")
            raise HTTPException(503, "as many requests as may wait are waiting; try again", {"Retry-After": "1"})
        try:
            with drawing:
                generator = torch.Generator().manual_seed(request.seed)
                video = pipeline(
                    request.prompt, num_inference_steps=request.steps, guidance_scale=request.guidance_scale,
                    generator=generator,
                ).frames[0]  # fmt: skip
                summary = run.summary()  # of this thread's own call
        except pabtune.PabtuneError as error:
            metrics.note("refused")
            raise HTTPException(422, str(error)) from error
        except Exception:
            metrics.note("failed")
            raise
        finally:
            places.release()
        metrics.note("done", summary)
        frames, file = (np.asarray(video) * 255).round().astype(np.uint8), io.BytesIO()
        imageio.imwrite(file, frames, extension=".gif", duration=125, loop=0)
        pattern = json.dumps(summary["step_pattern"])
        return Response(file.getvalue(), media_type="image/gif", headers={"x-step-pattern": pattern})

    @app.get("/metrics")
    def monitor() -> Response:
        return Response(metrics.text(run.stored_bytes), media_type="text/plain; version=0.0.4")

    return app


@click.command()
@click.option("--policy", type=click.Path(path_type=Path), default=POLICY, help="Policy file.")
@click.option("--port", default=8000, show_default=True)
@click.option("--waiting", type=click.IntRange(min=0), default=8, show_default=True, help="Requests that may wait.")
def command(policy: Path, port: int, waiting: int) -> None:
    """Serve videos until Ctrl-C."""
    uvicorn.run(server(pabtune.Policy.load(policy), waiting), port=port, log_level="warning")


if __name__ == "__main__":
    command()
