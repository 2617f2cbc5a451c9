"""`python -m aloe_jax`: the same as `aloe`."""

from aloe_jax.cli.main import main

if __name__ == "__main__":
    main(prog_name="python -m aloe_jax")
