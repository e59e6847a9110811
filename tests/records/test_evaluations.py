from dataclasses import replace

import pytest

from pabtune.records.evaluations import Evaluation, Measured

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


def test_further_measures_stand_beside_psnr_with_what_was_done_to_the_frames() -> None:
    measures = {
        "vmaf": Measured(values=(90.0, 70.0), is_higher_better=True, enlarged=8),
        "temporal_error": Measured(values=(1.0, 3.0), is_higher_better=False),
    }
    fidelity = replace(EVALUATION, measures=measures, codec="H.264").to_document()["fidelity"]
    assert {name: fidelity[name] for name in list(fidelity)[3:]} == {
        "vmaf": 80.0, "worst_vmaf": 70.0, "vmaf_enlarged": 8, "temporal_error": 2.0, "worst_temporal_error": 3.0,
        "codec": "H.264",
    }  # fmt: skip
