"""What a training run needs of machines that are not at hand: whether it fits, how fast it can be, what it costs."""
