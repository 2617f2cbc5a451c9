"""`python -m aloe_jax.tokenizer`: the same as `aloe tokenizer`."""

from aloe_jax.cli.tokenizer import main

if __name__ == "__main__":
    main()
