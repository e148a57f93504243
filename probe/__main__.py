"""`python -m probe`, the same as the console script."""

from probe.cli import main

if __name__ == "__main__":
    main()
