"""One of several processes: draws alone and together with the others, and tells how far the two are apart and what was sent.

    python worker.py OUT.json CASE

Every process draws the whole video alone first, so that it needs nobody to compare with. What is sent is counted by the
code under test, by torch's dispatcher beside it, and predicted, call by call.
"""

import json
import os
import sys
import time
from pathlib import Path

from pabtune.parallel.mesh import Mesh, choose_layout
from pabtune.parallel.split import split
from pabtune.records.errors import PabtuneError
from tests.conftest import STEPS, draw, make_pipeline
from tests.parallel import models, stdit3
from tests.parallel.comparing import DEVICE


def until_stopped(case: str, mesh: Mesh) -> None:
    """Draws with the others until one of them stops, or does not agree."""
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


def main() -> None:
    out, case = Path(sys.argv[1]), sys.argv[2]
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with Mesh(choose_layout(processes), DEVICE) as mesh:
        draw_case = getattr(stdit3, case, None) or getattr(models, case, None)
        if draw_case is None:
            until_stopped(case, mesh)
        rows = draw_case(mesh)
    out.with_stem(f"{out.stem}-{rank}").write_text(json.dumps(rows))


if __name__ == "__main__":
    try:
        main()
    except (PabtuneError, RuntimeError) as problem:
        from pabtune.parallel.launch import report_failure

        report_failure(str(problem))
        raise
