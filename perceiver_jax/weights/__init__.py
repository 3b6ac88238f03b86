"""Parameters from and to files: native, published, and foreign ones."""
