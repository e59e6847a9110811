"""The verbs on a folder of diffusers' own: a small Wan with random weights, and a score of the user's own."""

import json

import numpy as np
import pytest
from PIL import Image

from pabtune.records.policies import Policy
from pabtune.records.rules import Rule
from tests.pipelines import wan, wan_image

pytestmark = pytest.mark.filterwarnings("ignore")

SCORE = """
def sharpness(video, prompt):
    return float(abs(video[:, 1:].astype(float) - video[:, :-1]).mean() / 2.55)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    wan.wan21().save_pretrained(tmp_path / "wan")
    (tmp_path / "my_scores.py").write_text(SCORE)
    cats = [f"a cat number {number}\n" for number in range(80)]
    (tmp_path / "few.txt").write_text("".join(cats[:2]))
    (tmp_path / "many.txt").write_text("".join(cats))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


RUN = ("--steps", "6", "--size", "9x16x16", "--negative-prompt", "blurry", "--pipeline-arg", "max_sequence_length=16")


@pytest.mark.slow
def test_profile_search_generate_evaluate(pabtune, folder) -> None:
    """Fault 27: the search accepts (prompts enough to test with, a wide budget), and ends with exit code 0."""
    model, few, many = str(folder / "wan"), str(folder / "few.txt"), str(folder / "many.txt")
    profile, policy = str(folder / "profile.json"), str(folder / "policy.json")
    made = pabtune("profile", model, "--prompts", few, "--out", profile, *RUN, "--json").document()
    assert set(made["windows"]["all"]) == {"full", "cross", "mlp"}
    found = pabtune(
        "search", profile, "--budget", "my_scores:sharpness>=-90", "--trials", "3", "--prompts", many,
        "--out", policy, "--logdir", str(folder / "log"), "--json",
    ).document()  # fmt: skip
    assert (found["verdict"], found["policy"]) == ("accept", policy)
    settings = json.loads((folder / "policy.json").read_text())["made_for"]["settings"]
    assert settings["arguments"]["num_frames"] == 9
    video = folder / "v.mp4"
    row = pabtune("generate", model, "--policy", policy, "--prompt", "a cat", "--out", str(video), *RUN, "--json")
    assert row.document()["videos"][0]["broadcast_calls"]
    assert video.exists()
    told = pabtune("evaluate", model, "--policy", policy, "--prompts", few, *RUN, "--json").document()["policies"][0]
    assert told["score"] is None
    assert told["compute_fraction"] < 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pipeline-arg", "colour=red"], "WanPipeline takes no argument 'colour'; it takes: "),
        (["--image", "IMAGE"], "WanPipeline takes no argument 'image'"),
        (["--size", "9x15x16"], "WanPipeline failed: ValueError: `height` and `width` have to be divisible by 16"),
        (["--size", "99997x99984x99984"], "WanPipeline failed: RuntimeError: "),
        (["--pipeline-arg", "max_sequence_length=red"], "WanPipeline failed: "),
        ([*RUN, "--pipeline-arg", "num_videos_per_prompt=2"], "made 2 videos for 1 prompts"),
        (["--policy", "pab246"], "the model has no 'spatial' sites; it has: cross, full, mlp"),
    ],
)
def test_what_the_pipeline_does_not_take_is_refused(pabtune, folder, words, message) -> None:
    """Faults 22 and 24: what it says is passed on as one line, also of memory that is not there."""
    image = folder / "i.png"
    Image.new("RGB", (16, 16)).save(image)
    words = [word.replace("IMAGE", str(image)) for word in words]
    out = str(folder / "v.mp4")
    done = pabtune("generate", str(folder / "wan"), "--prompt", "a cat", "--out", out, *words)
    assert message in done.refusal()


def test_a_video_starts_from_an_image(pabtune, folder) -> None:
    wan_image.wan21_image().save_pretrained(folder / "wan-i2v")
    ramp = np.linspace(0, 255, 32 * 48 * 3).reshape(32, 48, 3).astype(np.uint8)
    Image.fromarray(ramp).save(folder / "ramp.png")
    Image.fromarray(255 - ramp).save(folder / "inverse.png")
    (folder / "text.txt").write_text("no image")

    def generate(image: str):
        arguments = [
            "--steps",
            "4",
            "--size",
            "9x16x16",
            "--image",
            str(folder / image),
            "--out",
            str(folder / "v.mp4"),
        ]
        policy = folder / "p.json"
        Policy(name="p", rules=(Rule(kind="full", range=2, window=(1, 4)),)).save(policy)
        return pabtune(
            "generate", str(folder / "wan-i2v"), "--policy", str(policy), "--prompt", "a cat", *arguments, "--json"
        )

    videos = []
    for image in ("ramp.png", "inverse.png"):
        assert generate(image).document()["videos"][0]["broadcast_calls"] == {"full": 2 * 2 * 2}
        videos.append((folder / "v.mp4").read_bytes())
    assert videos[0] != videos[1]
    refused = generate("text.txt")
    assert refused.returncode == 2
    assert "text.txt: not an image that can be read" in refused.stderr
