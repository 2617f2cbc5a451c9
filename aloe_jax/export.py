"""`python -m aloe_jax.export`: the same as `aloe export`."""

from aloe_jax.cli.export import main

if __name__ == "__main__":
    main()
