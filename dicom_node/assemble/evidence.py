"""What is known of a series that is being received: from the ledger, the spool, the clock, and its source.

Sources are asked here too, because only here is it known what is missing. They are asked when a series (or the whole
study) has come to rest, so that an archive that forwards while it is being filled is not asked for every image.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.assemble.completion import Counts, Evidence, Slice
from dicom_node.assemble.quiet import QuietClock
from dicom_node.assemble.source import HeldStudy, Inquiry
from dicom_node.dicom.values import SliceHeader, read_header
from dicom_node.errors import Permanent
from dicom_node.ledger.spool import SpoolPaths
from dicom_node.ledger.states import State
from dicom_node.ledger.tables import Association, Series, Study
from dicom_node.settings import IntakeSettings, Peer, Role, SelectionSettings, Settings

#: Rest after which a source is asked, s; a quarter of settle_s where that is shorter.
_REST_S: Final = 0.5


def rest_s(intake: IntakeSettings) -> float:
    """Quiet time after which asking a source makes sense, s."""
    return min(_REST_S, intake.settle_s / 4)


class Witness:
    """Gathers the evidence about series and studies.

    Parameters
    ----------
    paths : SpoolPaths
        Where the files of the series lie.
    quiet : QuietClock
        Tells how long nothing arrived.
    inquiry : Inquiry, optional
        Asks sources; without one nobody is asked.
    """

    def __init__(self, paths: SpoolPaths, quiet: QuietClock, inquiry: Inquiry | None = None) -> None:
        self._paths = paths
        self._quiet = quiet
        self._inquiry = inquiry

    def of_series(self, session: Session, series: Series, settings: Settings) -> Evidence:
        """Gather what is known of a series now, and have its source asked where that would help."""
        instances = series.instances
        quiet_s = self._quiet.series_quiet_s(series)
        candidate = self._is_candidate(series, settings.selection)
        open_now, own_open, interrupted = _associations(session, series)
        if candidate and quiet_s >= (settings.intake.settle_s if own_open else rest_s(settings.intake)):
            self._ask(series, settings, quiet_s)
        return Evidence(
            slices=[Slice(one.offset_mm, one.slice_thickness_mm) for one in instances if one.offset_mm is not None],
            instances=len(instances),
            counts=self._counts(series, settings, quiet_s),
            candidate=candidate,
            association_open=open_now,
            own_association_open=own_open,
            interrupted=interrupted,
            quiet_s=quiet_s,
            age_s=self._quiet.series_age_s(series),
        )

    def told_of(self, series: Series, settings: Settings) -> dict[str, Any]:
        """Return the counts of a series with their origin, as they are kept in the ledger."""
        counts = self._counts(series, settings, self._quiet.series_quiet_s(series))
        told: dict[str, Any] = {"acquisition": counts.acquisition, "header": counts.header}
        held = self._held(series.study, self._peer_of(series, settings))
        if held is not None and counts.source is not None:
            told |= {
                "source": counts.source,
                "peer": held.peer,
                "by": held.series[series.series_instance_uid].by,
            }
        return {key: value for key, value in told.items() if value is not None}

    def is_whole(self, study: Study, settings: Settings) -> bool:
        """Tell whether the source says that every series of the study that could be chosen is here.

        Parameters
        ----------
        study : Study
            None of whose series is being received.
        settings : Settings
            Which modalities can be chosen.
        """
        quiet_s = self._quiet.study_quiet_s(study)
        hopeful = [one for one in study.series if one.state is State.COMPLETE and "not_a_candidate" not in one.signs]
        if not hopeful or quiet_s < rest_s(settings.intake):
            return False
        peer = self._peer_of(hopeful[0], settings)
        held = self._held(study, peer)
        if held is None or held.asked_at < self._quiet.now() - quiet_s:
            self._ask(hopeful[0], settings, quiet_s)
            return False
        here = {one.series_instance_uid: len(one.instances) for one in study.series}
        wanted = {uid: one for uid, one in held.series.items() if one.modality in ("", *settings.selection.modalities)}
        known = all(one.instances is not None and here.get(uid) == one.instances for uid, one in wanted.items())
        return bool(wanted) and known and {one.series_instance_uid for one in hopeful} <= set(wanted)

    def forget(self, study: Study) -> None:
        """Drop what sources said about a study that waits for nothing more."""
        if self._inquiry is not None:
            self._inquiry.forget(study.study_instance_uid)

    def _counts(self, series: Series, settings: Settings, quiet_s: float) -> Counts:
        held = self._held(series.study, self._peer_of(series, settings))
        return Counts(
            acquisition=_largest(one.images_in_acquisition for one in series.instances),
            header=_largest(one.series_related_instances for one in series.instances),
            source=None if held is None else held.instances_of(series.series_instance_uid),
            source_is_fresh=held is not None and held.asked_at >= self._quiet.now() - quiet_s,
        )

    def _held(self, study: Study, peer: Peer | None) -> HeldStudy | None:
        """Return what the peer said; the word of another one that sent some of the study is no word of this."""
        held = self._inquiry.held(study.study_instance_uid) if self._inquiry is not None else None
        return held if held is not None and peer is not None and held.peer == peer.name else None

    def _ask(self, series: Series, settings: Settings, quiet_s: float) -> None:
        """Have the source asked unless it has said since the last arrival that all is here, or said it just now."""
        peer = self._peer_of(series, settings)
        if self._inquiry is None or peer is None:
            return
        since = self._quiet.now() - quiet_s
        held = self._held(series.study, peer)
        if held is not None and held.asked_at >= since:
            agreed = held.instances_of(series.series_instance_uid) == len(series.instances)
            if agreed or self._quiet.now() < held.again_at:
                return
            since = held.again_at
        here = {one.series_instance_uid for one in series.study.series}
        self._inquiry.ask(peer, series.study.study_instance_uid, here, since=since)

    def _peer_of(self, series: Series, settings: Settings) -> Peer | None:
        """Return the peer that sent a series, where it can be asked."""
        peer = settings.peer_of(series.calling_ae, series.host)
        return peer if peer is not None and peer.port is not None and peer.has_role(Role.QUERY) else None

    def _is_candidate(self, series: Series, rules: SelectionSettings) -> bool:
        """Tell from the first instance whether such a series can ever be chosen."""
        if series.modality not in rules.modalities:
            return False
        first = self._paths.series / series.folder / series.instances[0].file_name
        try:
            return not _ruled_out(read_header(first), rules)
        except Permanent:
            # Its file has gone or gone bad: the decision will say so, and there is nothing to wait for.
            return False


def _associations(session: Session, series: Series) -> tuple[bool, bool, bool]:
    """Tell whether the peer has an open association, one that brought some of the series, or broke off."""
    own_keys = {one.association_key for one in series.instances}
    own = list(session.scalars(select(Association).where(Association.key.in_(own_keys)).order_by(Association.id)))
    of_peer = (Association.calling_ae == series.calling_ae, Association.host == series.host)
    open_now = session.scalar(select(Association.id).where(Association.outcome == "open", *of_peer).limit(1))
    interrupted = bool(own) and own[-1].outcome == "aborted"
    if interrupted:
        later = select(Association.id).where(Association.id > own[-1].id, Association.outcome == "closed", *of_peer)
        interrupted = session.scalar(later.limit(1)) is None
    return open_now is not None, any(one.outcome == "open" for one in own), interrupted


def _largest(counts: Iterable[int | None]) -> int | None:
    return max((count for count in counts if count is not None and count > 0), default=None)


def _ruled_out(header: SliceHeader, rules: SelectionSettings) -> bool:
    excluded = {value.upper() for value in rules.exclude_image_type}
    return header.kind.name in ("LOCALIZER", "SCREEN") or bool(excluded & set(header.image_type))
