import json
import re
import time
from pathlib import Path

import pytest

from pabtune.records.interconnects import INTERCONNECTS
from pabtune.records.layouts import ParallelLayout
from pabtune.records.policies import Policy
from pabtune.records.profiles import Profile
from pabtune.records.rules import Rule
from tests.cli.conftest import PROFILE

pytestmark = pytest.mark.xdist_group("costs")  # which counts each model once


def test_cost_tells_what_a_policy_computes_takes_and_holds(pabtune, short_profile) -> None:
    told = pabtune("cost", short_profile, "--policy", "pab246", "--json").document()
    assert 0 < told["compute_fraction"] < 1
    assert 0 < told["predicted_time_fraction"] < 1
    calls = told["calls"]
    assert all(
        calls["computed"][kind] + calls["broadcast"][kind] == count for kind, count in counts(short_profile).items()
    )
    assert told["memory"]["peak_stored_bytes"] > 0
    assert "holds at most" in pabtune("cost", short_profile, "--policy", "pab246").stdout
    nothing = pabtune("cost", short_profile, "--policy", "none", "--json").document()
    assert (nothing["compute_fraction"], nothing["memory"]["peak_stored_bytes"]) == (1.0, 0)


def counts(profile: str) -> dict[str, int]:
    document = json.loads(Path(profile).read_text())
    kinds = [site["kind"] for site in document["sites"]]
    return {kind: kinds.count(kind) * document["made_for"]["steps"] for kind in kinds}


def test_a_block_holds_as_much_as_its_largest_site(pabtune, tmp_path) -> None:
    """Fault 27: the shipped model has 3 spatial and 3 temporal blocks, whose sites' outputs are all of one size."""
    steps, size = 30, Profile.load(PROFILE).site_bytes[0]
    for kind, count in (("block", 6), ("stack", 2)):
        policy = Policy(name="blocks", rules=(Rule(kind=kind, range=2, window=(1, steps)),))
        policy.save(tmp_path / "blocks.json")
        document = pabtune("cost", PROFILE, "--policy", str(tmp_path / "blocks.json"), "--json").document()
        assert document["memory"]["peak_stored_bytes"] == count * size


@pytest.mark.slow
def test_a_published_model_is_counted_as_the_paper_counts_it(pabtune) -> None:
    told = pabtune(
        "cost", "open-sora-1.2", "--policy", "pab246", "--size", "51x480x854", "--steps", "30", "--text-tokens", "12",
        "--gpus", "8", "--sequence-parallel", "dsp", "--json",
    ).document()  # fmt: skip
    assert round(told["flops"]["paper_tflops"], 2) == 2657.70
    assert told["communication"]["messages"] == 2 * 17 * 28
    assert told["calls"]["temporal"] == {"computed": 17 * 28, "broadcast": 13 * 28}
    assert set(told) >= {"flops", "communication", "memory", "calls"}
    words = pabtune("cost", "open-sora-1.2", "--policy", "pab246", "--gpus", "8").stdout
    assert "8 GPUs" in words
    assert "messages for attention" in words
    assert "frames split over 4 by dsp" in words
    named = pabtune(
        "cost", "open-sora-1.2", "--policy", "pab246", "--gpus", "8", "--sequence-parallel", "ulysses"
    ).stdout
    assert "frames split over 8 by ulysses" in named
    sent, full = map(float, re.search(r"sends ([0-9.]+) GB of ([0-9.]+) in", named).groups())
    # The same way without a policy: 17 of 30 steps compute temporal attention.
    assert sent / full == pytest.approx(17 / 30, rel=0.01)


def test_whole_calls_and_guidance_differences_are_counted(pabtune, tmp_path) -> None:
    told = pabtune("cost", "open-sora-1.2", "--policy", "every:2").stdout
    assert re.search(r"transformer \d+ computed, \d+ broadcast\n", told)
    rule = Rule(kind="guidance", range=2, window=(1, 30))
    Policy(name="guidance", rules=(rule,)).save(tmp_path / "guidance.json")
    told = pabtune("cost", "open-sora-1.2", "--policy", str(tmp_path / "guidance.json")).stdout
    assert re.search(r"guidance +\d+ computed, \d+ broadcast\n", told)


def test_a_device_model_tells_latency_and_how_it_scales(pabtune) -> None:
    words = (
        "cost",
        "open-sora-1.2",
        "--policy",
        "pab246",
        "--gpus",
        "1,2,8",
        "--device-tflops",
        "120",
        "--link",
        "pcie",
    )
    told = pabtune(*words, "--json").document()
    seconds = [row["latency"]["seconds"] for row in told["scaling"]]
    assert [row["gpus"] for row in told["scaling"]] == [1, 2, 8]
    assert seconds[0] == told["latency"]["seconds"] == pytest.approx(told["flops"]["total_tflops"] / 120)
    assert told["best"]["gpus"] == 8
    assert seconds[0] > seconds[1] > seconds[2] > seconds[0] / 8
    assert "fastest on 8 (" in pabtune(*words).stdout


def test_a_profiles_rates_tell_latency(pabtune) -> None:
    """On its own model and video, what was measured; on others, what the same rates make of them."""
    profile = Profile.load(PROFILE)
    measured = float(profile.arrays["step_seconds"].sum())
    told = {
        name: pabtune("cost", "shapes", "--policy", name, "--profile", PROFILE, "--json").document()["latency"][
            "seconds"
        ]
        for name in ("none", "pab246")
    }
    assert told["none"] == pytest.approx(measured, rel=0.1)
    fraction = pabtune("cost", PROFILE, "--policy", "pab246", "--json").document()["predicted_time_fraction"]
    assert told["pab246"] / told["none"] == pytest.approx(fraction, rel=0.05)
    longer = pabtune(
        "cost", "shapes", "--policy", "none", "--profile", PROFILE, "--size", "16x24x24", "--gpus", "1,2", "--json"
    ).document()
    assert longer["latency"]["seconds"] == pytest.approx(2 * told["none"], rel=0.1)
    assert longer["best"]["gpus"] == 2
    for words, message in (
        (("open-sora-1.2", "--profile", PROFILE), "is of another model"),
        (("shapes", "--profile", PROFILE, "--device-tflops", "3"), "give one of them"),
        (("shapes", "--device-tflops", "0"), "more than 0 FLOPs per second"),
        (("shapes", "--link", "string"), "neither a link file nor a kind of link; kinds: nvlink"),
    ):
        done = pabtune("cost", *words, "--policy", "none")
        assert done.returncode == 2
        assert message in done.stderr


def test_a_profile_tells_how_a_policy_scales(pabtune) -> None:
    told = pabtune("cost", PROFILE, "--policy", "pab246", "--gpus", "1,2,4", "--link", "25gbe", "--json").document()
    rows = told["scaling"]
    assert [row["gpus"] for row in rows] == [1, 2, 4]
    assert rows[0]["communication"]["messages"] == 0
    assert rows[0]["latency"]["efficiency"] == 1
    assert all(0 < row["latency"]["efficiency"] <= 1 for row in rows)
    fastest = min(rows, key=lambda row: row["latency"]["seconds"])
    assert told["best"] == fastest
    assert ParallelLayout.from_document(fastest["layout"]).gpus == fastest["gpus"]
    assert "4 GPUs" in pabtune("cost", PROFILE, "--policy", "pab246", "--gpus", "1,2,4").stdout


def test_numbers_of_gpus_that_are_too_large_are_left_out(pabtune) -> None:
    """16 frames over 16 GPUs would leave Latte one to each; with the branches split they are two."""
    words = ("cost", "latte", "--policy", "none", "--gpus")
    told = pabtune(*words, "1,16,32", "--json").document()
    assert [row["gpus"] for row in told["scaling"]] == [1, 16]
    assert "guidance branch" in told["scaling"][1]["description"]
    assert told["too_many_gpus"] == [32]
    assert "32 GPUs: too many, each would have a single frame" in pabtune(*words, "1,16,32").stdout
    for numbers in ("16", "16,16"):
        done = pabtune(*words, numbers, "--sequence-parallel", "dsp")
        assert done.returncode == 2
        assert "16 frames over 16 GPUs leave one to each" in done.stderr


def test_a_profile_whose_frames_are_fewer_than_gpus_is_not_said_to_scale(pabtune) -> None:
    profile = Profile.load(PROFILE)
    assert (profile.call.per_step, profile.call.samples, profile.call.shape) == (1, 2, (4, 8, 24, 24))
    words = ("--policy", "none", "--gpus", "8,64", "--sequence-parallel", "dsp")
    assert (
        pabtune("cost", PROFILE, *words, "--json")
        .document()["scaling"][1]["description"]
        .startswith("tokens of each frame split over 64")
    )


def test_other_schedules_and_sizes_are_counted(pabtune) -> None:
    cheap = pabtune(
        "cost", "open-sora-1.2", "--policy", "pab246", "--size", "17x240x426", "--steps", "20", "--json"
    ).document()
    assert all(calls["broadcast"] > 0 for calls in cheap["calls"].values())
    assert 0 < cheap["flops"]["total_tflops"] < 1000


def test_what_is_not_known_is_refused(pabtune, short_profile) -> None:
    for words, message in (
        (("cost", "wan", "--policy", "pab246"), "no workload is known for 'wan'"),
        (("cost", "latte", "--policy", "pab246", "--text-tokens", "500"), "takes 1 to 120 text tokens, not 500"),
        (
            ("cost", short_profile, "--policy", "pab246", "--steps", "9"),
            "is a profile of one video: --steps applies to MODEL only",
        ),
        (("cost", "latte", "--policy", "pab236", "--gpus", "2,x"), "not a list of numbers of GPUs"),
        (("cost", "missing.json", "--policy", "pab246"), "missing.json"),
    ):
        done = pabtune(*words)
        assert done.returncode == 2
        assert message in done.stderr


def test_a_policy_of_another_model_is_refused(pabtune, short_profile, tmp_path) -> None:
    other = {"schema": "pabtune.policy/1", "name": "x", "rules": [], "made_for": {"fingerprint": "sha256:" + "0" * 64}}
    (tmp_path / "other.json").write_text(json.dumps(other))
    done = pabtune("cost", short_profile, "--policy", str(tmp_path / "other.json"))
    assert done.returncode == 2
    assert "was made for another model" in done.stderr


def test_options_for_a_model_are_refused_beside_a_profile_each_by_its_name(pabtune, short_profile) -> None:
    words = ("--size", "1x8x8", "--text-tokens", "3", "--profile", PROFILE, "--device-tflops", "1")
    done = pabtune("cost", short_profile, "--policy", "pab246", *words)
    assert done.returncode == 2
    assert "--size, --text-tokens, --device-tflops, --profile applies to MODEL only" in done.stderr


@pytest.mark.parametrize("what", [PROFILE, "open-sora-1.2"])
def test_the_best_layout_is_written_for_other_verbs(pabtune, tmp_path, what) -> None:
    rate = () if what == PROFILE else ("--device-tflops", "100")
    out = tmp_path / "layout.json"
    words = ("cost", what, "--policy", "pab246", "--gpus", "1,2,8", *rate, "--layout-out", str(out), "--json")
    told = pabtune(*words).document()
    assert ParallelLayout.load(out) == ParallelLayout.from_document(told["best"]["layout"])
    assert ParallelLayout.load(out).gpus == told["best"]["gpus"]


def test_without_predicted_times_no_layout_is_the_fastest(pabtune, tmp_path) -> None:
    """The last number of GPUs was written as the best one."""
    out = tmp_path / "layout.json"
    words = ("cost", "open-sora-1.2", "--policy", "pab246", "--layout-out", str(out))
    done = pabtune(*words, "--gpus", "1,2,8")
    assert (done.returncode, out.exists()) == (2, False)
    assert "no time is predicted; give one of these, or one number of --gpus" in done.stderr
    pabtune(*words, "--gpus", "2", "--json").document()
    assert ParallelLayout.load(out).gpus == 2


def test_there_is_no_layout_of_one_gpu_to_write(pabtune, short_profile, tmp_path) -> None:
    done = pabtune("cost", short_profile, "--policy", "none", "--layout-out", str(tmp_path / "l.json"))
    assert done.returncode == 2
    assert "say how many, for example --gpus 8" in done.stderr
    done = pabtune("cost", "shapes", "--policy", "none", "--layout-out", str(tmp_path / "l.json"))
    assert "say how many, for example --gpus 8" in done.refusal()
    done = pabtune("cost", short_profile, "--policy", "none", "--gpus", "2", "--layout-out", str(tmp_path / "l.txt"))
    assert "must end in .json" in done.refusal()


@pytest.mark.parametrize("model", ["shapes", "latte", "open-sora-1.2", "open-sora-plan-1.1"])
@pytest.mark.parametrize(
    "size", ["0x0x0", "0x64x64", "1x1x0", "-1x64x64", "99999x99999x99999", "1x99999x64", "٣x٦٤x٦٤", "¹x²x³", "1e3x8x8"]
)
def test_a_size_that_no_video_has_is_refused_at_once(pabtune, model, size) -> None:
    """Fault 22: of no pixels, of digits of other scripts, or so large that counting never ended."""
    began = time.monotonic()
    pabtune("cost", model, "--policy", "none", "--size", size).refusal()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("model", "least"),
    [
        ("latte", 16),
        *(pytest.param(*other, marks=pytest.mark.slow) for other in (("open-sora-1.2", 8), ("open-sora-plan-1.1", 16))),
    ],
)
def test_a_size_smaller_than_a_patch_is_refused(pabtune, model, least) -> None:
    """Fault 22: the smallest video that a model computes a token of is counted."""
    words = ("cost", model, "--policy", "none", "--steps", "4", "--text-tokens", "1", "--json", "--size")
    for size in ("1x1x1", f"1x{least - 1}x{least}", f"1x{least}x{least - 1}"):
        assert f"1 to 1024 frames of {least}x{least} to" in pabtune(*words, size).refusal()
    assert pabtune(*words, f"1x{least}x{least}").document()["flops"]["total_tflops"] > 0


@pytest.mark.parametrize("tflops", ["nan", "inf", "-inf", "1e400", "1e-320", "0", "-1", "1e308"])
def test_a_device_that_computes_no_finite_number_of_flops_is_refused(pabtune, tflops) -> None:
    """Fault 23: nan, infinity and what rounds to nothing gave latencies that are no times."""
    pabtune("cost", "shapes", "--policy", "none", "--device-tflops", tflops).refusal()


@pytest.mark.parametrize("key", ["seconds", "bytes_per_second"])
@pytest.mark.parametrize("value", ["1e999", "-1", "1e300", "NaN", "Infinity", "true", '"1"', "[1]", "9" * 400])
def test_a_link_that_was_never_measured_is_refused(pabtune, tmp_path, key, value) -> None:
    """Fault 23: 1e999 was accepted."""
    document = {**INTERCONNECTS["pcie"].to_document(), key: "VALUE"}
    (tmp_path / "link.json").write_text(json.dumps(document).replace('"VALUE"', value))
    words = ("cost", PROFILE, "--policy", "none", "--gpus", "1,2", "--link", str(tmp_path / "link.json"))
    pabtune(*words).refusal()
