"""config/node.toml as frozen models.

`load_settings` is the only door from a file; it reports every fault as ``FILE:LINE: key: reason``.
"""

from dicom_node.dicom.eligibility_rules import EligibilitySettings
from dicom_node.dicom.rules import GeometrySettings, SelectionSettings
from dicom_node.settings.faults import Fault, SettingsError
from dicom_node.settings.loading import load_settings, parse_settings
from dicom_node.settings.model import Settings
from dicom_node.settings.sections import (
    DeliverySettings,
    IntakeSettings,
    LateSlices,
    LedgerSettings,
    LogLevel,
    ModelSettings,
    NodeSettings,
    OutputSection,
    Peer,
    Precision,
    Role,
    Route,
    WorkersSettings,
)

__all__ = [
    "DeliverySettings",
    "EligibilitySettings",
    "Fault",
    "GeometrySettings",
    "IntakeSettings",
    "LateSlices",
    "LedgerSettings",
    "LogLevel",
    "ModelSettings",
    "NodeSettings",
    "OutputSection",
    "Peer",
    "Precision",
    "Role",
    "Route",
    "SelectionSettings",
    "Settings",
    "SettingsError",
    "WorkersSettings",
    "load_settings",
    "parse_settings",
]
