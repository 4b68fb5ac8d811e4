"""How good the brain mask is: phantoms of every centre, of every hard case we could draw, and public scans.

    python -m benchmarks.mask [--json FILE] [--pictures DIR] [--only WORD ...] [--time]

Needs the phantom (`train`); the public scans are those below the folder that JMMDA_TEST_DATA names. CPU seconds are
those of one process whose libraries use one thread. "Visible" is the truth below 120 HU after smoothing by 0.6 mm: what
partial volume with bone hides no mask can find. Phantom figures say nothing about patients.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.mask_cases import Case, phantom_cases, real_cases
from benchmarks.mask_heads import Head, scan_head
from benchmarks.mask_scores import dice, surface_distance_mm, visible
from jmmda_model.imaging import BrainMask, CtVolume, brain_mask

GOAL_CPU_S = 0.5
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Row:
    """Figures of one case; NaN where there is no truth to compare with.

    Attributes
    ----------
    name, group
        Of the case.
    dice, dice_visible
        Overlap with the whole truth and with its visible part.
    distance_mm
        95 % of the distances between the outlines of mask and visible part.
    volume_ml, volume_error
        Volume of the mask, and its relative difference from that of the visible part.
    cpu_s
        Process CPU seconds.
    flags
        What the mask says of itself.
    """

    name: str
    group: str
    dice: float
    dice_visible: float
    distance_mm: float
    volume_ml: float
    volume_error: float
    cpu_s: float
    flags: tuple[str, ...]


def measure(case: Case, head: Head) -> tuple[Row, BrainMask]:
    """Find the brain of one case and compare."""
    start = time.process_time()
    found = brain_mask(head.volume)
    cpu_s = time.process_time() - start
    nan = float("nan")
    if head.brain is None:
        return Row(case.name, case.group, nan, nan, nan, found.volume_ml, nan, cpu_s, found.flags), found
    seen = visible(head.volume, head.brain)
    row = Row(
        name=case.name,
        group=case.group,
        dice=dice(found.mask, head.brain),
        dice_visible=dice(found.mask, seen),
        distance_mm=surface_distance_mm(head.volume, found.mask, seen),
        volume_ml=found.volume_ml,
        volume_error=found.volume_ml / head.volume.volume_ml(seen) - 1,
        cpu_s=cpu_s,
        flags=found.flags,
    )
    return row, found


def cpu_seconds(volume: CtVolume, rounds: int = ROUNDS) -> float:
    """Return the median process CPU seconds of the mask with one thread."""
    import cv2

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        brain_mask(volume)  # the first call also loads libraries
        seconds = []
        for _ in range(rounds):
            start = time.process_time()
            brain_mask(volume)
            seconds.append(time.process_time() - start)
    finally:
        cv2.setNumThreads(threads)
    return statistics.median(seconds)


def time_of_32_slices() -> dict[str, float]:
    """Measure the goal: 32 slices of 512 x 512, phantom."""
    head = scan_head(7, "A", matrix=512, n_slices=32)
    return {"cpu_s": cpu_seconds(head.volume), "goal_s": GOAL_CPU_S, "rounds": ROUNDS}


def time_line(figures: dict[str, float]) -> str:
    """Return that measurement as one line."""
    return (
        f"brain mask, 32 slices of 512 x 512 (phantom), one thread, median of {figures['rounds']:.0f}: "
        f"{figures['cpu_s']:.3f} CPU s (goal: under {figures['goal_s']})"
    )


def tables(rows: list[Row]) -> str:
    """Return one Markdown table for each group."""
    lines = []
    for group in dict.fromkeys(row.group for row in rows):
        lines.append(f"\n{group}\n")
        lines.append("| case | Dice | visible part | 95 % distance mm | volume ml (error) | CPU s | flags |")
        lines.append("| --- | --- | --- | --- | --- | --- | --- |")
        lines += [_line(row) for row in rows if row.group == group]
    return "\n".join(lines)


def _line(row: Row) -> str:
    flags = ", ".join(f"`{flag}`" for flag in row.flags)
    if row.dice != row.dice:  # no truth
        return f"| {row.name} | | | | | {row.cpu_s:.2f} | {flags} |"
    return (
        f"| {row.name} | {row.dice:.3f} | {row.dice_visible:.3f} | {row.distance_mm:.1f} "
        f"| {row.volume_ml:.0f} ({row.volume_error:+.1%}) | {row.cpu_s:.2f} | {flags} |"
    )


def _plain(row: Row) -> dict[str, object]:
    """Return a row for JSON, which knows no NaN."""
    return {name: None if value != value else value for name, value in asdict(row).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--pictures", type=Path, help="write the pictures of docs/mask.md to this folder")
    parser.add_argument("--only", nargs="+", help="cases whose name contains one of these words")
    parser.add_argument("--time", action="store_true", help="measure the time of 32 slices and nothing else")
    arguments = parser.parse_args()
    timed = time_of_32_slices()
    rows: list[Row] = []
    cases = [] if arguments.time else [*phantom_cases(), *real_cases()]
    for case in cases:
        if arguments.only and not any(word in case.name for word in arguments.only):
            continue
        head = case.make()
        row, found = measure(case, head)
        rows.append(row)
        if arguments.pictures:
            from benchmarks.mask_pictures import draw_case

            draw_case(case.name, head, found, arguments.pictures)
    if arguments.pictures and not arguments.only:
        from benchmarks.mask_pictures import draw_steps

        draw_steps(arguments.pictures)
    if rows:
        print(tables(rows) + "\n")
    print(time_line(timed))
    if arguments.json:
        arguments.json.write_text(json.dumps({"time": timed, "cases": [_plain(row) for row in rows]}, indent=1))


if __name__ == "__main__":
    main()
