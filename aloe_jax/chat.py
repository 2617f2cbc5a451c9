"""`python -m aloe_jax.chat`: the same as `aloe chat`."""

from aloe_jax.cli.chat import main

if __name__ == "__main__":
    main()
