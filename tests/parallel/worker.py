"""One of several processes: generates videos alone and with the others, and compares the two and their traffic.

    python worker.py OUT.json CASE          runs one case, under a launcher
    python worker.py --serve ADDRESS        runs the cases that a pool sends, until it disconnects

Every process first generates the entire video alone, which is its reference. For each call, traffic is counted by the
code under test and by torch's dispatcher, and predicted.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Client
from pathlib import Path

import torch

from pabtune.parallel.mesh import Mesh
from pabtune.parallel.process import report_failure, world_size
from pabtune.parallel.splitting import split
from pabtune.records.errors import PabtuneError
from pabtune.records.layouts import ParallelLayout
from tests.conftest import STEPS, draw, make_pipeline
from tests.parallel import cases_agreement, cases_first_steps, cases_pipelines, cases_stdit3
from tests.parallel.comparing import DEVICE

CASES = (cases_stdit3, cases_pipelines, cases_first_steps, cases_agreement)


def until_stopped(case: str, mesh: Mesh) -> None:
    """Generates with the others until one of them stops or disagrees."""
    if case == "disagree":
        mesh.agree({"policy": "same", "prompt": f"a prompt of rank {mesh.ranks['sequence']}"})
    pipeline = make_pipeline()
    split(pipeline, mesh)
    if case in ("raise", "kill") and mesh.ranks["sequence"] == mesh.layout.sequence - 1:
        time.sleep(0.5)
        if case == "kill":
            os.kill(os.getpid(), 9)
        raise RuntimeError("broken on purpose")
    while True:
        draw(pipeline, num_inference_steps=STEPS)


def run_case(case: str, names: Sequence[str] = ()) -> list[dict]:
    """Runs a case with the other processes; returns this process' rows."""
    with Mesh(ParallelLayout.over(world_size()), DEVICE) as mesh:
        draw_case = next((getattr(each, case) for each in CASES if hasattr(each, case)), None)
        if draw_case is None:
            until_stopped(case, mesh)
        return draw_case(mesh, names) if names else draw_case(mesh)


def serve(address: str) -> None:
    """Runs the cases that a pool sends."""
    with Client(address) as pool:
        while (job := pool.recv()) is not None:
            environment, case, names = job
            os.environ.update(environment)
            torch.compiler.reset()
            try:
                pool.send(("rows", json.dumps(run_case(case, names))))
            except BaseException:  # noqa: BLE001, the pool raises it
                pool.send(("error", traceback.format_exc()))


def main() -> None:
    if sys.argv[1] == "--serve":
        serve(sys.argv[2])
        return
    rows = run_case(sys.argv[2])
    out = Path(sys.argv[1])
    out.with_stem(f"{out.stem}-{os.environ['RANK']}").write_text(json.dumps(rows))


if __name__ == "__main__":
    try:
        main()
    except (PabtuneError, RuntimeError) as problem:
        report_failure(str(problem))
        raise
