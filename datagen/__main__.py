"""`python -m datagen`: the same as `aloe datagen`."""

from datagen.cli.group import main

if __name__ == "__main__":
    main(prog_name="python -m datagen")
