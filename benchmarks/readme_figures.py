"""Draws the README's figure from the shipped profile.

python benchmarks/readme_figures.py
"""

from pathlib import Path

from pabtune import Profile
from pabtune.report.figures import curves_data, draw_curves

ROOT = Path(__file__).parent.parent

if __name__ == "__main__":
    profile = Profile.load(ROOT / "profiles" / "shapes-30steps.json")
    draw_curves(curves_data(profile)).savefig(ROOT / "docs" / "u-shape.png", dpi=110)
