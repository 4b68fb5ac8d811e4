"""A miniature PACS: a Storage and Verification SCP that files what it gets by series.

It runs as its own process (`python -m dicom_node.demo.pacs`), so that the demonstration talks to the node as a real
PACS does: over associations only. Received files land in ``FOLDER/<SeriesInstanceUID>/<SOPInstanceUID>.dcm``; phantom
data only, hence UIDs as names.
"""

from __future__ import annotations

import argparse
import logging
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification

from dicom_node.errors import dimse_status

logger = logging.getLogger(__name__)


def _file_instance(event: evt.Event, folder: Path) -> int:
    """Write one instance below `folder` and answer with the status of that."""
    try:
        ds: Dataset = event.dataset
        ds.file_meta = event.file_meta
        target = folder / str(ds.SeriesInstanceUID)
        target.mkdir(parents=True, exist_ok=True)
        part = target / f"{ds.SOPInstanceUID}.part"
        dcmwrite(part, ds, enforce_file_format=True)
        part.rename(target / f"{ds.SOPInstanceUID}.dcm")
    except OSError as error:
        logger.error("cannot store: %s", type(error).__name__)
        return dimse_status(error)
    return dimse_status(None)


def serve(ae_title: str, port: int, folder: Path) -> None:
    """Answer C-ECHO and C-STORE on the loopback interface until SIGTERM or SIGINT."""
    ae = AE(ae_title=ae_title)
    ae.add_supported_context(Verification)
    for context in AllStoragePresentationContexts:
        ae.add_supported_context(context.abstract_syntax or "")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = ae.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, _file_instance, [folder])]
    )
    stop.wait()
    server.shutdown()


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m dicom_node.demo.pacs", description=__doc__)
    parser.add_argument("--ae-title", default="MINIPACS")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where received series go")
    arguments = parser.parse_args(argv)
    serve(arguments.ae_title, arguments.port, arguments.folder)


if __name__ == "__main__":
    main()
