import json

import pytest

from tests.cli.conftest import FRONT_POLICY, write_prompts


def test_compare_writes_a_table_a_document_and_a_figure(pabtune, tmp_path) -> None:
    tuned, unseen = write_prompts(tmp_path / "tuned.jsonl", 1, 5), write_prompts(tmp_path / "unseen.jsonl", 1, 6)
    words = (
        "compare", "shapes", "--methods", "fora,fewer-steps", "--setting", "fora=2,3", "--setting", "fewer-steps=0.5",
        "--calibrate", tuned, "--prompts", unseen, "--steps", "8", "--out", str(tmp_path / "out"), "--json",
    )  # fmt: skip
    done = pabtune(*words)
    document = done.document()
    assert document == json.loads((tmp_path / "out" / "compare.json").read_text())
    assert (tmp_path / "out" / "compare.png").stat().st_size > 10_000
    assert {row["method"] for row in document["settings"]} == {"fora", "fewer-steps"}
    assert set(document["settings"][0]) >= {
        "method", "knob", "setting", "share", "compute_share", "time_share", "fidelity", "score", "calibration",
    }  # fmt: skip
    assert set(document["settings"][0]["fidelity"]) == {"psnr_db", "worst_psnr_db", "ssim", "share_under_30_db"}
    assert set(document["settings"][0]["calibration"]) == {"videos", "seconds", "bytes"}
    assert "1 unseen prompts" in done.stderr
    assert "share of the full run's measured time" in " ".join(done.stderr.split())
    assert pabtune(*words).document() == document  # all of it was kept


@pytest.mark.slow
def test_policies_of_a_front_are_compared_too_or_say_why_not(pabtune, tmp_path) -> None:
    tuned, unseen = write_prompts(tmp_path / "tuned.jsonl", 1, 5), write_prompts(tmp_path / "unseen.jsonl", 1, 6)
    done = pabtune(
        "compare", "shapes", "--methods", "fewer-steps", "--setting", "fewer-steps=0.5", "--front", FRONT_POLICY,
        "--calibrate", tuned, "--prompts", unseen, "--steps", "6", "--out", str(tmp_path / "out"), "--json",
    )  # fmt: skip
    assert "nothing sensible is left of it" in done.document()["unfit"]["pabtune-front"]
    assert "pabtune-front: cannot run here" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--methods", "teacup"), "unknown method 'teacup'"),
        (("--methods", "fora", "--setting", "fora=1"), "interval must be a whole number from 2 to 20, but is 1"),
        (("--front", "nowhere"), "nowhere"),
        (("--score", "beauty", "--methods", "fora"), "unknown score 'beauty'"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(pabtune, tmp_path, words, message) -> None:
    done = pabtune("compare", "shapes", *words, "--out", str(tmp_path / "out"))
    assert message in done.refusal()


def test_prompts_that_were_tuned_on_are_not_judged_on(pabtune, tmp_path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps({"prompt": "a red square stands still", "seed": 3}))
    done = pabtune(
        "compare", "shapes", "--calibrate", str(file), "--prompts", str(file), "--out", str(tmp_path / "out")
    )
    assert "'a red square stands still' is in both" in done.refusal()
    # without seeds of their own both files had others, and nothing was said
    tuned, judged = tmp_path / "tuned.txt", tmp_path / "judged.txt"
    tuned.write_text("a red square stands still\n")
    judged.write_text("a blue cross stands still\nA red  square stands still\n")
    done = pabtune(
        "compare", "shapes", "--calibrate", str(tuned), "--prompts", str(judged), "--out", str(tmp_path / "out")
    )
    assert "'A red square stands still' is in both" in done.refusal()
