"""`python -m benchmarks.viewer`."""

from benchmarks.viewer.pictures import main

if __name__ == "__main__":
    main()
