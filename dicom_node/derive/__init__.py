"""From the pixels of a synthesised series to labelled DICOM files that a PACS files beside the CT.

`writer` is the door: `derive_series(request, folder)`. `sources` reads the CT headers as bytes, `mr_image` holds the
attribute table of the object, `encoding` turns it into bytes. The package itself imports nothing, so that the
request types can be named without loading highdicom.
"""
