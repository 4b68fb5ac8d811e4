"""JMMDA-GAN: the network, its preprocessing contract, its weight bundles and its runtime.

The package knows neither DICOM nor the node. Importing it is light: torch is loaded only by
:mod:`jmmda_model.network` (except its settings) and :mod:`jmmda_model.runtime`.

The architecture is *our reconstruction* of the method described in the abstract and tables of
"Joint Mask and Multi-Frequency Dual Attention GAN Network for CT-to-DWI Image Synthesis in Acute
Ischemic Stroke" (doi 10.11999/JEIT250643); the authors published no code.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
