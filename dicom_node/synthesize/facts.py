"""What the labels say about a model bundle; torch-free, so that any room may ask."""

from __future__ import annotations

from dicom_node.dicom.labels import BundleFacts
from jmmda_model import __version__ as model_version
from jmmda_model.bundle import Bundle


def bundle_facts(bundle: Bundle) -> BundleFacts:
    """Facts of a loaded bundle, in the form that the writer and the label check take."""
    return BundleFacts(
        name=bundle.card.name,
        sha256=bundle.sha256,
        weights_sha256=bundle.card.sha256,
        is_phantom=bundle.is_phantom,
        trained=bundle.card.trained,
        size=bundle.card.size,
        version=model_version,
    )
