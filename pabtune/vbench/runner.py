"""Runs VBench, inside of its environment: a line of JSON on stdin asks, one JSON line per answer on stdout.

A script for another interpreter: it needs the standard library and VBench, and must not import pabtune. What VBench prints
goes to stderr. VBench's own functions of a dimension are called, with a list of videos and prompts made here: its command line
returns 0 when its child died, and its modes take prompts from file names.

Requests: `{"do": "check", "variables": {…}, "dimensions": […]}` imports dimensions; the answers are
`{"dimension": …, "problem": null or text}`. `{"do": "score", "variables": {…}, "dimension": …, "device": …,
"videos_at_once": …, "videos": [{"path": …, "prompt": …, "annotation": {…}}]}` scores; the answers are
`{"video": index, "value": number}`, or `{"video": index, "value": null, "problem": text or null}` where VBench gives none,
then `{"done": true}`; `{"failed": text}` where nothing can be scored.
"""

import functools
import importlib
import json
import math
import os
import signal
import sys
import tempfile
import threading
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

STATIC_FILTER = "static_filter"
"""In the place of a dimension: VBench's filter for static videos, whose values are 1 = static, 0."""

COMPILED_OPERATORS = ("nms", "qnms")
"""Operators that torchvision declares only where its compiled part loads, and describes to torch in any case."""


def main() -> None:
    """Answers one request."""
    request = json.loads(sys.stdin.readline())
    end_with_parent()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # VBench prints to stdout
    os.environ.update(request["variables"])

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    load_torchvision()
    if request["do"] == "check":
        for dimension in request["dimensions"]:
            answer(dimension=dimension, problem=import_problem(dimension))
        return
    try:
        scorer = Scorer(request)
    except BaseException as error:
        answer(failed=describe(error))
        raise
    scorer.run(answer)


def end_with_parent() -> None:
    """Ends this process, and what it started, when pabtune has ended or was killed: then the standard input is at its end."""
    asked = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # what is started here does not hold it open

    def wait() -> None:
        while os.read(asked, 4096):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def load_torchvision() -> None:
    """Imports torchvision; PyPI's, which is built for CUDA, beside a torch for CPUs too.

    There its compiled operators do not load, and its import fails on describing two that were then never declared. VBench's
    networks that can run here use none of them.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return  # the import of VBench says so
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        import torch

        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in COMPILED_OPERATORS:
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")
        import torchvision  # noqa: F401


def import_problem(dimension: str) -> str | None:
    """Why a dimension's module cannot be imported, or None."""
    try:
        importlib.import_module(f"vbench.{dimension}")
    except Exception as error:  # noqa: BLE001, whatever its imports raise
        return describe(error)
    return None


def describe(error: BaseException) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class Scorer:
    """Scores the videos of a request in one dimension."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.request = request
        self.dimension = request["dimension"]
        self.videos = request["videos"]
        weights = Path(os.environ["VBENCH_CACHE_DIR"])
        os.chdir(weights)  # where transformers finds the folder `bert-base-uncased`
        link_dino(weights)
        if self.dimension == STATIC_FILTER:
            self.compute, self.parts = functools.partial(compute_static, static_filter(request["device"])), None
            return
        module = importlib.import_module(f"vbench.{self.dimension}")
        self.compute = getattr(module, f"compute_{self.dimension}")
        from vbench.utils import init_submodules

        self.parts = init_submodules([self.dimension], local=True)[self.dimension]

    def run(self, answer: Callable[..., None]) -> None:
        """Answers for all videos, some at a time; videos of a part that fails are tried one by one."""
        size = self.request["videos_at_once"]
        with tempfile.TemporaryDirectory(prefix="pabtune-vbench-") as folder:
            for start in range(0, len(self.videos), size):
                indices = range(start, min(start + size, len(self.videos)))
                try:
                    values = self.score(indices, folder)
                except Exception as error:  # noqa: BLE001, whatever VBench raises
                    if len(indices) == 1:
                        answer(video=start, value=None, problem=describe(error))
                        continue
                    self.run_one_by_one(indices, folder, answer)
                    continue
                for index in indices:
                    answer(video=index, **value_fields(values.get(index)))
        answer(done=True)

    def run_one_by_one(self, indices: Iterable[int], folder: str, answer: Callable[..., None]) -> None:
        """Answers for each of some videos, so that one which fails is told from the others."""
        for index in indices:
            try:
                answer(video=index, **value_fields(self.score([index], folder).get(index)))
            except Exception as error:  # noqa: BLE001, whatever VBench raises
                answer(video=index, value=None, problem=describe(error))

    def score(self, indices: Iterable[int], folder: str) -> dict[int, Any]:
        """VBench's value of each of some videos, by index; those that VBench leaves out are missing."""
        index_of, entries = {}, []
        for index in indices:
            video = self.videos[index]
            path = staged(folder, index, video, self.dimension)
            index_of[path] = index
            entries.append(
                {
                    "prompt_en": video["prompt"],
                    "dimension": [self.dimension],
                    "video_list": [path],
                    **({"auxiliary_info": video["annotation"]} if video.get("annotation") else {}),
                }
            )
        info = Path(folder) / "info.json"
        info.write_text(json.dumps(entries), encoding="utf-8")
        _, rows = self.compute(str(info), self.request["device"], self.parts)
        return {index_of[row["video_path"]]: row["video_results"] for row in rows}


def static_filter(device: str) -> Any:
    """VBench's filter for static videos, which is written for CUDA, on any device."""
    module: Any = importlib.import_module("vbench.cli.static_filter")
    module.DEVICE = device
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.load = functools.partial(torch.load, map_location=device)
    weights = Path(os.environ["VBENCH_CACHE_DIR"]) / "raft_model" / "models" / "raft-things.pth"
    arguments = Namespace(model=str(weights), small=False, mixed_precision=False, alternate_corr=False)
    return module.StaticFilter(arguments, device=device)


def compute_static(found: Any, info: str, _device: str, _parts: None) -> tuple[None, list[dict[str, Any]]]:
    """Whether videos are static, in the form of VBench's functions of a dimension."""
    paths = [path for entry in json.loads(Path(info).read_text(encoding="utf-8")) for path in entry["video_list"]]
    return None, [{"video_path": path, "video_results": float(bool(found.infer(path)))} for path in paths]


def staged(folder: str, index: int, video: Mapping[str, Any], dimension: str) -> str:
    """A link to a video under a name without surprises; `human_action` reads the action from the name."""
    prompt = video["prompt"].replace("/", " ") if dimension == "human_action" else "video"
    path = Path(folder) / f"{prompt}_{index:06d}.mp4"
    if not path.is_symlink():
        path.symlink_to(video["path"])
    return str(path)


def link_dino(weights: Path) -> None:
    """Puts DINO's weights where torch's hub looks for them; VBench downloads them to a place that nothing reads."""
    source = weights / "dino_model" / "dino_vitbase16_pretrain.pth"
    target = weights / "torch" / "hub" / "checkpoints" / source.name
    if source.exists() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            link = Path(folder) / target.name
            link.symlink_to(os.path.relpath(source, target.parent))  # relative: all of it may be moved
            link.replace(target)  # over a link that leads nowhere, or one that another process has just made


def value_fields(value: Any) -> dict[str, Any]:
    """A value as fields of an answer; JSON has no NaN."""
    if value is None:
        return {"value": None, "problem": None}
    number = float(value)
    if not math.isfinite(number):
        return {"value": None, "problem": f"VBench's value is {number}"}
    return {"value": number}


if __name__ == "__main__":
    main()
