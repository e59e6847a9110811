import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pabtune.cli.search import of_earlier_fronts
from pabtune.models.registry import load_pipeline
from pabtune.models.shapes.pipeline import ShapesPipeline
from pabtune.models.shapes.prompts import sample_prompts
from pabtune.quality.fidelity import psnr_db
from pabtune.records.errors import FileError, PabtuneWarning, StudyError
from pabtune.records.files import load_json
from pabtune.records.layouts import ParallelLayout
from pabtune.records.policies import Policy
from pabtune.records.profiles import Call, Profile
from pabtune.records.prompts import load_prompts
from pabtune.records.splits import split_prompts
from pabtune.records.trials import SCHEMA
from pabtune.tuning import search
from pabtune.tuning.generation import Settings, batches, generate
from tests.cli.conftest import write_prompts


def test_search_resumes_and_writes_a_policy(pabtune, short_profile, tmp_path) -> None:
    out, many = tmp_path / "found.json", write_prompts(tmp_path / "many.jsonl", 18, 6)
    words = ("search", short_profile, "--budget", "shapes>=-80", "--prompts", many, "--out", str(out))
    words += ("--logdir", str(tmp_path / "log"), "--floor", "none", "--json")
    first = pabtune(*words, "--trials", "2").document(code=1)  # so few prompts judge nothing
    again = pabtune(*words, "--trials", "3").document(code=1)
    assert (first["study"], first["trials"]) == (again["study"], again["trials"] - 1)
    assert (tmp_path / "log" / "study.journal").exists()
    left = load_json(tmp_path / "found.result.json", SCHEMA, FileError)
    assert {key: left[key] for key in again} == again
    assert [trial["number"] for trial in left["tried"]] == [0, 1, 2]
    assert left["name"] == "found"
    assert left["made_by"]["command"] == [*words, "--trials", "3"]
    policy = json.loads(out.read_text())
    assert policy["provenance"]["made_by"] == left["made_by"]
    assert policy["evidence"]["looks"] == 2


@pytest.mark.slow
def test_repeated_looks_at_unseen_prompts_are_counted_and_told(pabtune, short_profile, tmp_path) -> None:
    """Fault 9."""
    out, many = tmp_path / "found.json", write_prompts(tmp_path / "many.jsonl", 66, 6)
    words = ("search", short_profile, "--budget", "shapes>=-80", "--prompts", many, "--out", str(out))
    words += ("--logdir", str(tmp_path / "log"), "--floor", "none", "--json")
    first = pabtune(*words, "--trials", "3").document()
    again = pabtune(*words, "--trials", "4").document(code=1)
    assert (first["verdict"], again["verdict"]) == ("accept", "undecided")  # the second look needs more prompts
    evidence = json.loads(out.read_text())["evidence"]
    assert (evidence["verdict"], evidence["looks"], evidence["error"]) == ("undecided", 2, 0.005)
    assert first["judgement"]["error"] == 0.04
    assert (
        first["judgement"]["prompts"] == first["judged"]["prompts"] <= evidence["prompts"] < evidence["prompts_needed"]
    )


@pytest.mark.slow
def test_a_search_for_two_gpus_says_so_in_the_policy(pabtune, short_profile, tmp_path) -> None:
    out, many = tmp_path / "found.json", write_prompts(tmp_path / "many.jsonl", 18, 6)
    words = ("search", short_profile, "--budget", "shapes>=-80", "--prompts", many, "--out", str(out), "--trials", "2")
    words += ("--logdir", str(tmp_path / "log"), "--floor", "none", "--json")
    shared = pabtune(*words, "--gpus", "2", "--sequence-parallel", "ulysses", "--link", "25gbe").document(code=1)
    assert shared["verdict"] == "undecided"  # so few prompts judge nothing
    told = json.loads(out.read_text())["evidence"]["predicted_on"]
    assert ParallelLayout.from_document(told["layout"]) == ParallelLayout(sequence=2, exchange="ulysses")
    assert told["interconnect"]["name"] == "25gbe"
    assert 0 < told["time_fraction"] < 1
    alone = pabtune(*words).document(code=1)
    assert alone["study"] != shared["study"]
    assert "predicted_on" not in json.loads(out.read_text())["evidence"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--videos", "3"), "3 videos are too few for a search; it needs at least"),
        (("--videos", "0"), "'--videos'"),
        (("--videos", "90", "--front", "points"), "--front judges every point"),
        (("--floor", "psnr>38"), "a floor is a preset"),
        (("--floor", "none", "--floor", "psnr>=38"), "a floor is a preset"),
        (("--floor", "vmaf<=90"), "larger figures of vmaf are closer, so that its floor reads vmaf>=90"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused(pabtune, short_profile, tmp_path, words, told) -> None:
    done = pabtune("search", short_profile, "--budget", "shapes>=-80", "--out", str(tmp_path / "o.json"), *words)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert told in line
    assert not (tmp_path / "o.json").exists()


def test_a_budget_whose_score_lacks_its_environment_is_refused_before_anything_is_generated(
    pabtune, short_profile, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("pabtune.cli.options.load_model", lambda *_: pytest.fail("a model was loaded"))
    words = ("search", short_profile, "--out", str(tmp_path / "o.json"), "--logdir", str(tmp_path / "log"))
    for score in ("vbench", "vbench-quality", "vbench:temporal_flickering"):
        line = pabtune(*words, "--budget", f"{score}>=-0.7", "--vbench-home", str(tmp_path / "none")).refusal()
        assert "VBench is not installed here; run: pabtune vbench setup" in line
    assert "VBench has no dimension 'beauty'" in pabtune(*words, "--budget", "vbench:beauty>=-1").refusal()


@pytest.mark.slow
def test_a_floor_on_other_measures_is_kept_and_stands_in_the_policy(pabtune, short_profile, tmp_path) -> None:
    """What the floor looks at is measured on the unseen prompts as well."""
    out, many = tmp_path / "found.json", write_prompts(tmp_path / "many.jsonl", 18, 6)
    words = ("search", short_profile, "--budget", "shapes>=-80", "--prompts", many, "--out", str(out), "--trials", "3")
    words += ("--logdir", str(tmp_path / "log"), "--floor", "temporal<=300", "--json")
    found = pabtune(*words).document(code=1)["judged"]
    assert {"ssim", "worst_temporal_error"} <= set(found["fidelity"])
    told = json.loads(out.read_text())["evidence"]["fidelity"]
    assert told["temporal_error"] == pytest.approx(found["fidelity"]["temporal_error"], abs=1e-4)
    strict = pabtune(*words[:-1], "--floor", "worst-temporal<=0", "--json").document(code=1)
    assert (strict["verdict"], strict["policy"]) == (None, None)


def test_branches_are_split_only_where_there_are_two(pabtune, short_profile, tmp_path) -> None:
    profile = Profile.load(short_profile)
    arrays = {name: array[:, :1] if array.ndim > 2 else array for name, array in profile.arrays.items()}
    alone = tmp_path / "alone.json"
    replace(profile, branches=profile.branches[:1], arrays=arrays, call=Call(per_step=1, samples=1, shape=())).save(
        alone
    )
    words = ("search", str(alone), "--budget", "shapes>=-80", "--out", str(tmp_path / "found.json"), "--gpus", "2")
    done = pabtune(*words, "--split-branches")
    assert done.returncode == 2
    assert "has no guidance branches that GPUs could share" in done.stderr


@pytest.mark.slow  # tests of tuning search variants, others of the command line use them
@pytest.mark.filterwarnings("ignore:policy 'found'")  # undecided on so few prompts
def test_a_variant_per_content_class(pabtune, short_profile, tmp_path) -> None:
    out, many = tmp_path / "found.json", write_prompts(tmp_path / "many.jsonl", 36, 6)
    done = pabtune(
        "search", short_profile, "--budget", "shapes>=-80", "--trials", "2", "--prompts", many, "--out", str(out),
        "--logdir", str(tmp_path / "log"), "--floor", "none", "--per-content", "--json",
    )  # fmt: skip
    assert done.document(code=1)["variants"] == {"fast": "undecided", "slow": "undecided", "still": "undecided"}
    told = re.findall(
        r"(\d+) prompts to test with: (.+) will at best be undecided; accepting needs at least 38", done.stderr
    )
    counts = split_prompts(sample_prompts(36, 6)).counts()
    assert {what: int(count) for count, what in told} == {
        "the policy": sum(each["test"] for each in counts.values()),
        **{f"the variant {content}": each["test"] for content, each in counts.items()},
    }  # fault 9
    assert set(json.loads(out.read_text())["variants"]) == {"fast", "slow", "still"}
    words = ("generate", "shapes", "--policy", str(out), "--prompt", "a red square", "--steps", "6")
    made = pabtune(*words, "--content", "fast", "--out", str(tmp_path / "v.gif"), "--json").document()
    assert made["videos"][0]["broadcast_calls"]
    accuracy = Policy.load(out).evidence["classifier"]
    assert accuracy["prompts"] == sum(each["test"] for each in counts.values())
    assert (
        f"prompt: {accuracy['right']} of {accuracy['prompts']} unseen ones right, {accuracy['wrong']} wrong"
        in done.stderr
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:policy 'found'")  # undecided on so few prompts
def test_the_content_class_is_told_by_the_first_steps(pabtune, short_profile, tmp_path) -> None:
    out, many = tmp_path / "found.json", write_prompts(tmp_path / "many.jsonl", 36, 6)
    words = ("search", short_profile, "--budget", "shapes>=-80", "--trials", "2", "--prompts", many, "--out", str(out))
    words = (*words, "--logdir", str(tmp_path / "log"), "--floor", "none", "--content-by", "first-steps")
    assert "stands with --per-content" in pabtune(*words).refusal()
    assert "without --videos" in pabtune(*words, "--per-content", "--videos", "50").refusal()
    done = pabtune(*words, "--per-content")
    assert done.returncode == 1, done.stderr
    policy = Policy.load(out)
    accuracy, told = policy.evidence["first_steps"], policy.first_steps
    assert f"by the first steps: {accuracy['right']} of {accuracy['prompts']} unseen ones right" in done.stderr
    assert accuracy["prompts"] == sum(each["test"] for each in split_prompts(sample_prompts(36, 6)).counts().values())
    assert policy.classifier is None
    shown = pabtune("policies", "show", str(out)).stdout
    assert f"note: with --content auto the class of a run is told after its first {told.steps} steps" in shown
    words = (
        "generate",
        "shapes",
        "--policy",
        str(out),
        "--prompt",
        "a red square",
        "--steps",
        "6",
        "--content",
        "auto",
    )
    made = pabtune(*words, "--out", str(tmp_path / "v.gif"), "--json").document()
    assert made["videos"][0]["content"] in (None, "still", "slow", "fast")


def test_an_impossible_budget_exits_with_one(pabtune, short_profile, tmp_path) -> None:
    """Only trials that broadcast nothing lose nothing for certain, and those are no policy."""
    many = write_prompts(tmp_path / "many.jsonl", 18, 6)
    done = pabtune(
        "search", short_profile, "--budget", "shapes>=0", "--trials", "1", "--prompts", many, "--out",
        str(tmp_path / "none.json"), "--logdir", str(tmp_path / "log"), "--json",
    )  # fmt: skip
    found = done.document(code=1)
    assert found["verdict"] is None
    assert found["policy"] is None
    assert not (tmp_path / "none.json").exists()
    assert load_json(tmp_path / "none.result.json", SCHEMA, FileError)["name"] is None


REFERENCES: dict[str, np.ndarray] = {}


def breaks_later(video, prompt: str) -> float:
    """A score that an accelerated video loses 30 points of, but not of the prompts to tune on or to validate with."""
    is_reference = prompt not in REFERENCES or psnr_db(video, REFERENCES[prompt]) > 90
    return 80.0 if is_reference else 50.0


@pytest.mark.slow
def test_a_rejected_policy_does_not_take_the_place_of_an_accepted_one(pabtune, short_profile, tmp_path) -> None:
    """Fault 8: within the budget of 25 points: the second trial of the search, not what it is judged on."""
    out, many = tmp_path / "found.json", write_prompts(tmp_path / "many.jsonl", 36, 6)
    out.write_text("accepted long ago")
    pipeline = load_pipeline("shapes")
    for batch in batches(split_prompts(load_prompts(Path(many))).test, 4):
        for prompt, video in zip(batch, generate(pipeline, batch, Settings(steps=6)).videos, strict=True):
            REFERENCES[prompt.prompt] = video
    done = pabtune(
        "search", short_profile, "--budget", "tests.cli.test_search:breaks_later>=-25", "--prompts", many, "--trials",
        "2", "--out", str(out), "--logdir", str(tmp_path / "log"), "--floor", "none", "--json",
    )  # fmt: skip
    document = done.document(code=1)
    assert (document["verdict"], document["policy"]) == ("reject", None)
    assert document["judgement"]["prompts"] < len(REFERENCES)  # eight are enough
    assert out.read_text() == "accepted long ago"
    assert "the rejected policy is not written" in done.stderr


SECRET = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@localhost:1/x", "mysql://me:hunter2@localhost/x", "nosuchdb://me:hunter2@h/x",
        "postgresql://me:h%75nter2@localhost:1/x", "postgresql://localhost:1/x?user=me&password=hunter2",
        "postgresql://me:a@b:hunter2@localhost:1/x", "postgresql://me:hunter2@localhost:notaport/x",
        "redis://:hunter2@localhost:1",
    ],
)  # fmt: skip
def test_a_storage_that_fails_is_named_without_its_password(pabtune, short_profile, tmp_path, url) -> None:
    """Fault 18: in what the driver says of it, too."""
    done = pabtune(
        "search", short_profile, "--budget", "shapes>=-80", "--trials", "1", "--storage", url,
        "--out", str(tmp_path / "o.json"), "--logdir", str(tmp_path),
    )  # fmt: skip
    line = done.refusal()
    assert "cannot use the storage" in line
    assert SECRET not in line
    assert "h%75nter2" not in line


def fails(video, prompt: str) -> float:
    raise ZeroDivisionError(f"no frames in {prompt}")


def leaves(video, prompt: str) -> float:
    raise SystemExit("bye")


def has_no_number(video, prompt: str) -> float:
    return float("nan")


def test_a_score_is_tried_on_one_video_before_the_search(pabtune, short_profile, tmp_path, monkeypatch) -> None:
    """Fault 25: the traceback came after the time that all reference videos took; now after one call of four steps."""
    many, steps = write_prompts(tmp_path / "many.jsonl", 54, 6), []
    call = ShapesPipeline.__call__

    def counted(self, *args, num_inference_steps: int, **values):
        steps.append(num_inference_steps)
        return call(self, *args, num_inference_steps=num_inference_steps, **values)

    monkeypatch.setattr(ShapesPipeline, "__call__", counted)
    for score, message in (
        ("fails", "ZeroDivisionError: no frames in"),
        ("leaves", "SystemExit: bye"),
        ("has_no_number", "must return a finite number, but for the prompt"),
    ):
        steps.clear()
        line = pabtune(
            "search", short_profile, "--budget", f"tests.cli.test_search:{score}>=-1", "--trials", "1", "--prompts",
            many, "--out", str(tmp_path / "o.json"), "--logdir", str(tmp_path),
        ).refusal()  # fmt: skip
        assert message in line
        assert steps == [4]


def test_the_help_tells_the_captions_that_a_search_takes(pabtune, short_profile, tmp_path, monkeypatch) -> None:
    """Fault 28: it said 64 where the code took 72."""
    taken: list[list[int]] = []

    def stopped(pipeline, profile, prompts, *rest) -> None:
        taken.append([len(part) for part in prompts.parts().values()])
        raise StudyError("enough")

    monkeypatch.setattr(search, "search_variants", stopped)
    words = ("search", short_profile, "--budget", "shapes>=-1", "--out", str(tmp_path / "o.json"))
    for more in ((), ("--per-content",)):
        assert "enough" in pabtune(*words, "--logdir", str(tmp_path), *more).refusal()
    told = re.findall(
        r"Default for `shapes`: (\d+), (\d+) and at most (\d+) captions, (\d+) with --per-content", help_of(pabtune)
    )
    assert told == [tuple(map(str, (*taken[0], taken[1][2])))]


def help_of(pabtune) -> str:
    return " ".join(pabtune("search", "--help").stdout.split())


def test_with_few_steps_the_gain_is_bounded_and_nothing_worth_caching_is_an_answer(
    pabtune, short_profile, tmp_path
) -> None:
    many = write_prompts(tmp_path / "many.jsonl", 18, 6)
    words = ("search", short_profile, "--budget", "shapes>=-80", "--prompts", many, "--trials", "2", "--json")
    words += ("--out", str(tmp_path / "found.json"), "--logdir", str(tmp_path / "log"), "--floor", "psnr>=99")
    done = pabtune(*words)
    assert done.document(code=1)["is_worth_caching"] is False
    assert "6 steps: at most 2 can be held without holding two in a row" in done.stderr
    assert re.search(
        r"nothing worth caching at 6 steps: the closest of 2 policies that saves 5% of the time", done.stderr
    )
    assert not (tmp_path / "found.json").exists()


@pytest.mark.slow  # searches for engines are tested in tuning
def test_a_search_for_an_engine_names_the_command_that_writes_its_file(pabtune, short_profile, tmp_path) -> None:
    out, many = tmp_path / "found.json", write_prompts(tmp_path / "many.jsonl", 18, 6)
    words = (
        "search",
        short_profile,
        "--budget",
        "shapes>=-80",
        "--prompts",
        many,
        "--out",
        str(out),
        "--floor",
        "none",
    )
    words += ("--logdir", str(tmp_path / "log"), "--for")
    with pytest.warns(PabtuneWarning, match="was not run in cache-dit by pabtune's tests"):
        done = pabtune(*words, "cache-dit")
    assert done.returncode == 1  # undecided on so few prompts
    assert f"its file for cache-dit: pabtune export {out} --to cache-dit" in done.stderr
    assert {rule.kind for rule in Policy.load(out).rules} == {"stack"}
    assert "unknown engine 'comfy'; known: cache-dit" in pabtune(*words, "comfy").refusal()
    told = pabtune(*words, "sglang", "--per-content").refusal()
    assert "--for sglang: it has one schedule for all prompts; leave --per-content out" in told
    assert "--for sglang: it has nothing like --store" in pabtune(*words, "sglang", "--store", "int8").refusal()


def test_what_an_earlier_search_left_in_the_folder_of_a_front_is_told(tmp_path) -> None:
    """The last one's policy for 24 steps stood beside the new ones, and `compare --front` ran it with them."""
    for name in ("a-24of30.json", "a-9of30.json", "b-9of30.json", "a-notes.json", "a-9of30.txt"):
        (tmp_path / name).write_text("{}")
    assert of_earlier_fronts(tmp_path, "a", [str(tmp_path / "a-9of30.json"), None]) == [tmp_path / "a-24of30.json"]
    assert of_earlier_fronts(tmp_path, "[a]", []) == []
