"""`python -m aloe_jax.train`: the same as `aloe train`."""

from aloe_jax.cli.train import main

if __name__ == "__main__":
    main()
