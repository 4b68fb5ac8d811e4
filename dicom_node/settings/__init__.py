"""config/node.toml as frozen models.

`load_settings` is the only door from a file; it reports every fault as ``FILE:LINE: key: reason``.
"""

from dicom_node.dicom.eligibility_rules import EligibilitySettings
from dicom_node.dicom.rules import GeometrySettings, SelectionSettings
from dicom_node.settings.audit import AuditSettings, AuditTo
from dicom_node.settings.faults import Fault, SettingsError
from dicom_node.settings.loading import load_settings, parse_settings
from dicom_node.settings.model import Settings
from dicom_node.settings.peers import Peer
from dicom_node.settings.sections import (
    CommitmentSettings,
    DeliverySettings,
    IntakeSettings,
    LateSlices,
    LedgerSettings,
    LogLevel,
    ModelSettings,
    NodeSettings,
    OutputSection,
    Precision,
    Role,
    Route,
    WorkersSettings,
)
from dicom_node.settings.tls import TlsSettings

__all__ = [
    "AuditSettings",
    "AuditTo",
    "CommitmentSettings",
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
    "TlsSettings",
    "WorkersSettings",
    "load_settings",
    "parse_settings",
]
