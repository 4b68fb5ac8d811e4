"""The one durable record of every study, series, job and delivery.

Two layers live here. `dicom_node.ledger.spool` is the journal on disk: standard library only, because the
receiver imports it. The tables need SQLAlchemy and are imported by whoever needs them, so that importing this
package stays cheap.
"""
