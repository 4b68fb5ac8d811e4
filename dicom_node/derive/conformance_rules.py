"""What docs/conformance.md says of attributes whose value is not the same in every object.

`conformance_page` reads the others off an object. A test makes series from different CTs, models and settings and fails
where a value differs that has no rule here.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

_CREATED: Final = "time of the job record, on the clock of the CT where it states its offset from UTC, else of the site"

RULES: Final = MappingProxyType(
    {
        "SpecificCharacterSet": "as in the CT, all values; every text of our own is plain ASCII",
        "InstanceCreationDate": _CREATED,
        "InstanceCreationTime": _CREATED,
        "SeriesDate": _CREATED,
        "SeriesTime": _CREATED,
        "ContentDate": _CREATED,
        "ContentTime": _CREATED,
        "DateOfSecondaryCapture": _CREATED,
        "TimeOfSecondaryCapture": _CREATED,
        "TimezoneOffsetFromUTC": "as in the CT where it is an offset; absent where not",
        "SOPInstanceUID": "`2.25.` and a UUID of version 5 over kind, SeriesInstanceUID and source image",
        "SeriesInstanceUID": (
            "`2.25.` and a UUID of version 5 over kind, source series, bundle hash, input digest, settings and texts,"
            " versions of jmmda-node and highdicom, node id"
        ),
        "SeriesNumber": "`output.series_number_offset` + the CT's Series Number modulo 1000",
        "InstanceNumber": "the CT's where all are positive and unique, else 1 to n by position",
        "SeriesDescription": (
            "`output.series_description`, which begins with SYNTHETIC; ` - PHANTOM-TRAINED` or ` - UNTRAINED` is"
            " appended for such bundles"
        ),
        "SoftwareVersions": "version of jmmda-node; name, size and version of the bundle; `model sha256` and 32 digits",
        "SecondaryCaptureDeviceSoftwareVersions": "version of jmmda-node",
        "DeviceSerialNumber": "`node.node_id`",
        "ImageComments": (
            "what the image is not, in plain words, and `Trained on a digital phantom.` or `UNTRAINED network` for such"
            " bundles"
        ),
        "DerivationDescription": (
            "SYNTHETIC, the model with its full SHA-256, training, scale, slab means, the series that is replaced,"
            " notes of gate and mask"
        ),
        "SourceImageSequence": (
            "the CT slice in the same plane first (SpatialLocationsPreserved `YES`), then the other slices that entered"
            " the pixels; purpose (`121322`, `DCM`); ReferencedFrameNumber where the CT is Enhanced CT"
        ),
        "ReferencedSeriesSequence": "the series of the CT with the instances that SourceImageSequence names",
        "ContributingEquipmentSequence": (
            "the scanner (`109101`, `DCM`) as far as the CT names it; the node (`109100`, `DCM`) with versions and the"
            " bundle's full SHA-256 in ContributionDescription; highdicom (`109102`, `DCM`)"
        ),
        "FrameOfReferenceUID": "as in the CT; where missing, a UID made from study and series",
        "PositionReferenceIndicator": "as in the CT, empty where missing",
        "PatientPosition": "as in the CT, empty where missing",
        "BodyPartExamined": "as in the CT, `HEAD` where missing or empty",
        "SliceThickness": "as in the CT, empty where missing",
        "DeidentificationMethod": (
            "as in the CT; `Unknown, inherited from source` where PatientIdentityRemoved is YES and no method is given"
        ),
        "SpacingBetweenSlices": "distance of the planes along their normal where uniform within 0.01 mm, else absent",
        "PatientOrientation": "nearest axes of the patient to row and column direction",
        "Rows": "of the CT",
        "Columns": "of the CT",
        "LossyImageCompression": "`00`, or `01` where the CT was ever compressed with loss",
        "LossyImageCompressionRatio": "as in the CT, or computed from its bytes",
        "LossyImageCompressionMethod": "as in the CT, or from its transfer syntax",
        "PixelData": (
            "0 to 4095 on one fixed scale, zero outside the brain, on the CT's grid; the watermark of"
            " `output.watermark_text` in the corner with least brain over the series"
        ),
    }
)

PRIVATE: Final = (
    ("(0071,0010)", "LO", "`JMMDA-NODE 1.0`"),
    ("(0071,1001)", "LO", "SHA-256 of the bundle"),
    ("(0071,1002)", "LO", "version of jmmda-node"),
    (
        "(0071,1003)",
        "UT",
        "record as JSON: versions, hashes, target, input digest, notes, flags; no patient data",
    ),
)

HEAD: Final = """\
# Conformance: objects

<!-- Written by `make docs` from dicom_node/derive/conformance_page.py and the code it reads; change it there. -->

What the node writes, attribute by attribute, and what it sends and accepts. [output.md](output.md) explains the series
to the people who see it. Modules and types are those of DICOM PS3.3 as highdicom carries them; `extension` marks what
an IOD does not name (the image plane of Secondary Capture is optional there, not an extension). Standard extended SOP
classes (PS3.2 section 3.11): nothing of the standard is redefined.

An attribute that is in no table is never written. Never: any attribute of diffusion (a reader would take the series for
measured), field strength, flip angle, inversion time, RescaleSlope and RescaleIntercept in the MR object.
"""

TAIL: Final = """\
## Bytes

The same input, bundle and settings give the same bytes, on every machine and in every run: UIDs are hashes, every date
and time of our own is that of the job record. Values copied from the CT keep their bytes even where they are illegal;
`jmmda-node series show UID` lists those with the rule they break, without quoting them.
"""
