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
pixels     stored values to Hounsfield units, for every transfer syntax
========== ====================================================================================================
"""
