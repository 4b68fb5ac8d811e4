"""The network half of docs/conformance.md: contexts proposed and accepted, and what a configuration adds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from dicom_node.dicom.companion_labels import CLASSES
from dicom_node.dicom.labels import OBJECT_CLASSES
from dicom_node.net.contexts import CT_CLASSES, STORAGE_CLASSES, accepted_syntaxes
from dicom_node.net.retrieve import get_contexts
from dicom_node.net.scu import contexts_for
from dicom_node.settings import Peer, Role, Settings

PUSH_MODEL = str(StorageCommitmentPushModel)


def sent() -> str:
    """Say which contexts are proposed, and for what."""
    classes = [*(one.sop_class_uid for one in OBJECT_CLASSES.values()), *(uid for uid, _ in CLASSES.values())]
    needs = [(uid, str(ExplicitVRLittleEndian)) for uid in dict.fromkeys(classes)]
    rows = (
        (UID(context.abstract_syntax).name, _syntax(str(context.transfer_syntax[0])))
        for need in needs
        for context in contexts_for([need])
    )
    return (
        "Objects are written in Explicit VR Little Endian and leave as these bytes. Only the class of what is being"
        " sent is proposed, one presentation context for each transfer syntax; a peer that takes Implicit VR alone gets"
        " the same object in it.\n\n"
        + table(("SOP class (SCU)", "transfer syntax"), rows)
        + "\nTo ask and to fetch:\n\n"
        + table(("SOP class (SCU)", "UID", "for"), _verbs())
        + f"\nA C-GET proposes {len(get_contexts())} contexts: the verb, and storage classes in the SCP role, CT in"
        " every transfer syntax below. With `dicomweb_url` results go by STOW-RS (PS3.18 section 10.5), one instance"
        " a request.\n"
        + f"\nStorage Commitment Push Model (`{PUSH_MODEL}`) is proposed on associations of its own: as SCU to the peer"
        " that confirms results (N-ACTION), and with the SCP role for reports to a peer that asked us (N-EVENT-REPORT)."
        " [commitment.md](commitment.md).\n"
    )


def _verbs() -> Iterable[tuple[str, str, str]]:
    purposes = {
        Verification: "commands `echo` and `doctor`",
        StudyRootQueryRetrieveInformationModelFind: "completion of a series; command `pull`",
        StudyRootQueryRetrieveInformationModelMove: "command `pull`",
        StudyRootQueryRetrieveInformationModelGet: "command `pull` with `--get`",
    }
    return ((UID(uid).name, f"`{uid}`", purpose) for uid, purpose in purposes.items())


def accepted() -> str:
    """Say which contexts the receiver accepts."""
    ct = sorted(CT_CLASSES)
    other = next(one for one in sorted(STORAGE_CLASSES) if one not in CT_CLASSES)
    beyond = [one for one in accepted_syntaxes(other) if one not in accepted_syntaxes(ct[0])]
    return (
        f"Verification, and {len(STORAGE_CLASSES)} Storage SOP classes (all of PS3.4 section B.5 that the library"
        " knows); the requestor's order of transfer syntaxes decides. These are processed, all others are stored"
        " only:\n\n"
        + table(("SOP class (SCP)", "UID"), _named(ct))
        + "\nTransfer syntaxes for them:\n\n"
        + "".join(f"- {_syntax(one)}\n" for one in accepted_syntaxes(ct[0]))
        + "\nFor the other classes also:\n\n"
        + "".join(f"- {_syntax(one)}\n" for one in beyond)
        + "\nStorage Commitment Push Model, in either role (SCP/SCU role selection is answered, and not demanded), from"
        " peers with role source (their requests) or commitment (their reports), in "
        + ", ".join(UID(one).name for one in accepted_syntaxes(PUSH_MODEL))
        + ".\n\nThe other classes:\n\n"
        + table(
            ("SOP class (SCP)", "UID"), _named([str(Verification), PUSH_MODEL, *sorted(STORAGE_CLASSES - CT_CLASSES)])
        )
    )


def this_node(settings: Settings) -> str:
    """Describe what the settings say of the network: ourselves, and every peer with the services used towards it."""
    node, tls = settings.node, settings.tls
    ours = [
        ("AE title", f"`{node.ae_title}`"),
        ("listens on", f"{node.host}, port {node.port}" + ("" if tls.port is None else f"; TLS on port {tls.port}")),
        ("associations at once", f"{node.max_associations} for each of {settings.workers.receivers} processes"),
        ("largest PDU asked for", f"{node.max_pdu_bytes} bytes"),
        ("time-outs", f"{node.acse_timeout_s:g} s for a request, {node.network_timeout_s:g} s of silence"),
        ("result", UID(OBJECT_CLASSES[settings.output.object].sop_class_uid).name),
        ("companions", ", ".join(settings.output.companions) or "none"),
        ("note about a refusal", settings.output.not_processed_note.value),
    ]
    peers = [
        (
            one.name,
            ", ".join(f"`{title}`" for title in one.ae_titles) or "-",
            ", ".join(one.origins),
            "-" if one.port is None else str(one.port),
            "yes" if one.tls else "no",
            "; ".join(_services(one)),
        )
        for one in settings.peers
    ]
    return (
        table(("what", "value"), ours) + "\n" + table(("peer", "AE titles", "hosts", "port", "TLS", "services"), peers)
    )


def _services(peer: Peer) -> Iterable[str]:
    if peer.has_role(Role.SOURCE):
        yield "it stores here, and may ask for storage commitment (we are SCP)"
    if peer.has_role(Role.DESTINATION):
        yield "results go there by " + ("C-STORE (SCU)" if peer.web is None else "STOW-RS")
    if peer.has_role(Role.QUERY):
        yield "asked by C-FIND; `jmmda-node pull` fetches by C-MOVE or C-GET (SCU)"
    if peer.has_role(Role.COMMITMENT):
        yield "asked for storage commitment (SCU)"


def _named(uids: Iterable[str]) -> Iterable[tuple[str, str]]:
    return ((UID(one).name, f"`{one}`") for one in uids)


def _syntax(uid: str) -> str:
    return f"{UID(uid).name} (`{uid}`)"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
