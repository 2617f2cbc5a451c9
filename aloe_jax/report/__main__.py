"""`python -m aloe_jax.report`: the same as `aloe report`."""

from aloe_jax.cli.report import main

if __name__ == "__main__":
    main()
