"""A comparison: what each method of the literature, and pabtune's own, give at the same compute on the same prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from pabtune.records.evaluations import Evaluation, Measured, Repeated

SCHEMA = "pabtune.comparison/1"

POOR_DB = 30.0
"""Videos further from the full run than this are counted."""

TIME_TOLERANCE = 0.03
"""Of the full run's time, as much as of its compute is allowed; on a busy machine runs of the same work differ by more."""


ShareOf = Literal["compute", "time"]
"""What a share is of: the full run's compute or its measured time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationCost:
    """What a method spent before it ran.

    Attributes:
        videos: full videos generated; a run of fewer denoising steps counts by its share of them.
        seconds: wall time.
        bytes: what it recorded of runs at most, and what it keeps of them.
    """

    videos: float
    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedSetting:
    """A method at one setting of its knob.

    Attributes:
        method: its name.
        knob: what is set.
        setting: to what.
        share: that it was chosen for; None = the method reaches none of those asked for, this is its cheapest.
        share_of: what the share is of: the full run's compute, or its time as measured on the calibration prompts.
        tuned_psnr_db: mean on the calibration prompts, by which it was chosen.
        evaluation: on the unseen prompts.
        calibration: what it took.
    """

    method: str
    knob: str
    setting: float
    share: float | None
    share_of: ShareOf = "compute"
    tuned_psnr_db: float
    evaluation: Evaluation
    calibration: CalibrationCost

    @property
    def time_share(self) -> float:
        """Measured time over that of the full run."""
        return self.evaluation.latency_s / self.evaluation.baseline_latency_s

    @property
    def poor_share(self) -> float:
        """Share of the videos under `POOR_DB`."""
        psnrs = self.evaluation.psnr_db
        return sum(psnr < POOR_DB for psnr in psnrs) / len(psnrs)

    def to_document(self) -> dict[str, Any]:
        """The same as JSON."""
        evaluation = self.evaluation.to_document()
        return {
            "method": self.method,
            "knob": self.knob,
            "setting": self.setting,
            "share": self.share,
            "share_of": self.share_of,
            "compute_share": self.evaluation.compute_fraction,
            "time_share": self.time_share,
            "fidelity": evaluation["fidelity"] | {"share_under_30_db": self.poor_share},
            "score": evaluation["score"],
            "tuned_psnr_db": self.tuned_psnr_db,
            "calibration": asdict(self.calibration),
            "psnr_db_by_prompt": list(self.evaluation.psnr_db),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodsComparison:
    """All methods on one model.

    Attributes:
        model: name or path.
        steps: denoising steps of the full run.
        prompts: number of unseen prompts.
        calibration_prompts: number of those that methods were tuned on.
        settings: each method at each setting that was chosen.
        unfit: why a method cannot run on this model, by its name.
        environment: versions, device.
    """

    model: str
    steps: int
    prompts: int
    calibration_prompts: int
    settings: Sequence[ComparedSetting]
    unfit: Mapping[str, str]
    environment: Mapping[str, Any]

    def at_share(self, share: float) -> list[ComparedSetting]:
        """Each method's setting that was chosen for a share of the compute, the closest to the full run first."""
        chosen = [each for each in self.settings if each.share == share and each.share_of == "compute"]
        return sorted(chosen, key=lambda each: -mean(each.evaluation.psnr_db))

    def within_time(self, share: float) -> list[ComparedSetting]:
        """For each method the setting that takes no more than a share of the full run's time, the closest first.

        Of several, the one that was closest on the calibration prompts; `TIME_TOLERANCE` is allowed for the clock.
        """
        best: dict[str, ComparedSetting] = {}
        for each in self.settings:
            if each.time_share <= share + TIME_TOLERANCE:
                before = best.get(each.method, each)
                best[each.method] = max(before, each, key=lambda setting: setting.tuned_psnr_db)
        return sorted(best.values(), key=lambda each: -mean(each.evaluation.psnr_db))

    def to_document(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "steps": self.steps,
            "prompts": self.prompts,
            "calibration_prompts": self.calibration_prompts,
            "settings": [each.to_document() for each in self.settings],
            "unfit": dict(self.unfit),
            "environment": dict(self.environment),
        }


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)


def unpack_evaluation(document: Mapping[str, Any]) -> Evaluation:
    """The evaluation that `asdict` wrote, every value of every prompt.

    Raises:
        TypeError: it is of another version.
        KeyError: the same.
    """
    values = {each.name: document[each.name] for each in fields(Evaluation)}
    lists = ("psnr_db", "ssim", "baseline_scores", "scores", "prompts", "contents")
    measures = {
        name: Measured(**{**each, "values": tuple(each["values"])}) for name, each in values["measures"].items()
    }
    repeated = values.get("repeated")
    return Evaluation(
        **{
            **values,
            **{name: tuple(values[name]) for name in lists},
            "measures": measures,
            "repeated": None if repeated is None else Repeated(**repeated),
        }
    )
