"""`python -m aloe_jax.rate`: the same as `aloe rate`."""

from aloe_jax.cli.rate import main

if __name__ == "__main__":
    main()
