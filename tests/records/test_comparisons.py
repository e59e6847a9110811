"""Evaluations that a comparison keeps."""

import json
from dataclasses import asdict

from pabtune.records.comparisons import unpack_evaluation
from pabtune.records.evaluations import Evaluation, Measured


def test_an_evaluation_comes_back_from_its_json() -> None:
    evaluation = Evaluation(
        policy="p", compute_fraction=0.5, latency_s=1.0, baseline_latency_s=2.0, psnr_db=(28.0, 40.0), ssim=(0.9, 1.0),
        score_name="shapes", baseline_scores=(90.0, 80.0), scores=(89.0, 80.0), computed_calls={"mlp": 3},
        broadcast_calls={}, most_stored_bytes=7, measures={"vmaf": Measured(values=(1.0, 2.0), is_higher_better=True)},
    )  # fmt: skip
    assert unpack_evaluation(json.loads(json.dumps(asdict(evaluation)))) == evaluation
