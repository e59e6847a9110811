import numpy as np
import pytest
import torch

from pabtune.models.shapes import training
from pabtune.models.shapes.captions import parse
from pabtune.models.shapes.training import TrainingConfig, learning_rate_factor, sample_batch, train, training_scenes

CONFIG = TrainingConfig(steps=4, batch_size=2, checkpoint_every=2, warmup_steps=1)


@pytest.mark.slow
def test_training_resumes_where_it_was_killed(tmp_path) -> None:
    (tmp_path / "whole").mkdir()
    whole = train(tmp_path / "whole", CONFIG, lambda step, values: None)

    def die(step, values):
        if step == 3:
            raise KeyboardInterrupt

    (tmp_path / "killed").mkdir()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", CONFIG, die)
    steps = []
    resumed = train(tmp_path / "killed", CONFIG, lambda step, values: steps.append(step))
    assert steps == [2, 3]
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, msg=name)


def test_batches_come_from_the_training_side(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    clips, times, captions = sample_batch(training_scenes(), 4, False, rng)
    assert clips.shape == (4, 3, 8, 24, 24)
    assert -1 <= clips.min() <= clips.max() <= 1
    frames, moments, more = sample_batch(training_scenes(), 4, True, rng)
    assert frames.shape == (32, 3, 1, 24, 24)
    torch.testing.assert_close(times, torch.linspace(-8, 8, 8).expand(4, 8))
    assert len(set(moments.flatten().tolist())) > 4
    assert all(parse(caption) for caption in captions + more)
    assert training.FRAMES == 8


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    config = TrainingConfig(steps=100, warmup_steps=10, decay_share=0.5)
    factors = [learning_rate_factor(step, config) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10] == factors[50] == 1.0
    assert factors[75] == pytest.approx(0.5)
    assert factors[100] == 0.0
