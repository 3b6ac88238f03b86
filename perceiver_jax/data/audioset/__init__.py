"""AudioSet: its lists and clips prepared for TFDS, and what is made of them."""
