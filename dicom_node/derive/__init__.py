"""From the pixels of a synthesised series to labelled DICOM files that a PACS files beside the CT.

`writer` is the door: `derive_series(request, folder)`. `sources` reads the CT headers as bytes, `mr_image` and
`sc_image` are the two kinds of object, `image_common` is what they share, `encoding` turns an object into bytes. The
package itself imports nothing, so that the request types can be named without loading highdicom.
"""
