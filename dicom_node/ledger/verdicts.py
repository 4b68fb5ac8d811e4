"""What the series choice said of every series of a study, as the ledger remembers it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.ledger.tables import Event, Series, Study

__all__ = ["VERDICT_EVENT", "VerdictView", "verdicts_of"]

#: Kind of the events that hold a verdict in their figures.
VERDICT_EVENT: Final = "verdict"


@dataclass(frozen=True, slots=True)
class VerdictView:
    """One series of a study in the table of the choice.

    Attributes
    ----------
    series_instance_uid, state : str
        The series and where it stands.
    code, reason : str or None
        Why it stands there.
    instances : int
        Number of its instances.
    chosen : bool
        It is the one that the study was decided for.
    verdict : Mapping[str, Any] or None
        The newest verdict in the keys of `dicom_node.dicom.choice.SeriesVerdict`; None when it was never judged.
    """

    series_instance_uid: str
    state: str
    code: str | None
    reason: str | None
    instances: int
    chosen: bool
    verdict: Mapping[str, Any] | None


def verdicts_of(session: Session, study: Study) -> list[VerdictView]:
    """Return a row for every series of a study, judged or not."""
    return [
        VerdictView(
            series_instance_uid=series.series_instance_uid,
            state=series.state.value,
            code=series.code,
            reason=series.reason,
            instances=len(series.instances),
            chosen=series.series_instance_uid == study.chosen_series_uid,
            verdict=_newest(session, series),
        )
        for series in study.series
    ]


def _newest(session: Session, series: Series) -> dict[str, Any] | None:
    of_series = (Event.series_id == series.id, Event.kind == VERDICT_EVENT)
    event = session.scalar(select(Event).where(*of_series).order_by(Event.at.desc(), Event.id.desc()).limit(1))
    if event is not None:
        return dict(event.figures)
    if series.verdict_code is None:
        return None
    # Judged by a version that kept code, reason and score only.
    return {
        "series_instance_uid": series.series_instance_uid,
        "eligible": bool(series.score),
        "chosen": False,
        "score": series.score or 0.0,
        "code": series.verdict_code,
        "reason": series.verdict_reason or "",
        "instances": len(series.instances),
    }
