import pytest

from pabtune.records.evaluations import Evaluation

EVALUATION = Evaluation(
    policy="p", compute_fraction=0.75, latency_s=2.0, baseline_latency_s=3.0, psnr_db=(30.0, 40.0), ssim=(0.9, 1.0),
    score_name="shapes", baseline_scores=(90.0, 80.0), scores=(89.0, 82.0), computed_calls={"mlp": 10},
    broadcast_calls={"mlp": 2}, most_stored_bytes=8,
)  # fmt: skip


def test_three_numbers_that_are_never_merged() -> None:
    document = EVALUATION.to_document()
    assert document["speedup"] == 1.5
    assert document["fidelity"] == {"psnr_db": 35.0, "worst_psnr_db": 30.0, "ssim": pytest.approx(0.95)}
    assert document["score"] == {"name": "shapes", "baseline": 85.0, "policy": 85.5, "drop": -0.5}
    assert EVALUATION.drops == (1.0, -2.0)
