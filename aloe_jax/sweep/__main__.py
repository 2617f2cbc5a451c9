"""`python -m aloe_jax.sweep`: the same as `aloe sweep`."""

from aloe_jax.cli.sweep import main

if __name__ == "__main__":
    main()
