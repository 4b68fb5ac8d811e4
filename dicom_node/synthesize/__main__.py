"""`python -m dicom_node.synthesize`: the worker process; see `dicom_node.synthesize.worker`."""

from __future__ import annotations

from dicom_node.synthesize.worker import main

if __name__ == "__main__":
    main()
