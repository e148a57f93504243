"""Every command line that reads a recording; `recording.h5` is the damaged one, `other.h5` a whole one."""

from __future__ import annotations

PICTURE = "picture.png"
QUICK: dict[str, list[str]] = {
    "accuracy": ["accuracy"],
    "accuracy --json": ["accuracy", "--json", "--all"],
    "accuracy --csv": ["accuracy", "--csv"],
    "unevenness": ["unevenness"],
    "unevenness --layer": ["unevenness", "--layer=-2", "-t", "2"],
    "unevenness --json": ["unevenness", "--json"],
    "unevenness --csv": ["unevenness", "--csv", "-t", "3"],
    "unevenness --recompute": ["unevenness", "--recompute"],
    "layers": ["layers"],
    "layers --json": ["layers", "--json"],
    "layers --csv": ["layers", "--csv"],
    "trace": ["trace", "--layer=-2", "--sample", "2", "--neuron", "3"],
    "trace --json": ["trace", "--layer", "0", "--neuron", "5", "--json"],
    "trace --csv": ["trace", "--layer=-1", "--neuron", "1", "--csv"],
    "what-if": ["what-if", "--layer=-1"],
    "what-if --json": ["what-if", "--json", "--layer=-2", "--method", "negspike"],
    "what-if --csv": ["what-if", "--csv", "--layer=-1", "--inputs", "even"],
    "check": ["check", "--fail-if", "layers.*.cases.zero_over.share > 100%", "--fail-if", "snn.4 < 0"],
    "check --json": ["check", "--fail-if", "layers.*.figures.rmse > 1000", "--json"],
    "diagnose": ["diagnose"],
    "diagnose --json": ["diagnose", "--json"],
    "diff": ["diff", "recording.h5", "other.h5"],
    "diff --json": ["diff", "other.h5", "recording.h5", "--json"],
    "diff --csv": ["diff", "recording.h5", "other.h5", "--csv", "-t", "2"],
    "merge": ["merge", "recording.h5", "-o", "merged.h5"],
    "verify": ["verify"],
    "verify --json": ["verify", "--json"],
}
DRAWN: dict[str, list[str]] = {
    **{
        f"plot {kind}": ["plot", kind, "-o", PICTURE]
        for kind in (
            "raster", "rates", "cases", "attribution", "phi", "offsets", "residual", "accuracy", "features", "trace"
        )
    },
    "plot svg": ["plot", "attribution", "--layer=-2", "-o", "picture.svg"],
    "plot pdf": ["plot", "rates", "-o", "picture.pdf"],
    "trace -o": ["trace", "--layer=-1", "--neuron", "2", "-o", PICTURE],
}  # fmt: skip
ALL = QUICK | DRAWN
