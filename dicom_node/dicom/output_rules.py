"""Section ``[output]`` of node.toml: what an administrator may choose about the objects the node writes.

The safety texts are not among the choices: a site may add words, never take the mandatory ones away.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, tzinfo
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from dicom_node.dicom.watermark import drawable

#: Longest Series Description: value representation LO, PS3.5 section 6.2.
SERIES_DESCRIPTION_CHARACTERS = 64

#: What an image object may be; `label_facts.OBJECT_CLASSES` gives class and modality.
ObjectKind = Literal["mr", "sc"]


def _check_series_description(value: str) -> str:
    if not value.startswith("SYNTHETIC"):
        raise ValueError("must start with the word SYNTHETIC, because series lists show only the first letters")
    if len(value) > SERIES_DESCRIPTION_CHARACTERS:
        raise ValueError(f"has {len(value)} characters, at most {SERIES_DESCRIPTION_CHARACTERS} are legal")
    if "\\" in value or not all(" " <= character <= "~" for character in value):
        raise ValueError("may hold printable ASCII characters only, and no backslash")
    return value.rstrip(" ")


def _check_watermark_text(value: str) -> str:
    if "SYNTHETIC" not in value or "NOT MR" not in value:
        raise ValueError("must contain the words SYNTHETIC and NOT MR")
    if not drawable(value):
        raise ValueError("may hold upper-case letters, digits, spaces and - . , : / + ( ) only")
    return " ".join(value.split())


def _check_time_zone(value: str) -> str:
    try:
        zone_named(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("must be UTC or a name of the time zone database, such as Europe/Berlin") from None
    return value


def zone_named(name: str) -> tzinfo:
    """Time zone of a name; UTC needs no time zone database.

    Raises
    ------
    ZoneInfoNotFoundError, ValueError, OSError
        When there is no such zone on this machine.
    """
    return UTC if name == "UTC" else ZoneInfo(name)


class OutputSettings(BaseModel):
    """What the synthetic series looks like in the PACS. Every value enters the UIDs: a change makes a new series."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    object: ObjectKind = Field(
        "mr",
        description=(
            "Kind of object, one per CT slice in the CT's frame of reference: mr = MR Image Storage, which every "
            "viewer puts on the CT; sc = Secondary Capture (modality OT), where an MR series in a CT study would set "
            "off routing, billing, hanging or another AI. docs/output.md helps to choose."
        ),
    )
    series_description: Annotated[str, AfterValidator(_check_series_description)] = Field(
        "SYNTHETIC DWI from CT (AI) - NOT MR - RESEARCH",
        description=(
            "Series Description. Must start with SYNTHETIC, at most 64 ASCII characters. Change it when rules of your "
            "PACS react to words in it such as DWI. PHANTOM-TRAINED or UNTRAINED is appended for such model bundles."
        ),
    )
    series_number_offset: int = Field(
        9000,
        ge=1,
        le=1_000_000,
        description="Series Number of a result = this + the CT's Series Number modulo 1000.",
    )
    watermark: bool = Field(
        True,
        description="Draw the warning into the pixels. Leave it on unless every viewer shows the header texts.",
    )
    watermark_text: Annotated[str, AfterValidator(_check_watermark_text)] = Field(
        "SYNTHETIC - NOT MR",
        max_length=40,
        description="Text of the watermark; must contain SYNTHETIC and NOT MR.",
    )

    time_zone: Annotated[str, AfterValidator(_check_time_zone)] = Field(
        "UTC",
        description=(
            "Clock of a result's own dates and times, as a name of the time zone database (Europe/Berlin). A CT that "
            "states its offset from UTC decides for itself."
        ),
    )

    def clock(self, moment: datetime) -> datetime:
        """Give a moment on the clock of the site."""
        return moment.astimezone(zone_named(self.time_zone))

    def fingerprint(self) -> str:
        """SHA-256 (64 hexadecimal digits) over every setting of this class, for the UIDs.

        What a subclass adds does not change the images, so it does not change their names.
        """
        values = self.model_dump(mode="json", include=set(OutputSettings.model_fields))
        canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
