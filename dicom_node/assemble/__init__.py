"""From files in the spool to a decision: ingest, completion, series choice, geometry gate, and a job in the queue.

The rules themselves are pure functions of `dicom_node.dicom`; this room brings them together with spool and ledger.
"""
