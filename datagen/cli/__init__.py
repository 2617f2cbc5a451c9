"""The commands of `python -m datagen`, a file each."""
