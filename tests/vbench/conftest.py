"""A stand-in for the installed VBench: the environment is a real one, the runner is the real one, only the package is not.

Its dimensions read the value of a video from the video file, or misbehave as that file says. What the real package does
is checked by `tests/vbench/test_real.py`.
"""

import json
import venv
from pathlib import Path

import pytest

from pabtune.vbench.environment import Environment, Lock, pins_digest

UTILS = """
def init_submodules(dimensions, local):
    assert local
    return {dimension: [] for dimension in dimensions}
"""

DIMENSION = '''
import json, os, subprocess, time
from pathlib import Path

CALLS = Path(os.environ["VBENCH_CACHE_DIR"]).parent / "calls"

def compute_{name}(info, device, parts):
    """Values of videos whose content says them."""
    rows = []
    print("VBench prints to stdout")
    for entry in json.loads(Path(info).read_text()):
        for path in entry["video_list"]:
            content = Path(path).read_text()
            with CALLS.open("a") as calls:
                calls.write(content + "\\n")
            word, _, rest = content.partition(" ")
            if word == "corrupt":
                raise ValueError("cannot decode\\nsecond line")
            if word == "die":
                os._exit(9)
            if word == "hang":
                subprocess.run(["sleep", "600"])
            if word == "slow":
                time.sleep(0.3)
            if word != "skip":
                value = entry["prompt_en"].count("red") if word == "prompt" else float(rest if word == "slow" else word)
                rows.append({{"video_path": path, "video_results": value}})
    return float("nan"), rows
'''

SUITES = [
    {"prompt_en": "In a still frame, a stop sign", "dimension": ["temporal_flickering"]},
    {"prompt_en": "a toilet, frozen in time", "dimension": ["temporal_flickering"]},
    {"prompt_en": "a red bicycle", "dimension": ["color"], "auxiliary_info": {"color": {"color": "red"}}},
]
"""In the form of VBench_full_info.json."""


@pytest.fixture
def environment(tmp_path) -> Environment:
    """An environment with the stand-in, in which `temporal_flickering` and `overall_consistency` can be imported."""
    environment = Environment(tmp_path / "home")
    venv.create(environment.home / "venv", symlinks=True)
    package = environment.site_packages / "vbench"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "utils.py").write_text(UTILS)
    for name in ("temporal_flickering", "overall_consistency"):
        (package / f"{name}.py").write_text(DIMENSION.format(name=name))
    (package / "VBench_full_info.json").write_text(json.dumps(SUITES))
    environment.save_lock(
        Lock(python="3.11", pins=pins_digest(), packages={"vbench": "0.0", "torch": "0.0"}, weights={})
    )  # fmt: skip
    return environment


def calls(environment: Environment) -> list[str]:
    """Contents of the videos that the stand-in was asked for, in order."""
    path = environment.home / "calls"
    return path.read_text().splitlines() if path.exists() else []


def write_videos(folder: Path, contents: list[str]) -> Path:
    """Files whose content says what the stand-in makes of them, numbered as `pabtune generate` does; their prompts' file."""
    folder.mkdir(exist_ok=True)
    for index, content in enumerate(contents):
        (folder / f"v-{index:03d}.mp4").write_text(content)
    prompts = folder.with_suffix(".txt")
    prompts.write_text("".join(f"prompt {index}\n" for index in range(len(contents))))
    return prompts
