"""`python -m aloe_jax.salvage`: the same as `aloe salvage`."""

from aloe_jax.cli.salvage import main

if __name__ == "__main__":
    main()
