"""`python -m aloe_jax.evaluate`: the same as `aloe evaluate`."""

from aloe_jax.cli.evaluate import main

if __name__ == "__main__":
    main()
