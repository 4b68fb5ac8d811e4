"""Values and pure rules of DICOM: geometry, gate, choice, pixels to HU, identity, UIDs and the label rules.

Nothing here opens a connection, writes a file or knows another room. The package itself imports nothing, so that
the receiver can use one module of it without paying for the others.

========== ====================================================================================================
module     what it answers
========== ====================================================================================================
reading    how to read an element that may be dirty, without a value ever reaching a log line
values     `SliceHeader`: what the node wants to know of one instance, and `read_header`
rules      the thresholds of the gate and of the choice, as they stand in ``node.toml``
geometry   normals, offsets and spacing from ImagePositionPatient and ImageOrientationPatient alone
gate       may this stack be processed? pass, note, repair or refuse, with numbers
choice     which series of the study is processed, and why not each other
slices     the slices of an instance: itself, or the frames of Enhanced CT
enhanced   a frame of Enhanced CT as the classic slice that it would have been
stored     stored values of a frame, for every transfer syntax and sign
pixels     Hounsfield units: rescale and padding of each slice, volumes, digests
charsets   text of every character set, decoded where it fits and never a reason to stop
identity   elements copied byte by byte
========== ====================================================================================================
"""
