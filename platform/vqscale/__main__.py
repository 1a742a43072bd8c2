"""`python -m vqscale`: the same as the console script, where only the packages travelled (a Ray Job's workers)."""

from vqscale.cli.main import main

if __name__ == "__main__":
    main()
