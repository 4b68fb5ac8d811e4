"""Running the node: logs without patient data, the guard of the spool, the clock, supervised children, requests.

Nothing here knows a stage; what is to be run comes in as a callable that `dicom_node.service` registered.
"""
