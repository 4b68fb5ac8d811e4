"""Objects beside the synthetic series, and the answer where there is none.

`writer` is the door: `write_companions(request, folder)` and `write_note(request, folder)`; `request` holds what they
take and give. Each object has a module of its own: `seg` brain mask, `sr` quality report, `pm` expected error, `gsps`
warning, `ko` withdrawal, `note_sr` and `note_sc` for a CT that was not processed. `sources` reads the CT headers,
`frame` holds what all objects share. The package itself imports nothing.
"""
