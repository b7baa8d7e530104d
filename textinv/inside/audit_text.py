"""An audit as text, for a terminal or a log."""
from __future__ import annotations

from textinv.inside.audit import Audit
from textinv.inside.checks import Check
from textinv.inside.stages import Stage


def audit_text(audit: Audit) -> str:
    """The whole audit, two lines per stage and one per check."""
    facts = [f"{name:10}{value}" for name, value in audit.facts.items()]
    failed = sum(not check.passed for check in audit.checks)
    verdict = (f"{failed} of {len(audit.checks)} checks FAILED" if failed else
               f"all {len(audit.checks)} checks passed")
    return "\n".join([*facts, "", "One training step", "", *(line for stage in audit.stages
                                                            for line in _stage(stage)),
                      "", "Checks", "", *map(_check, audit.checks), "", verdict])


def _stage(stage: Stage) -> list[str]:
    story = " · ".join(part for part in (stage.formula, stage.source, stage.where, stage.note) if part)
    cost = f"{stage.milliseconds:9.1f} ms{size_text(stage.bytes):>10}{flops_text(stage.flops):>14}"
    return [f"{stage.name:18}{shape_text(stage):27}{range_text(stage):34}{cost}", f"    {story}"]


def _check(check: Check) -> str:
    mark = "ok" if check.passed else "FAILED"
    return f"{mark:8}{check.claim}: {check.number:.3g} (at most {check.limit:.3g}; {check.meaning})"


def shape_text(stage: Stage) -> str:
    """"(4 77 1280) float32"."""
    return f"({' '.join(map(str, stage.shape))}) {stage.dtype}"


def range_text(stage: Stage) -> str:
    """Smallest and largest value, and the norm; empty for text."""
    if stage.low is None or stage.high is None:
        return ""
    return f"{stage.low:.3g} ... {stage.high:.3g}, norm {stage.norm:.3g}"


def size_text(size: int) -> str:
    """Bytes in a suitable unit."""
    return _scaled(size, 1024, ("B", "KiB", "MiB", "GiB"))


def flops_text(flops: int) -> str:
    """Operations in a suitable unit; a dash if there are none."""
    return _scaled(flops, 1000, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP")) if flops else "-"


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if value < base:
            return f"{value:.3g} {unit}"
        value /= base
    return f"{value:.3g} {units[-1]}"
