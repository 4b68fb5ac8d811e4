"""What a radiologist sees: pictures of OHIF showing CT and synthetic series out of an Orthanc, see docs/viewers.md."""
