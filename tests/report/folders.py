"""Folders as the verbs leave them: shipped profile and policies, documents from our own records, real video files."""

import shutil
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from pabtune.cli.left_files import EVALUATION_FILE, evaluation_document, save_pairs, search_document
from pabtune.cli.search_results import document_of
from pabtune.quality.budget import Budget
from pabtune.records.comparisons import CalibrationCost, ComparedSetting, MethodsComparison
from pabtune.records.evaluations import Evaluation
from pabtune.records.files import save_json
from pabtune.records.policies import Policy
from pabtune.records.profiles import Profile
from pabtune.records.prompts import Prompt
from pabtune.records.trials import Candidate, Measurement, Outcome, SearchResult
from pabtune.tuning.judging import judgement_of
from pabtune.tuning.worst import WorstVideos

ROOT = Path(__file__).parent.parent.parent
PROFILE, POLICY = ROOT / "profiles" / "shapes-30steps.json", ROOT / "policies" / "shapes-30steps.json"
FRONT = ROOT / "policies" / "shapes-30steps-front"
EVIL = "<script>alert('x')</script> & \"a\" circle"


def evaluation(policy: str, psnrs: tuple[float, ...] = (30.0, 50.0, 40.0), speedup: float = 2.0) -> Evaluation:
    count = len(psnrs)
    return Evaluation(
        policy=policy, compute_fraction=1 / speedup, latency_s=1.0, baseline_latency_s=speedup, psnr_db=psnrs,
        ssim=(0.99,) * count, score_name="shapes", baseline_scores=(90.0,) * count, scores=(89.5,) * count,
        computed_calls={"mlp": 3}, broadcast_calls={}, most_stored_bytes=7,
        prompts=tuple(f"prompt {index}" for index in range(count)), contents=("any",) * count,
    )  # fmt: skip


def moving(frames: int = 16, brightness: int = 255) -> np.ndarray:
    """A square that moves to the right."""
    video = np.zeros((frames, 24, 24, 3), dtype=np.uint8)
    for frame in range(frames):
        video[frame, 8:14, frame : frame + 6, 0] = brightness
    return video


def leave_profile(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in (".json", ".safetensors"):
        shutil.copy(PROFILE.with_suffix(suffix), folder)


def leave_front(folder: Path) -> None:
    shutil.copytree(FRONT, folder / "front")
    shutil.copy(POLICY, folder / "policy.json")


def leave_evaluation(folder: Path, prompt: str = EVIL) -> None:
    """What `evaluate --out` writes, of two policies and three prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _evaluation_files(prompt).items():
        (folder / name).write_bytes(content)


@cache
def _evaluation_files(prompt: str) -> dict[str, bytes]:
    """By name; made once, since encoding takes long."""
    with tempfile.TemporaryDirectory() as name:
        _evaluate(Path(name), prompt)
        return {path.name: path.read_bytes() for path in sorted(Path(name).iterdir())}


def _evaluate(folder: Path, prompt: str) -> None:
    prompts = [Prompt(prompt=f"{prompt} {index}", seed=index) for index in range(3)]
    evaluations = [evaluation("mine"), evaluation("steps:20", (25.0, 26.0, 27.0), 1.5)]
    worst, videos = WorstVideos(2), []
    worst.add("reference", prompts, [moving()] * 3)
    for each in evaluations:
        worst.add(each.policy, prompts, [moving(brightness=value) for value in (200, 250, 100)])
        videos += save_pairs(folder, worst.pairs(each.policy), each, 8)
    rows = [
        {**each.to_document(), "judgement": judgement_of(each, Budget.parse("shapes>=-1"), 0.04).to_document()}
        for each in evaluations
    ]
    document = evaluation_document(rows, prompts, model="shapes", steps=30, device="cpu", budget="shapes>=-1")
    save_json(folder / EVALUATION_FILE, {**document, "videos": videos})


def leave_search(folder: Path, pipeline) -> None:
    """What `search` writes of one trial."""
    policy = replace(Policy.load(POLICY), name="found", evidence={})
    measured = Measurement(prompts=3, seconds=1, psnr_db=41.0, drop=0.1, drop_upper=0.2, over_budget=-1.0)
    outcome = Outcome(status="complete", predicted_time=0.3, compute_fraction=0.3, measured=measured)
    judged = evaluation("found-trial-0", speedup=3.0)
    result = SearchResult(
        study="s", candidates=(Candidate(number=0, origin="sampler", policy=policy, parameters={}, outcome=outcome),),
        best=policy, verdict="undecided", judged=judged, judgement=judgement_of(judged, Budget.parse("shapes>=-1"), 0.04),
        evaluations=(judged, evaluation("pab246", speedup=1.3), evaluation("steps:10", speedup=2.9)), videos=12.5,
    )  # fmt: skip
    front = [
        {
            **evaluation(f"found-{count}of30", speedup=30 / count).to_document(), "file": None,
            "compared": evaluation(f"found-{count}of30", speedup=30 / count).to_document(),
            "fewer_steps": evaluation(f"steps:{count}", (20.0,), 30 / count).to_document(),
        }
        for count in (20, 10)
    ]  # fmt: skip
    summary = {**document_of(result, folder / "found.json"), "front": front}
    document = search_document(result, summary, Profile.load(PROFILE), "shapes>=-1", pipeline)
    save_json(folder / "found.result.json", document)
    policy.save(folder / "found.json")


def leave_comparison(folder: Path) -> None:
    cost = CalibrationCost(videos=1, seconds=2.0, bytes=3)
    settings = [
        ComparedSetting(
            method=method, knob="k", setting=setting, share=share, tuned_psnr_db=40.0,
            evaluation=evaluation(method, (30.0 * setting,), 1 + setting), calibration=cost,
        )
        for method in ("fewer-steps", "teacache", "pabtune")
        for setting, share in ((1.0, 0.63), (1.2, 0.5))
    ]  # fmt: skip
    comparison = MethodsComparison(
        model="shapes", steps=30, prompts=1, calibration_prompts=2, settings=settings, unfit={"pab": "no"},
        environment={"torch": "2"},
    )  # fmt: skip
    save_json(folder / "compare.json", comparison.to_document())


def leave_all(folder: Path) -> None:
    leave_profile(folder)
    leave_front(folder)
    leave_evaluation(folder)
    leave_comparison(folder)
