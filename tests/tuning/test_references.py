import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pabtune.records.errors import ModelError
from pabtune.records.policies import MadeFor
from pabtune.tuning import references as module
from pabtune.tuning.generation import Settings
from pabtune.tuning.references import LOCK, References, describe_argument, describe_scheduler
from tests.conftest import PROMPTS, make_pipeline

SETTINGS = Settings(steps=2)


def test_videos_are_made_once_and_survive(pipeline, tmp_path, monkeypatch) -> None:
    made = []
    original = module.generate_reference
    monkeypatch.setattr(module, "generate_reference", lambda *args: made.append(1) or original(*args))
    first = References(tmp_path, pipeline, SETTINGS, MadeFor(steps=2)).videos(PROMPTS[:2])
    again = References(tmp_path, pipeline, SETTINGS, MadeFor(steps=2)).videos(PROMPTS[:2])
    assert len(made) == 1
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    References(tmp_path, pipeline, SETTINGS, MadeFor(steps=3)).videos(PROMPTS[:2])
    assert len(made) == 2


MAKER = """
import shutil, sys, time
from pathlib import Path
from pabtune.records.files import holding_file
lock, made, folder, part = sys.argv[1:]
with holding_file(Path(lock), part):
    print("held", flush=True)
    time.sleep(0.5)
    # Not the lock's file: to close another copy of it would let go of it, as POSIX has it.
    shutil.copytree(made, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(Path(lock).name))
"""


def test_videos_that_another_worker_is_making_are_waited_for(pipeline, tmp_path, monkeypatch) -> None:
    made, shared = tmp_path / "made", tmp_path / "shared"
    first = References(made, pipeline, SETTINGS, MadeFor(steps=2)).videos(PROMPTS[:2])
    references = References(shared, pipeline, SETTINGS, MadeFor(steps=2))
    part = references._path(PROMPTS[0], PROMPTS[:2]).stem
    words = [str(each) for each in (shared / LOCK, made, shared, part)]
    monkeypatch.setattr(module, "generate_reference", lambda *_: pytest.fail("another worker is making them"))
    command = [sys.executable, "-c", MAKER, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as maker:
        assert maker.stdout.readline() == "held\n"
        again = references.videos(PROMPTS[:2])
    assert all((a == b).all() for a, b in zip(first, again, strict=True))


def test_a_broken_file_is_made_again(pipeline, tmp_path) -> None:
    references = References(tmp_path, pipeline, SETTINGS, MadeFor())
    first = references.videos(PROMPTS[:1])
    for file in tmp_path.iterdir():
        file.write_bytes(b"half")
    assert (references.videos(PROMPTS[:1])[0] == first[0]).all()


def test_whatever_changes_a_video_has_references_of_its_own(pipeline, tmp_path, monkeypatch) -> None:
    """Fault 4: other weights, arguments of the call, a scheduler's configuration, in the same folder."""
    made = []
    original = module.generate_reference
    monkeypatch.setattr(module, "generate_reference", lambda *args: made.append(1) or original(*args))

    def count(settings: Settings = SETTINGS) -> int:
        References(tmp_path, pipeline, settings, MadeFor(steps=2)).videos(PROMPTS[:1])
        return len(made)

    assert (count(), count()) == (1, 1)
    assert count(Settings(steps=2, arguments={"guidance_scale": 9.0})) == 2
    assert count(Settings(steps=2, arguments={"guidance_scale": 4.0})) == 3
    bias = pipeline.transformer.spatial_blocks[0].attn.proj.bias
    before = bias.data.clone()
    bias.data += 0.25
    assert count() == 4
    bias.data.copy_(before)
    assert count() == 4
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, shift=5.0)
    assert count() == 5


def test_arguments_are_described_by_their_content(tmp_path) -> None:
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    file = tmp_path / "image.bin"
    file.write_bytes(b"one")
    first = describe_argument({"image": image, "file": str(file), "scale": float("inf"), "names": ("a", 1)})
    assert first == describe_argument(
        {"image": image.copy(), "file": str(file), "scale": float("inf"), "names": ["a", 1]}
    )
    assert first != describe_argument({"image": image + 1, "file": str(file), "scale": float("inf"), "names": ("a", 1)})
    file.write_bytes(b"two")
    assert first != describe_argument({"image": image, "file": str(file), "scale": float("inf"), "names": ("a", 1)})
    assert describe_argument(torch.ones(2)) != describe_argument(torch.zeros(2))


@pytest.mark.parametrize("length", [255, 300, 5000])
def test_a_long_negative_prompt_is_no_name_of_a_file(length) -> None:
    """Wan's own has 380 bytes, and pathlib raises for what is longer than any name."""
    text = "worst quality, " * (length // 15) + "." * (length % 15)
    assert describe_argument({"negative_prompt": text}) == {"negative_prompt": text}
    assert describe_argument("a\0b") == "a\0b"


def test_a_scheduler_is_its_class_and_its_configuration() -> None:
    """Two classes may have the same configuration, and draw other videos."""
    pipeline, other = make_pipeline(), make_pipeline()
    assert describe_scheduler(pipeline) == describe_scheduler(other)
    other.scheduler.__class__ = type("Other", (type(other.scheduler),), {})
    assert describe_scheduler(pipeline) != describe_scheduler(other)
    other.scheduler = type(pipeline.scheduler)(shift=7.0)
    assert describe_scheduler(pipeline) != describe_scheduler(other)


def test_a_scheduler_is_described_alike_in_every_process() -> None:
    """diffusers notes keys that were not given in the order of a set: no study, reference or schedule was found again."""
    first, second = make_pipeline(), make_pipeline()
    for pipeline, order in ((first, ["shift", "base_shift"]), (second, ["base_shift", "shift"])):
        pipeline.scheduler.register_to_config(_use_default_values=order)
    assert "_use_default_values" in first.scheduler.config
    assert describe_scheduler(first) == describe_scheduler(second)
    second.scheduler.register_to_config(shift=5.0)
    assert describe_scheduler(first) != describe_scheduler(second)


def test_references_are_of_a_device_and_of_versions(pipeline, tmp_path, monkeypatch) -> None:
    """Another `--device`, or another torch, went on with the videos of the one before."""
    References(tmp_path, pipeline, SETTINGS, MadeFor(steps=2)).videos(PROMPTS[:1])
    for name, changed in (("device_name", lambda device: "another GPU"), ("versions", lambda: {"torch": "9"})):
        before = len(list(tmp_path.glob("*.npy")))
        with monkeypatch.context() as patch:
            patch.setattr(module, name, changed)
            References(tmp_path, pipeline, SETTINGS, MadeFor(steps=2)).videos(PROMPTS[:1])
        assert len(list(tmp_path.glob("*.npy"))) == before + 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_references_of_a_model_that_makes_nothing_finite_are_refused(pipeline, tmp_path, value) -> None:
    """They were black, and so were all videos compared with them: 100 dB, and a verdict that accepts."""
    with torch.no_grad():
        next(pipeline.transformer.parameters()).fill_(value)
    with pytest.raises(ModelError, match="makes videos that are not finite, without any policy"):
        References(tmp_path, pipeline, SETTINGS, MadeFor(steps=2)).videos(PROMPTS[:1])
