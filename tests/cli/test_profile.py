import json

from pabtune.cli.profile import describe_breaks
from tests.cli.conftest import write_prompts


def test_profile_writes_a_profile_and_events(pabtune, tmp_path) -> None:
    out = tmp_path / "deep" / "p.json"
    prompts = write_prompts(tmp_path / "p.jsonl", 6, 5)
    done = pabtune(
        "profile", "shapes", "--prompts", prompts, "--steps", "6", "--out", str(out), "--logdir",
        str(tmp_path / "log"), "--json",
    )  # fmt: skip
    made = done.document()
    assert done.stderr.startswith("6 steps: at most 2 can be held")
    assert made["prompts"] == {"fast": 2, "slow": 2, "still": 2}
    assert set(made["windows"]) == {"fast", "slow", "still", "all"}
    assert made["overhead"] > 0
    assert set(made["median_mse"]) == {"spatial", "temporal", "cross", "mlp"}
    assert all(value > 0 for value in made["median_mse"].values())
    assert json.loads(out.read_text())["schema"] == "pabtune.profile/2"
    assert out.with_suffix(".safetensors").exists()
    assert list((tmp_path / "log").glob("events.*"))


def test_steps_that_change_inside_a_window_are_named_in_a_sentence() -> None:
    assert describe_breaks(()) == ""
    assert describe_breaks((10,)) == "; but step 10 changes much more than its neighbours"
    assert describe_breaks((10, 14)) == "; but steps 10, 14 change much more than their neighbours"
