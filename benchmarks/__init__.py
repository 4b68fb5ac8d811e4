"""Side-by-side measurements. `make bench` runs all of them; each module also runs alone with `python -m`."""
