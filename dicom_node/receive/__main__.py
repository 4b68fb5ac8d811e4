"""Entry point of the receiver process; the supervisor starts it."""

import sys

from dicom_node.receive.server import main

if __name__ == "__main__":
    sys.exit(main())
