"""Where an object comes from, the same for images and companions: patient, scanner, node, model and code scheme."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import highdicom
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from dicom_node.dicom.identity import IDENTITY, TYPE_2_IDENTITY, copy_verbatim
from dicom_node.dicom.labels import CODING_SCHEME, MANUFACTURER, MODEL_NAME, BundleFacts
from dicom_node.dicom.reading import ElementReader
from dicom_node.dicom.uids import application_version

_SCANNER: Final = (
    "Manufacturer",
    "InstitutionName",
    "InstitutionAddress",
    "StationName",
    "InstitutionalDepartmentName",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
)


def ascii_text(text: str) -> str:
    """Text of our own as ASCII without a backslash, since SpecificCharacterSet belongs to the patient's name."""
    return "".join(c if " " <= c <= "~" else "?" for c in " ".join(text.split())).replace("\\", "/")


def software_versions(bundle: BundleFacts | None) -> list[str]:
    """Versions of the node and of the model, where one had a part in it."""
    if bundle is None:
        return [application_version()]
    model = ascii_text(f"model {bundle.name} {bundle.size} {bundle.version}")
    return [application_version(), model[:64].rstrip(), f"model sha256 {bundle.sha256[:32]}"]


def coding_schemes() -> list[CodingSchemeIdentificationItem]:
    """Identification of the project's own codes (PS3.3 C.12.1)."""
    return [
        CodingSchemeIdentificationItem(
            designator=CODING_SCHEME, name="Codes of the jmmda-node project", responsible_organization=MANUFACTURER
        )
    ]


def equipment(
    header: Dataset,
    *,
    purpose: Any,  # noqa: ANN401 - highdicom publishes no types
    bundle: BundleFacts | None,
    node_id: str,
    moment: datetime,
    description: str,
) -> list[Dataset]:
    """Name scanner, node and library, each with its purpose (PS3.3 C.12.1).

    Parameters
    ----------
    header : pydicom.Dataset
        Of the CT.
    purpose : pydicom code
        What the node did: `codes.DCM.SynthesizingEquipment` or `codes.DCM.ProcessingEquipment`.
    bundle : BundleFacts or None
        The model, None where none was run.
    node_id : str
        ``node.node_id``.
    moment : datetime
        Of the contribution.
    description : str
        What was contributed, ASCII.
    """
    when = moment.strftime("%Y%m%d%H%M%S.%f%z")
    node = highdicom.ContributingEquipment(
        manufacturer=MANUFACTURER,
        purpose_of_reference=purpose,
        manufacturer_model_name=MODEL_NAME,
        software_versions=software_versions(bundle),
        device_serial_number=node_id,
        contribution_datetime=when,
        contribution_description=description,
    )
    library = highdicom.ContributingEquipment.for_highdicom()
    library.ContributionDateTime = when
    return [*_scanner(header), node, library]


def _scanner(header: Dataset) -> list[Dataset]:
    """Item for the CT scanner with the bytes of its header, none when the CT does not name its manufacturer."""
    reader = ElementReader(header)
    if not reader.present("Manufacturer"):
        return []
    item = Dataset()
    copy_verbatim(header, item, (name for name in _SCANNER if reader.present(name)))
    item.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.AcquisitionEquipment)]
    acquired = reader.moment("AcquisitionDate", "AcquisitionTime")
    if acquired is not None:
        item.ContributionDateTime = acquired.strftime("%Y%m%d%H%M%S.%f")
    item.ContributionDescription = "Acquisition equipment of the source image(s)"
    return [item]


def set_identity(ds: Dataset, header: Dataset) -> None:
    """Copy patient and study byte by byte; what is missing of type 2 stays present and empty."""
    for keyword in TYPE_2_IDENTITY:
        setattr(ds, keyword, None)
    copy_verbatim(header, ds, IDENTITY)
    reader = ElementReader(header)
    how = ("DeidentificationMethod", "DeidentificationMethodCodeSequence")
    if reader.text("PatientIdentityRemoved") == "YES" and not any(map(reader.present, how)):
        # Type 1C: empty or absent it would be an error of ours that was inherited from the CT.
        ds.DeidentificationMethod = "Unknown, inherited from source"
    if reader.zone() is not None:
        copy_verbatim(header, ds, ("TimezoneOffsetFromUTC",))
    copy_verbatim(header, ds, ("SpecificCharacterSet",))
