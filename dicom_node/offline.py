"""The journey of a series on a folder instead of a network: the same choice, gate, pipeline, writer and label check.

OUT receives the folder `series`, `companions` where the settings ask for any, `job.json` (when and from what it was
made) and `montage.png`. A second run into the same OUT takes the creation time from `job.json` and so writes the same
bytes; into another OUT the UIDs are the same and only the dates differ.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dicom_node.derive.writer import DerivedSeries, DeriveRequest, derive_series
from dicom_node.dicom.choice import SeriesVerdict, choose_series
from dicom_node.dicom.gate import GateOutcome, GateStatus, check_stack
from dicom_node.dicom.pixels import pixel_digest, read_slice_hu
from dicom_node.dicom.reading import open_dataset
from dicom_node.dicom.slices import read_headers
from dicom_node.dicom.values import SliceHeader
from dicom_node.errors import Permanent, Refused
from dicom_node.ledger.durable import durable_write
from dicom_node.ledger.result_file import SynthesisResult
from dicom_node.settings import EligibilitySettings, GeometrySettings, OutputSection, SelectionSettings, Settings
from dicom_node.stages.companions import write_beside

if TYPE_CHECKING:
    from dicom_node.derive.companions.request import CompanionFailure, CompanionSeries
    from jmmda_model.runtime import Runtime

JOB_FILE = "job.json"

#: Called with (step, done, total) as the work goes on.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class OfflineRules:
    """The settings that matter without a network; the defaults are those of node.toml."""

    selection: SelectionSettings = field(default_factory=SelectionSettings)
    geometry: GeometrySettings = field(default_factory=GeometrySettings)
    output: OutputSection = field(default_factory=OutputSection)
    node_id: str = "jmmda-node-1"
    eligibility: EligibilitySettings = field(default_factory=EligibilitySettings)

    @classmethod
    def of(cls, settings: Settings) -> OfflineRules:
        """Take the rules of a node's configuration."""
        return cls(settings.selection, settings.geometry, settings.output, settings.node.node_id, settings.eligibility)


@dataclass(frozen=True, slots=True)
class ScannedFolder:
    """What a folder holds.

    Attributes
    ----------
    studies : Mapping[str, Mapping[str, tuple of SliceHeader]]
        StudyInstanceUID, then SeriesInstanceUID.
    unreadable : Mapping[pathlib.Path, str]
        DICOM files that could not be read, each with the reason.
    other_files : int
        Files that are not DICOM.
    """

    studies: Mapping[str, Mapping[str, tuple[SliceHeader, ...]]]
    unreadable: Mapping[Path, str]
    other_files: int


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """What is to be done with one study, and why.

    Attributes
    ----------
    study_instance_uid : str
    verdicts : tuple of SeriesVerdict
        One per series.
    gate : GateOutcome or None
        Outcome of the geometry gate on the chosen series; None when no series was chosen.
    """

    study_instance_uid: str
    verdicts: tuple[SeriesVerdict, ...]
    gate: GateOutcome | None

    @property
    def chosen(self) -> SeriesVerdict | None:
        """The series to process, if any."""
        return next((verdict for verdict in self.verdicts if verdict.chosen), None)

    def ensure_processable(self) -> GateOutcome:
        """Return the gate's outcome, or say why nothing will be made.

        Raises
        ------
        Refused
            `no_series` when no series suits, else the code of the gate with its figures.
        """
        if self.gate is None:
            raise Refused(
                "no_series", "no series of the study is a head CT that can be processed; see the reasons above"
            )
        if self.gate.status is GateStatus.REFUSE:
            raise Refused(self.gate.code or "geometry", self.gate.reason, self.gate.figures)
        return self.gate


@dataclass(frozen=True, slots=True)
class OfflineResult:
    """One finished series: the derived objects, the synthesis behind them, and what the site wants beside them."""

    plan: StudyPlan
    series: DerivedSeries
    synthesis: SynthesisResult
    folder: Path
    companions: tuple[CompanionSeries | CompanionFailure, ...] = ()


def _files(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
        return
    yield from sorted(path for path in source.rglob("*") if path.is_file())


def _looks_like_dicom(path: Path) -> bool:
    with path.open("rb") as stream:
        head = stream.read(132)
    return head[128:132] == b"DICM"


def scan(source: Path, on_file: Callable[[int], None] = lambda count: None) -> ScannedFolder:
    """Read the headers of every DICOM file below a folder.

    Raises
    ------
    Permanent
        `no_source` when the path does not exist, `no_dicom` when it holds no readable DICOM file.
    """
    if not source.exists():
        raise Permanent("no_source", f"{source} does not exist")
    studies: dict[str, dict[str, list[SliceHeader]]] = defaultdict(lambda: defaultdict(list))
    unreadable: dict[Path, str] = {}
    other = 0
    for count, path in enumerate(_files(source), start=1):
        on_file(count)
        if not _looks_like_dicom(path):
            other += 1
            continue
        try:
            headers = read_headers(path)
        except Permanent as error:
            unreadable[path] = error.reason
            continue
        studies[headers[0].study_instance_uid][headers[0].series_instance_uid].extend(headers)
    if not studies:
        raise Permanent(
            "no_dicom",
            f"{source} holds no readable DICOM file",
            {"other_files": other, "unreadable_files": len(unreadable)},
        )
    return ScannedFolder(
        {study: {uid: tuple(headers) for uid, headers in series.items()} for study, series in studies.items()},
        unreadable,
        other,
    )


def plan_study(study_instance_uid: str, series: Mapping[str, Sequence[SliceHeader]], rules: OfflineRules) -> StudyPlan:
    """Choose the series of a study and send it through the geometry gate; few slices are decoded."""
    today = datetime.now().astimezone().date()
    verdicts = choose_series(series, rules.selection, thresholds=rules.geometry, today=today)
    chosen = next((verdict for verdict in verdicts if verdict.chosen), None)
    gate = None
    if chosen is not None:
        headers = series[chosen.series_instance_uid]
        gate = check_stack(headers, rules.geometry, pixel_digest=pixel_digest, read_slice=read_slice_hu)
    return StudyPlan(study_instance_uid, verdicts, gate)


def _created(out: Path, source_series_uid: str, bundle_sha256: str) -> datetime:
    """Creation time of an earlier run of the same job into the same folder, else now."""
    try:
        record = json.loads((out / JOB_FILE).read_text())
        if (record["source_series_instance_uid"], record["bundle_sha256"]) == (source_series_uid, bundle_sha256):
            return datetime.fromisoformat(record["created"])
    except (FileNotFoundError, KeyError, ValueError):
        pass
    return datetime.now(UTC).replace(microsecond=0)


def _write_job(out: Path, created: datetime, plan: StudyPlan, series: DerivedSeries, bundle_sha256: str) -> None:
    assert plan.chosen is not None
    record = {
        "created": created.isoformat(),
        "study_instance_uid": plan.study_instance_uid,
        "source_series_instance_uid": plan.chosen.series_instance_uid,
        "bundle_sha256": bundle_sha256,
        "input_digest": series.input_digest,
        "series_instance_uid": series.series_instance_uid,
        "instances": [
            {"sop_instance_uid": one.sop_instance_uid, "file": str(one.path.relative_to(out)), "sha256": one.sha256}
            for one in series.instances
        ],
    }
    durable_write(out / JOB_FILE, json.dumps(record, indent=1).encode())


def synthesize_study(
    plan: StudyPlan, runtime: Runtime, rules: OfflineRules, out: Path, progress: Progress
) -> OfflineResult:
    """Make the derived series of one planned study below `out`.

    Parameters
    ----------
    plan : StudyPlan
        From `plan_study`.
    runtime : Runtime
        A loaded model.
    rules : OfflineRules
        Output settings and node id.
    out : pathlib.Path
        Folder that receives the series, `job.json` and `montage.png`; created when missing.
    progress : Progress
        Called as the work goes on.

    Raises
    ------
    Refused
        By the choice, the gate or the brain mask; nothing is written then.
    Permanent
        A file does not decode, or a written instance lacks a mandatory mark.
    """
    from dicom_node.synthesize.facts import bundle_facts
    from dicom_node.synthesize.pipeline import synthesize_series

    gate = plan.ensure_processable()
    assert plan.chosen is not None
    paths = tuple(header.path for header in gate.headers)
    frames = tuple(header.frame_number for header in gate.headers)
    synthesis = synthesize_series(paths, runtime, progress, frames=frames, eligibility=rules.eligibility.model_dump())
    facts = bundle_facts(runtime.bundle)
    out.mkdir(parents=True, exist_ok=True)
    created = _created(out, plan.chosen.series_instance_uid, facts.sha256)
    request = DeriveRequest(
        source_paths=paths,
        pixels=synthesis.pixels,
        mask=synthesis.mask,
        source_slices=synthesis.source_slices,
        bundle=facts,
        output=rules.output,
        node_id=rules.node_id,
        created=rules.output.clock(created),
        notes=(*gate.notes, *synthesis.notes),
        quality_flags=synthesis.quality_flags,
        superseded_series_uid=None,
        source_frames=frames,
    )
    (out / "series").mkdir(exist_ok=True)
    series = derive_series(request, out / "series")
    companions = _write_companions((request, series), synthesis, rules.output, out, gate, runtime)
    _write_job(out, created, plan, series, facts.sha256)
    progress("derive", 1, 1)
    return OfflineResult(plan, series, synthesis, out, companions)


def _write_companions(
    made: tuple[DeriveRequest, DerivedSeries],
    synthesis: SynthesisResult,
    output: OutputSection,
    out: Path,
    gate: GateOutcome,
    runtime: Runtime,
) -> tuple[CompanionSeries | CompanionFailure, ...]:
    """Write the companions into a folder of their own; one that cannot be written costs nothing else."""
    if not output.companions:
        return ()
    folder = out / "companions"
    folder.mkdir(exist_ok=True)
    device = (runtime.device_name, runtime.precision.value)
    return write_beside(made, synthesis, output, folder, gate=gate.status.name.lower(), device=device)


def write_result_montage(result: OfflineResult, name: str = "montage.png") -> Path:
    """Draw CT, brain mask and synthetic DWI of a result into its folder and return the file."""
    from dicom_node.montage import choose_slices, ct_row, mask_row, synthetic_row, write_montage
    from dicom_node.synthesize.pipeline import load_ct_volume

    gate = result.plan.ensure_processable()
    hu = load_ct_volume(gate.headers).hu
    # From the files, so that the picture shows what leaves: watermark included.
    written = np.stack([open_dataset(one.path, pixels=True).pixel_array for one in result.series.instances])
    mask = result.synthesis.mask
    slices = choose_slices([float(area) for area in mask.sum(axis=(1, 2))], 8)
    path = result.folder / name
    write_montage(
        path,
        [ct_row(hu), mask_row(hu, mask), synthetic_row(written)],
        slices,
        title="SYNTHETIC DWI computed from CT - not MR, not for diagnosis",
    )
    return path
