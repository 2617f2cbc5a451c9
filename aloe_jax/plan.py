"""`python -m aloe_jax.plan`: the same as `aloe plan`."""

from aloe_jax.cli.plan import main

if __name__ == "__main__":
    main()
