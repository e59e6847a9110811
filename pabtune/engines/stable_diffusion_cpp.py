"""stable-diffusion.cpp (docs/caching.md): cache-dit's mask as options of `sd-cli`."""

from pabtune.engines.export import Export, export_of, header
from pabtune.engines.plan import Plan


def write(plan: Plan) -> Export:
    """The options, on one line without quotes."""
    (mask,) = plan.masks
    options = {
        "--steps": str(plan.steps),
        "--cache-mode": "cache-dit",
        "--cache-option": "Fn=1,Bn=0,threshold=0.1,warmup=1",
        "--scm-mask": ",".join(map(str, mask.bits)),
        "--scm-policy": "static",
    }
    use = "sd-cli -M vid_gen … $(grep -v '^#' policy.txt)"
    line = " ".join(f"{name} {value}" for name, value in options.items())
    return export_of(plan, options, f"{header(plan, use)}{line}\n", use, ".txt")
