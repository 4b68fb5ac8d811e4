"""The commands of `jmmda-node`, one module for each group; `dicom_node.cli` puts them together.

Nothing is imported here, so that a light command does not pay for a heavy one.
"""
