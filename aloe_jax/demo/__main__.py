"""`python -m aloe_jax.demo`: the same as `aloe demo`."""

from aloe_jax.demo.run import main

if __name__ == "__main__":
    main()
