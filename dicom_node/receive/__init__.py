"""The front door: associations, who may call, and the durable spool.

A process of its own (``python -m dicom_node.receive``) that imports pydicom, pynetdicom and the standard library only.
Nothing is imported here; `planning` is for the supervisor's side and the only module that knows the settings.
"""
